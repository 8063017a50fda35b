"""Tables imported one at a time: in any order, no id is lost and none is both a case and excluded."""

import json
import multiprocessing
from itertools import permutations

import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.cohort_files import (
    WITHOUT_LABEL,
    cohort_folder,
    exclusions,
    read_cases,
    read_dropped,
    read_source,
    update_cohort,
)
from survq.data.location import Location
from survq.data.problems import DataError
from survq.data.tables import NEITHER, read_tables
from survq.data.write import write_features

FACTS = {"rule": "unchanged"}


@pytest.fixture
def folder(tmp_path) -> Location:
    return Location.at(tmp_path / "data" / "TINY")


def put(folder: Location, small: dict, part: str) -> None:
    match part:
        case "labels":
            update_cohort(folder, {part: FACTS}, cases=small["cases"], dropped={"CASE-99": "no time"})
        case "features":
            write_features(folder / "features", small["slides"])
            update_cohort(folder, {part: FACTS})
        case _:
            update_cohort(folder, {part: FACTS}, **{part: small[part]})


def check_records(folder: Location) -> None:
    tables, problems = read_tables(folder)
    assert not problems
    inputs = set() if tables.expression is None else set(tables.expression["case_id"])
    inputs |= set(tables.slides["case_id"])
    both = set(tables.cases["case_id"]) & set(tables.dropped["case_id"])
    assert both == (set(tables.cases["case_id"]) - inputs if inputs else set())
    assert tables.dropped["case_id"].is_unique


@pytest.mark.parametrize("order", permutations(["labels", "expression", "splits", "features"]), ids="-".join)
def test_every_order_ends_in_the_same_cohort(folder, small, order, tree, tmp_path):
    small["cases"] = small["cases"].drop(index=["CASE-05", "CASE-07"])
    for part in order:
        before = tree(tmp_path)
        if part in ("expression", "splits") and order.index(part) < order.index("labels"):
            with pytest.raises(DataError, match="labels define the cases"):
                read_cases(folder)  # as their imports do
            assert tree(tmp_path) == before
            return
        put(folder, small, part)
        if (folder / "cases.parquet").is_file():
            check_records(folder)
    dropped = read_dropped(folder)
    assert dropped.pop("CASE-99") == "no time"
    assert list(dropped) == ["CASE-05", "CASE-07"]
    assert set(dropped.values()) <= {
        "expression without a label",
        "slides without a label",
        "in the splits without a label",
    }
    assert set(read_source(folder)) == set(order)
    cohort = Cohort.load(tmp_path / "data", "TINY")
    assert len(cohort.cases) == 22
    assert cohort.modalities == ("histology", "genomics")


def test_features_may_come_before_the_labels(folder, small):
    put(folder, small, "features")
    assert set(read_dropped(folder).values()) == {"slides without a label"}
    put(folder, small, "labels")
    without_slides = dict.fromkeys(["CASE-00", "CASE-01"], NEITHER)
    assert read_dropped(folder) == {"CASE-99": "no time", **without_slides}
    check_records(folder)


def test_new_labels_keep_the_other_tables_and_update_dropped(folder, small):
    for part in ("labels", "expression", "splits", "features"):
        put(folder, small, part)
    fewer = small["cases"].drop(index=["CASE-05", "CASE-06"])
    update_cohort(folder, {"labels": FACTS}, cases=fewer, dropped={"CASE-05": "redacted"})
    check_records(folder)
    assert read_dropped(folder) == {"CASE-05": "redacted", "CASE-06": "expression without a label"}
    tables, _ = read_tables(folder)
    assert len(tables.expression) == 23
    assert len(tables.slides) == len(small["slides"])
    put(folder, small, "labels")
    assert read_dropped(folder) == {"CASE-99": "no time"}
    check_records(folder)


def test_unlabelled_ids_stay_listed_until_their_part_is_imported_again(folder, small):
    put(folder, small, "labels")
    unlabelled = {"expression": ["CASE-77", "CASE-99", "CASE-01"]}
    update_cohort(folder, {"expression": FACTS}, expression=small["expression"], unlabelled=unlabelled)
    # of two reasons, the labels' counts
    expected = {"CASE-77": "expression without a label", "CASE-99": "no time", "CASE-23": NEITHER}
    assert read_dropped(folder) == expected
    put(folder, small, "splits")
    put(folder, small, "labels")
    assert read_dropped(folder) == expected
    put(folder, small, "expression")
    assert read_dropped(folder) == {"CASE-99": "no time", "CASE-23": NEITHER}


def test_repeated_imports_give_the_same_bits(folder, small, tree, tmp_path):
    for part in ("labels", "expression", "splits"):
        put(folder, small, part)
    before = tree(tmp_path)
    for part in ("labels", "splits", "expression"):
        put(folder, small, part)
    assert tree(tmp_path) == before


