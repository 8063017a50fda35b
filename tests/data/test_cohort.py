"""A cohort is read as it was written and joined by case id, or refused with all problems."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.batch import Preprocessing
from survq.data.cohort import Cohort, cohort_names
from survq.data.folds import Fold
from survq.data.gene_sets import GeneSets
from survq.data.problems import DataError
from survq.data.write import Slide, write_cohort


def test_round_trip(tmp_path, small):
    write_cohort(tmp_path / "data", "TINY", **small)
    cohort = Cohort.load(tmp_path / "data", "TINY")
    pd.testing.assert_frame_equal(cohort.cases, small["cases"])
    pd.testing.assert_frame_equal(cohort.expression, small["expression"], check_names=False)
    pd.testing.assert_frame_equal(cohort.dropped, small["dropped"])
    pd.testing.assert_frame_equal(cohort.splits, small["splits"])
    pathways = small["gene_sets"]["pathways"]
    assert cohort.pathways == GeneSets(pathways.names[:2], pathways.genes[:2])
    assert cohort.gene_sets == {"pathways": cohort.pathways, "groups": GeneSets(("half",), (("B", "H"),))}
    assert cohort.spec.gene_sets == {"pathways": ((0, 1, 2), (3,)), "groups": ((1, 7),)}
    assert cohort.spec.pathways == ((0, 1, 2), (3,))
    assert (cohort.spec.patch_features, cohort.spec.genes) == (16, 8)
    assert list(cohort.cases.index[~cohort.has_slides]) == ["CASE-00", "CASE-01"]
    assert list(cohort.cases.index[~cohort.has_expression]) == ["CASE-23"]
    assert cohort.modalities == ("histology", "genomics")
    assert cohort_names(tmp_path / "data") == ["TINY"]
    assert "24 cases, 12 events, 33 slides" in cohort.summary()
    assert "2 cases without slides" in cohort.summary()
    assert "8 genes, 2 of 3 pathways, 1 of 2 groups, 1 cases without expression" in cohort.summary()


def test_tables_are_joined_by_case_id_and_not_by_position(tmp_path, small):
    write_cohort(tmp_path, "A", **small)
    shuffled = small | {
        "cases": small["cases"].sample(frac=1, random_state=1),
        "expression": small["expression"].sample(frac=1, random_state=2),
        "slides": [small["slides"][i] for i in np.random.default_rng(3).permutation(len(small["slides"]))],
        "splits": small["splits"].sample(frac=1, random_state=4),
    }
    write_cohort(tmp_path, "B", **shuffled)
    one, other = Cohort.load(tmp_path, "A"), Cohort.load(tmp_path, "B")
    pd.testing.assert_frame_equal(one.cases, other.cases)
    pd.testing.assert_frame_equal(one.expression, other.expression)
    kept = ["slide_id", "case_id", "patches", "sha256"]
    pd.testing.assert_frame_equal(one.slides[kept], other.slides[kept])
    assert one.parts == other.parts


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("time", {"cases"}),
        ("event", {"cases"}),
        ("site", set()),
        ("a new column of labels", set()),
        ("ages", {"clinical"}),
        ("splits", set()),
        ("a value of expression", {"expression"}),
        ("a gene of no set", {"expression"}),
        ("an unmeasured gene of a set", {"gene set groups"}),
        ("an unmeasured set", set()),
        ("another collection", {"gene set more"}),
        ("features", {"features"}),
        ("a slide more", {"features"}),
    ],
)
def test_a_change_affects_the_hashes_of_its_parts_only(tmp_path, small, change, parts):
    write_cohort(tmp_path / "before", "X", **small)
    case = small["cases"].index[5]
    slide = small["slides"][0]
    match change:
        case "time" | "event" | "site":
            small["cases"].loc[case, change] = {"time": 9.25, "event": True, "site": "S9"}[change]
        case "a new column of labels":
            small["cases"]["grade"] = 2
        case "ages":
            small["cases"]["age"] = np.arange(24.0) + 40
        case "splits":
            small["splits"]["fold"] = (small["splits"]["fold"] + 1) % 3
        case "a value of expression":
            small["expression"].loc[case, "A"] += 0.01
        case "a gene of no set":
            small["expression"]["new"] = np.float32(1)
        case "an unmeasured gene of a set":
            small["gene_sets"]["groups"] = GeneSets(("half", "unmeasured"), (("B", "H", "Y", "C"), ("Z",)))
        case "an unmeasured set":
            small["gene_sets"]["groups"] = GeneSets(("half",), (("B", "H", "X", "Y"),))
        case "another collection":
            small["gene_sets"]["more"] = GeneSets(("one",), (("A",),))
        case "features":
            features = slide.features.copy()
            features[0, 0] += 1
            small["slides"][0] = replace(slide, features=features)
        case "a slide more":
            small["slides"].append(replace(slide, slide_id=f"{slide.slide_id}-more"))
    write_cohort(tmp_path / "after", "X", **small)
    before, after = (Cohort.load(tmp_path / folder, "X").parts for folder in ("before", "after"))
    assert {part for part in before | after if before.get(part) != after.get(part)} == parts
    assert set(before) == {"cases", "expression", "features", "gene set pathways", "gene set groups", "clinical"}
    assert all(len(digest) == 64 for digest in before.values())


@pytest.mark.parametrize("lacking", ["expression", "slides", "splits", "dropped", "gene_sets"])
def test_parts_may_be_missing(tmp_path, small, lacking):
    del small[lacking]
    write_cohort(tmp_path, "X", **small)
    cohort = Cohort.load(tmp_path, "X")
    # CASE-23 has slides only, CASE-00 and CASE-01 have expression only
    assert len(cohort.cases) == {"expression": 22, "slides": 23}.get(lacking, 24)
    assert len(cohort.dropped) == {"expression": 3, "slides": 2, "dropped": 0}.get(lacking, 1)
    assert set(cohort.parts) >= {"cases", "expression", "features"}
    assert bool(cohort.spec.pathways) == (lacking not in ("expression", "gene_sets"))


@pytest.mark.parametrize("gene_sets", [{}, {"pathways": GeneSets(("p",), (("X", "Y"),))}], ids=["none", "of others"])
def test_expression_counts_even_if_it_covers_no_pathway(tmp_path, small, gene_sets):
    """Some models read genes directly; models that read pathways state that they are not applicable."""
    write_cohort(tmp_path, "X", **small | {"gene_sets": gene_sets, "slides": []})
    cohort = Cohort.load(tmp_path, "X")
    assert cohort.modalities == ("genomics",) and cohort.has_expression.all()
    assert not cohort.pathways and not cohort.spec.pathways and cohort.spec.genes == 8
    table = Preprocessing.fit(cohort, Fold(0, 0, tuple(cohort.cases.index[:16]), tuple(cohort.cases.index[16:]))).table(
        cohort
    )
    assert table.has_expression.all() and table.expression.any()
    assert ("0 of 1 pathways" in cohort.summary()) == bool(gene_sets)


def self_describing_slide(case: str, slide: str, patches: int, located: bool = True) -> Slide:
    """The features of each patch encode its case, slide and coordinates."""
    coordinates = np.random.default_rng(patches).permutation(2048)[: 2 * patches].reshape(patches, 2).astype(np.int32)
    who = np.full((patches, 2), (int(case[-2:]), int(slide[-1])))
    features = np.concatenate([who, coordinates], axis=1).astype(np.float16)  # whole numbers to 2048 are exact
    return Slide(slide, case, features, coordinates if located else None, 448 if located else None, encoder="told")


@pytest.fixture
def located(small):
    """Cases of one to three slides, written in another order."""
    slides = [
        self_describing_slide(case, f"{case}-DX{number}", patches=1 + (7 * number + int(case[-2:])) % 11)
        for case in small["cases"].index[:12]
        for number in range(1 + int(case[-2:]) % 3)
    ]
    return small | {"slides": [slides[i] for i in np.random.default_rng(0).permutation(len(slides))]}


def test_patch_positions_match_the_rows_of_bags(tmp_path, located):
    write_cohort(tmp_path, "X", **located)
    cohort = Cohort.load(tmp_path, "X")
    bags = cohort.bags()
    assert set(bags) == set(cohort.cases.index[cohort.has_slides])
    for case, bag in bags.items():
        positions = cohort.patch_positions(case)
        assert bag.dtype == torch.float16 and list(positions) == ["slide_id", "x", "y", "patch_size"]
        told = [(f"{case[:-2]}{int(c):02d}-DX{int(s)}", x, y, 448) for c, s, x, y in bag.tolist()]
        assert list(positions.itertuples(index=False, name=None)) == told
    assert sum(cohort.patch_positions(case)["slide_id"].nunique() > 1 for case in bags) == 8
    chosen = cohort.select(list(cohort.cases.index[3:5])[::-1])
    assert all(torch.equal(bag, bags[case]) for case, bag in chosen.bags().items())
    assert chosen.patch_positions("CASE-04").equals(cohort.patch_positions("CASE-04"))


def test_patches_without_coordinates_keep_their_rows(tmp_path, small):
    slides = [self_describing_slide("CASE-05", "CASE-05-DX0", 3, located=False)]
    slides.append(self_describing_slide("CASE-05", "CASE-05-DX1", 2))
    write_cohort(tmp_path, "X", **small | {"slides": slides})
    cohort = Cohort.load(tmp_path, "X")
    positions = cohort.patch_positions("CASE-05")
    assert positions[["x", "y", "patch_size"]].isna().all(axis=1).tolist() == [True] * 3 + [False] * 2
    assert list(positions["slide_id"]) == ["CASE-05-DX0"] * 3 + ["CASE-05-DX1"] * 2
    with pytest.raises(DataError, match="case 'CASE-06' has no slides"):
        cohort.patch_positions("CASE-06")
    assert cohort.select(["CASE-06"]).bags() == {}


def test_select(tmp_path, small):
    write_cohort(tmp_path, "X", **small)
    cohort = Cohort.load(tmp_path, "X").select(["CASE-05", "CASE-03"])
    assert list(cohort.cases.index) == ["CASE-05", "CASE-03"]
    assert set(cohort.slides["case_id"]) == {"CASE-05", "CASE-03"}
    with pytest.raises(DataError, match="has no case 'CASE-77'"):
        cohort.select(["CASE-77"])


def change(column, row, value):
    def apply(parts):
        parts["cases"] = parts["cases"].astype({column: object})
        parts["cases"].iloc[row, parts["cases"].columns.get_loc(column)] = value

    return apply


def rename(table, **ids):
    def apply(parts):
        parts[table] = parts[table].rename(index={"CASE-05": ids["to"]})

    return apply


def slide(**changes):
    def apply(parts):
        parts["slides"][0] = replace(parts["slides"][0], **changes)

    return apply


def part(name, build):
    def apply(parts):
        parts[name] = build(parts[name])

    return apply


BAD = {
    "time missing": (change("time", 5, float("nan")), "case 'CASE-05': time nan; expected months above 0"),
    "time zero": (change("time", 5, 0.0), "case 'CASE-05': time 0.0; expected months above 0"),
    "time negative": (change("time", 5, -2.0), "case 'CASE-05': time -2.0; expected months above 0"),
    "time infinite": (change("time", 5, float("inf")), "case 'CASE-05': time inf; expected months above 0"),
    "time text": (change("time", 5, "12 months"), "case 'CASE-05': time '12 months'; expected months above 0"),
    "event missing": (change("event", 5, None), "case 'CASE-05': no event status"),
    "event coded 1 and 2": (part("cases", lambda c: c.assign(event=c["event"] + 1)), "event is int64; expected bool"),
    "event as words": (part("cases", lambda c: c.assign(event="dead")), "event is object; expected bool"),
    "no events": (part("cases", lambda c: c.assign(event=False)), "no case has an event"),
    "no cases": (part("cases", lambda c: c.iloc[:0]), "holds no case"),
    "no time column": (part("cases", lambda c: c.drop(columns="time")), "lacks the columns ['time']"),
    "duplicated case": (part("cases", lambda c: pd.concat([c, c.iloc[:1]])), "cases listed more than once: 'CASE-00'"),
    "id is a path": (rename("cases", to="../../x"), "row 6: case id '../../x'; expected up to 200 printable"),
    "id is a formula": (rename("cases", to="=HYPERLINK()"), "row 6: case id '=HYPERLINK()'; expected"),
    "id with a zero byte": (rename("cases", to="A\0B"), r"row 6: case id 'A\x00B'; expected"),
    "id with blanks": (rename("cases", to="A "), "row 6: case id 'A '; expected"),
    "id too long": (rename("cases", to="A" * 300), "row 6: case id 'AAAA"),
    "id is a number": (rename("cases", to=7), "row 6: case id 7; expected"),
    "samples of a patient": (
        lambda parts: parts.update(
            cases=parts["cases"].rename(index={"CASE-05": "TCGA-AA-0001-01A", "CASE-06": "TCGA-AA-0001-06A"})
        ),
        "'TCGA-AA-0001-01A', 'TCGA-AA-0001-06A' are one patient",
    ),
    "ids that differ in case": (rename("cases", to="case-06"), "'case-06', 'CASE-06' are one patient"),
    "expression missing": (
        part("expression", lambda e: e.mask((e.index == "CASE-05")[:, None] & (e.columns == "C")[None])),
        "gene 'C': not a finite number for 'CASE-05'",
    ),
    "expression infinite": (
        part("expression", lambda e: e.assign(B=np.inf)),
        "gene 'B': not a finite number for 'CASE-00'",
    ),
    "expression without genes": (part("expression", lambda e: e[[]]), "holds 23 cases and 0 genes"),
    "duplicated gene": (part("expression", lambda e: e.rename(columns={"A": "B"})), "genes listed more than once: 'B'"),
    "expression of unknown cases": (
        rename("expression", to="CASE-5"),
        "expression.parquet: ids that are not in cases.parquet: 'CASE-5'",
    ),
    "expression of unknown cases only": (
        part("expression", lambda e: e.set_axis([f"P{i}" for i in range(len(e))])),
        "none of the 23 ids is in cases.parquet",
    ),
    "duplicated expression": (
        part("expression", lambda e: pd.concat([e, e.iloc[:1]])),
        "cases listed more than once: 'CASE-00'",
    ),
    "slide of an unknown case": (slide(case_id="CASE-2"), "features: ids that are not in cases.parquet: 'CASE-2'"),
    "duplicated slide": (slide(slide_id="CASE-03-DX0"), "slides listed more than once: 'CASE-03-DX0'"),
    "slide id is a path": (slide(slide_id="../x"), "slide ids"),
    "other encoder": (slide(encoder="resnet50"), "mixed patch encoders: uni (32 slides), resnet50 (1 slides)"),
    "other width": (slide(features=np.zeros((3, 8), np.float16)), "mixed feature widths: 16 (32 slides), 8 (1 slides)"),
    "bad slide": (slide(features=np.zeros((3, 16))), "features of type float64; expected float16"),
    "unknown role": (part("splits", lambda s: s.replace({"role": {"training": "train"}})), "roles 'train'; expected"),
    "case twice in a fold": (
        part("splits", lambda s: pd.concat([s, s.iloc[:1]])),
        "fold 0: 'CASE-00' are listed more than once",
    ),
    "held out twice": (
        part("splits", lambda s: s.assign(role=s["role"].mask(s["case_id"] == "CASE-05", "validation"))),
        "repeat 0: 'CASE-05' are held out in two folds",
    ),
    "fold missing": (
        part("splits", lambda s: s.assign(fold=s["fold"].where(s.index > 0))),
        "fold is float64; expected whole",
    ),
    "splits of an unknown case": (
        part("splits", lambda s: s.replace({"case_id": {"CASE-05": "CASE-5"}})),
        "splits.parquet: ids that are not in cases.parquet: 'CASE-5'",
    ),
    "dropped and kept": (
        part("dropped", lambda d: d.assign(case_id="CASE-05")),
        "lists 'CASE-05', which are also in",
    ),
    "dropped without reason": (part("dropped", lambda d: d[["case_id"]]), "expected case_id, reason"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_bad_parts_are_refused_and_nothing_is_written(tmp_path, small, tree, spoil, message):
    write_cohort(tmp_path / "old", "TINY", **small)
    before = tree(tmp_path)
    spoil(small)
    for folder in ("old", "new"):
        with pytest.raises(DataError) as error:
            write_cohort(tmp_path / folder, "TINY", **small)
        assert message in str(error.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0b", "=x", "x" * 200, "gene_sets"]
)
def test_unsafe_names_are_refused(tmp_path, small, tree, name):
    before = tree(tmp_path)
    with pytest.raises(DataError, match="cannot be the name of a cohort"):
        write_cohort(tmp_path, name, **small)
    assert tree(tmp_path) == before


def test_ids_never_become_paths(tmp_path, small, tree):
    """Ids of allowed characters that look like paths are treated as data."""
    evil = "C/../../../../escaped"
    small["cases"] = small["cases"].rename(index={"CASE-05": evil})
    small["expression"] = small["expression"].rename(index={"CASE-05": evil})
    small["splits"] = small["splits"].replace({"case_id": {"CASE-05": evil}})
    small["slides"] = [s for s in small["slides"] if s.case_id != "CASE-05"]
    small["slides"].append(Slide(evil, evil, np.ones((2, 16), np.float16), encoder="uni"))
    write_cohort(tmp_path / "a" / "data", "X", **small)
    assert evil in Cohort.load(tmp_path / "a" / "data", "X").cases.index
    files = [path for path in tree(tmp_path) if not path.startswith("a/data")]
    assert files == ["a"]
    slides = [path for path in tree(tmp_path) if "escaped" in path]
    assert slides and all(path.startswith("a/data/X/features/") and path.count("/") == 4 for path in slides)


def test_all_problems_are_listed_at_once(tmp_path, small):
    for name in ("time missing", "expression infinite", "unknown role"):
        BAD[name][0](small)
    with pytest.raises(DataError) as error:
        write_cohort(tmp_path, "X", **small)
    assert len(error.value.problems) == 3


def test_a_failed_replacement_keeps_the_old_cohort(tmp_path, small, tree, monkeypatch):
    write_cohort(tmp_path, "X", **small)
    before = tree(tmp_path)

    def breaks(*_):
        yield small["slides"][0]
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_cohort(tmp_path, "X", **small | {"slides": breaks()})
    assert tree(tmp_path) == before

    rename, renamed = os.rename, []

    def second_fails(old, new):
        renamed.append(old)
        if len(renamed) == 2:
            raise OSError("no space")
        rename(old, new)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="no space"):
        write_cohort(tmp_path, "X", **small)
    assert len(renamed) == 3  # old one aside, new one in its place, old one back
    assert tree(tmp_path) == before


@pytest.mark.parametrize("collection", ["pathways", "groups"])
def test_gene_sets_of_other_cohorts_are_not_replaced(tmp_path, small, collection):
    write_cohort(tmp_path, "A", **small)
    other = small | {"gene_sets": {collection: GeneSets(("p",), (("A",),))}}
    with pytest.raises(DataError, match=rf"{collection}\.gmt: exists with other gene sets, and 'A' need them"):
        write_cohort(tmp_path, "B", **other)
    write_cohort(tmp_path, "B", **small | {"gene_sets": {"more": GeneSets(("p",), (("A",),))}})
    assert set(Cohort.load(tmp_path, "A").gene_sets) == {"pathways", "groups", "more"}
    shutil.rmtree(tmp_path / "B")
    write_cohort(tmp_path, "A", **other)
    assert len(Cohort.load(tmp_path, "A").gene_sets[collection]) == 1


def test_an_unknown_cohort_and_a_failed_join(tmp_path, small):
    write_cohort(tmp_path, "A", **small)
    with pytest.raises(DataError, match=r"no cohort 'B'; expected B/cases\.parquet\. It has: 'A'"):
        Cohort.load(tmp_path, "B")
    del small["slides"], small["expression"]
    write_cohort(tmp_path, "B", **small)
    with pytest.raises(DataError, match="no case has slides or expression"):
        Cohort.load(tmp_path, "B")


def test_all_damaged_tables_are_listed(tmp_path, small):
    write_cohort(tmp_path, "A", **small)
    for table in ("cases", "splits"):
        file = tmp_path / "A" / f"{table}.parquet"
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError) as error:
        Cohort.load(tmp_path, "A")
    assert [problem.split(":")[0].rsplit("/", 1)[1] for problem in error.value.problems] == [
        "cases.parquet",
        "splits.parquet",
    ]
    assert all("cannot be read" in problem for problem in error.value.problems)


def test_a_table_with_case_id_as_index_is_read(tmp_path, small):
    write_cohort(tmp_path, "A", **small)
    small["cases"].to_parquet(tmp_path / "A" / "cases.parquet")
    assert len(Cohort.load(tmp_path, "A").cases) == 24


def test_a_uri_and_a_path_give_the_same_cohort(small, tmp_path):
    write_cohort(tmp_path, "SMALL", **small)
    by_uri = Cohort.load(f"file://{tmp_path}", "SMALL")
    assert by_uri.parts == Cohort.load(tmp_path, "SMALL").parts
    assert cohort_names(f"file://{tmp_path}") == ["SMALL"]