def test_all_problems_are_listed_and_nothing_is_written(folder, small, tree, tmp_path):
    put(folder, small, "labels")
    before = tree(tmp_path)
    small["cases"].loc["CASE-03", "time"] = 0
    small["expression"].loc["CASE-04", "B"] = float("nan")
    splits = pd.concat([small["splits"], small["splits"].head(1)])
    with pytest.raises(DataError) as error:
        update_cohort(folder, {}, cases=small["cases"], expression=small["expression"], splits=splits)
    assert len(error.value.problems) == 3
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../x", "a b", "", ".hidden", "a/b", "/etc", "\n"])
def test_the_name_of_a_cohort_cannot_be_a_path(tmp_path, name):
    with pytest.raises(DataError, match="cannot be the name of a cohort"):
        cohort_folder(tmp_path, name)
    assert cohort_folder(tmp_path, "BRCA").path == f"{tmp_path}/BRCA"


def _list(path: str, number: int) -> None:
    unlabelled = {"expression": [f"OTHER-{number}"]}
    update_cohort(Location.at(path), {f"import {number}": FACTS}, unlabelled=unlabelled)


def test_concurrent_imports_do_not_overwrite_each_other(folder, small):
    put(folder, small, "labels")
    spawn = multiprocessing.get_context("fork")
    processes = [spawn.Process(target=_list, args=(folder.path, number)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(read_dropped(folder)) == 7
    assert set(read_source(folder)) == {"labels", *(f"import {number}" for number in range(6))}


@pytest.mark.parametrize("file", ["source.json", "dropped.csv", "expression.parquet"])
def test_damaged_files_are_named_and_left_unchanged(folder, small, file, tree, tmp_path):
    for part in ("labels", "expression"):
        put(folder, small, part)
    (tmp_path / "data" / "TINY" / file).write_bytes(b"\xff{")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=file):
        put(folder, small, "splits")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("other", [{"layout": "SurvPath"}, [], "text", None])
def test_a_source_json_of_another_form_is_replaced(folder, small, other):
    put(folder, small, "labels")
    (folder / "source.json").write(json.dumps(other).encode())
    put(folder, small, "expression")
    assert read_source(folder) == {"expression": FACTS}


EXPRESSION, SPLITS, SLIDES = WITHOUT_LABEL.values()
RULES = {
    "nothing": ({}, {}),
    "excluded by the labels": ({"by_labels": {"X": "redacted"}, "renewed": ["labels"]}, {"X": "redacted"}),
    "labels take precedence": (
        {
            "by_labels": {"X": "redacted"},
            "previous": {"X": EXPRESSION},
            "unlabelled": {"expression": "X"},
            "written": {"features": "X"},
            "renewed": ["labels"],
        },
        {"X": "redacted"},
    ),
    "then a previous reason": (
        {"previous": {"X": "no time"}, "unlabelled": {"expression": "X"}, "renewed": ["expression"]},
        {"X": "no time"},
    ),
    "a previous reason of another part": (
        {"previous": {"X": SLIDES}, "unlabelled": {"expression": "X"}, "renewed": ["expression"]},
        {"X": SLIDES},
    ),
    "then unlabelled ids": (
        {"unlabelled": {"features": "X"}, "written": {"expression": "X"}, "renewed": ["features"]},
        {"X": SLIDES},
    ),
    "of several unlabelled parts the first": (
        {"unlabelled": {"features": "X", "expression": "X"}, "renewed": ["features", "expression"]},
        {"X": SLIDES},
    ),
    "then written ids": ({"written": {"splits": "X"}}, {"X": SPLITS}),
    "of several tables the first": (
        {"written": {"expression": "X", "splits": "X", "features": "X"}},
        {"X": EXPRESSION},
    ),
    "new labels replace reasons of old labels": ({"previous": {"X": "no time"}, "renewed": ["labels"]}, {}),
    "new labels keep reasons of other parts": ({"previous": {"X": SLIDES}, "renewed": ["labels"]}, {"X": SLIDES}),
    "a new part replaces its own reasons": (
        {"previous": {"X": SLIDES, "Y": SPLITS}, "renewed": ["features"]},
        {"Y": SPLITS},
    ),
    "a replaced reason gives way to another": (
        {"previous": {"X": SLIDES}, "written": {"splits": "X"}, "renewed": ["features"]},
        {"X": SPLITS},
    ),
    "cases are not excluded": (
        {
            "known": "A",
            "by_labels": {"A": "redacted"},
            "previous": {"A": SLIDES},
            "unlabelled": {"features": "A"},
            "written": {"splits": "A"},
        },
        {},
    ),
    "unless they have neither slides nor expression": (
        {"known": "ABC", "written": {"expression": "A", "features": "B"}},
        {"C": NEITHER},
    ),
    "splits do not count as input": ({"known": "AB", "written": {"expression": "A", "splits": "B"}}, {"B": NEITHER}),
    "unless no id has either": ({"known": "AB", "written": {"splits": "A"}}, {}),
    "ids that are not cases count too": ({"known": "A", "written": {"features": "X"}}, {"A": NEITHER, "X": SLIDES}),
    "until they get either": ({"known": "A", "previous": {"A": NEITHER}, "written": {"features": "A"}}, {}),
}


@pytest.mark.parametrize(("given", "expected"), RULES.values(), ids=RULES.keys())
def test_exclusions(given, expected):
    nothing = {"known": (), "by_labels": {}, "previous": {}, "unlabelled": {}, "renewed": ()}
    written = {"expression": (), "splits": (), "features": ()} | given.get("written", {})
    assert exclusions(**{**nothing, **given, "written": written}) == expected
