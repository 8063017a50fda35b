"""All problems of a data folder are found in one pass, with file, place and fix; a valid folder is described."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from survq.data.check import check
from survq.data.cohort import Cohort
from survq.data.gene_sets import GeneSets
from survq.data.location import Location
from survq.data.problems import DataError
from survq.data.tables import read_tables
from survq.data.write import file_name, write_cohort, write_features


@pytest.fixture
def folder(tmp_path, small):
    """A valid data folder with the cohorts ONE and TWO."""
    write_cohort(tmp_path / "data", "ONE", **small)
    write_cohort(tmp_path / "data", "TWO", **small)
    return tmp_path / "data"


def test_a_valid_folder(folder):
    checked = check(folder, deep=True)
    assert checked.problems == []
    lines = checked.table().splitlines()
    assert len({len(line) for line in lines}) == 1  # aligned
    assert [re.split(r" {3,}", line) for line in lines] == [
        ["cohort", "ONE", "TWO"],
        ["cases", "24", "24"],
        ["events", "12", "12"],
        ["clinical", "none", "none"],
        ["slides", "33", "33"],
        ["patches", "151", "151"],
        ["features", "16 (uni)", "16 (uni)"],
        ["genes", "8", "8"],
        ["pathways", "2 of 3", "2 of 3"],
        ["groups", "1 of 2", "1 of 2"],
        ["modalities", "histology + genomics", "histology + genomics"],
        ["without slides", "2", "2"],
        ["without expression", "1", "1"],
        ["folds", "3", "3"],
        ["held-out events", "4 4 4", "4 4 4"],
        ["excluded", "1", "1"],
    ]


def test_an_invalid_table_is_skipped_and_not_called_missing(folder):
    for name in ("cases", "expression", "splits"):
        rewrite(folder / "ONE" / f"{name}.parquet", lambda table: pd.concat([table, table.iloc[:1]]))
    tables, problems = read_tables(Location.at(folder / "ONE"))
    assert (tables.cases, tables.expression, tables.splits) == (None, None, None)
    assert len(problems) == 3 and len(tables.slides) == 33
    checked = check(folder)
    assert checked.problems == problems
    one, two = checked.cohorts
    assert set(two.figures) - set(one.figures) == {
        *("cases", "events", "genes", "pathways", "groups", "modalities", "without slides", "without expression"),
        *("folds", "held-out events", "clinical"),
    }


def test_covariates_and_their_unknown_values_are_shown(folder):
    sex = ["male", "female", None] * 8
    rewrite(folder / "ONE" / "cases.parquet", lambda table: table.assign(age=np.arange(24.0), sex=sex, stage=1.0))
    assert check(folder).cohorts[0].figures["clinical"] == "age, sex (8 unknown)"
    rewrite(folder / "ONE" / "cases.parquet", lambda table: table.assign(sex="M"))
    (problem,) = check(folder).problems
    assert "ONE/cases.parquet: sex of 24 cases is invalid, such as 'M'" in problem


def test_the_real_folder(real_folder):
    checked = check(real_folder)
    assert checked.problems == []
    assert [cohort.figures["held-out events"] for cohort in checked.cohorts] == ["25 24 23 25 16", "5 13 5 9 5"]
    assert checked.notes == [
        "BLCA: genes with the same value in all cases: 'VAMP7'",
        "COADREAD: genes with the same value in all cases: 'VAMP7'",
        "COADREAD: 2 cases have neither slides nor expression; studies exclude them: 'TCGA-EI-6883', 'TCGA-G4-6323'",
    ]


def rewrite(file, change):
    """Rewrite a Parquet table without the checks of write_cohort."""
    table = change(pq.read_table(file).to_pandas())
    table.to_parquet(file, index=False)


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def rewrite_table(name, change):
    return lambda folder: rewrite(folder / name, change)


def set_cell(column, value, row=5):
    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


BAD = {
    "cases missing": (lambda f: os.remove(f / "cases.parquet"), "ONE/cases.parquet is missing. Fix: import"),
    "cases truncated": (lambda f: os.truncate(f / "cases.parquet", 500), "ONE/cases.parquet: cannot be read"),
    "expression truncated": (lambda f: os.truncate(f / "expression.parquet", 9), "expression.parquet: cannot be read"),
    "splits empty": (lambda f: os.truncate(f / "splits.parquet", 0), "splits.parquet: cannot be read"),
    "features truncated": (
        lambda f: os.truncate(f / "features" / file_name("CASE-02-DX0"), 500),
        f"{file_name('CASE-02-DX0')}: cannot be read",
    ),
    "time not a number": (rewrite_table("cases.parquet", set_cell("time", None)), "case 'CASE-05': time"),
    "duplicated case": (
        rewrite_table("cases.parquet", lambda t: pd.concat([t, t.iloc[:1]])),
        "cases listed more than once: 'CASE-00'",
    ),
    "expression not a number": (
        rewrite_table("expression.parquet", set_cell("B", float("nan"))),
        "gene 'B': not a finite number for 'CASE-05'",
    ),
    "expression of another study": (
        rewrite_table("expression.parquet", lambda t: t.assign(case_id="P" + t["case_id"])),
        "expression.parquet: ids that are not in cases.parquet: 'PCASE-00'",
    ),
    "splits of unknown cases": (
        rewrite_table("splits.parquet", lambda t: t.replace({"case_id": {"CASE-05": "CASE-55"}})),
        "splits.parquet: ids that are not in cases.parquet: 'CASE-55'",
    ),
    "unknown role": (
        rewrite_table("splits.parquet", lambda t: t.replace({"role": {"validation": "test"}})),
        "roles 'test'; expected training or validation",
    ),
    "case in two folds": (
        rewrite_table("splits.parquet", lambda t: t.assign(role="validation")),
        "'CASE-00', 'CASE-01', 'CASE-02' and 21 more are held out in two folds",
    ),
    "fold without events": (
        rewrite_table("cases.parquet", lambda t: t.assign(event=t["event"] & (t.index % 3 != 1))),
        "splits.parquet: fold 1 of repeat 0: none of its 8 held-out cases has an event",
    ),
    "fold without pairs": (
        rewrite_table("cases.parquet", lambda t: t.assign(time=t["time"].mask(t["event"] & (t.index % 3 == 1), 9e3))),
        "splits.parquet: fold 1 of repeat 0: no two of its 8 held-out cases can be compared",
    ),
    "fold without training": (
        rewrite_table("splits.parquet", lambda t: t[(t["fold"] > 0) | (t["role"] == "validation")]),
        "splits.parquet: fold 0 of repeat 0 has 0 training",
    ),
    "dropped with other columns": (
        lambda f: (f / "dropped.csv").write_text("a\n1,2,3\n"),
        "dropped.csv: has the columns 'a'; expected case_id, reason. Fix",
    ),
    "dropped empty": (
        lambda f: (f / "dropped.csv").write_text(""),
        "dropped.csv: has the columns none; expected case_id, reason. Fix",
    ),
    "dropped not utf-8": (lambda f: (f / "dropped.csv").write_bytes(b"\xff"), "dropped.csv: is not UTF-8 text"),
    "pathways with other gene names": (
        lambda f: (f.parent / "pathways.gmt").write_text("p\t\tENSG1\tENSG2\n"),
        "has no gene of the pathways. Its genes are named 'A', 'B', 'C' and 5 more, those of the pathways 'ENSG1', "
        "'ENSG2'. Fix: use the same names.",
    ),
    "pathways with blanks": (
        lambda f: (f.parent / "pathways.gmt").write_text("p A B\n"),
        "pathways.gmt:1: no genes in gene set 'p A B'",
    ),
    "a collection that is empty": (
        lambda f: (f.parent / "gene_sets/groups.gmt").write_text(""),
        "gene_sets/groups.gmt: holds no gene set",
    ),
    "pathways twice": (
        lambda f: (f.parent / "gene_sets/pathways.gmt").write_text("p\t\tA\n"),
        "gene_sets/pathways.gmt: pathways belong in ",
    ),
    "a collection of a hostile name": (
        lambda f: (f.parent / "gene_sets/=x y.gmt").write_text("p\t\tA\n"),
        "'=x y' cannot be the name of a collection of gene sets. Fix: use letters, digits, underscores and hyphens",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_faults_are_found(folder, spoil, message):
    spoil(folder / "ONE")
    checked = check(folder)
    assert any(message in problem for problem in checked.problems), checked.problems
    assert any("TWO" in line and "ONE" in line for line in checked.table().splitlines())  # still described
    assert checked.cohorts[1].figures["cases"] == "24"


@pytest.mark.parametrize(
    "fault", [name for name in BAD if not name.startswith(("fold without", "pathways with other"))]
)
def test_a_study_refuses_what_check_finds(folder, fault):
    BAD[fault][0](folder / "ONE")
    with pytest.raises(DataError):
        Cohort.load(folder, "ONE")


def test_all_cohorts_in_one_pass(folder):
    BAD["time not a number"][0](folder / "ONE")
    BAD["unknown role"][0](folder / "ONE")
    BAD["splits empty"][0](folder / "TWO")
    problems = check(folder).problems
    assert len(problems) == 3
    assert sum("TWO" in problem for problem in problems) == 1


def test_mixed_encoders_and_slides_of_unknown_cases(folder, small):
    """A second tool added its slides to the folder."""
    other = folder / "other"
    slides = [
        replace(slide, slide_id=f"again-{slide.slide_id}", encoder="conch", case_id="CASE-77")
        for slide in small["slides"][:2]
    ]
    write_features(other, [*slides, small["slides"][0]])
    for file in other.iterdir():
        os.rename(file, folder / "ONE/features" / f"other-{file.name}")
    other.rmdir()
    problems = " ".join(check(folder).problems)
    assert "mixed patch encoders: uni (34 slides), conch (2 slides)" in problems
    assert "slides listed more than once: 'CASE-02-DX0'" in problems
    assert "features: ids that are not in cases.parquet: 'CASE-77'" in problems


def test_deep_verifies_every_byte(folder, small):
    damaged = [small["slides"][number] for number in (0, 7, 9)]
    for slide, what, byte in zip(damaged, ("features", "features", "coordinates"), (5, 5, 1), strict=True):
        file = folder / "ONE/features" / file_name(slide.slide_id)
        flip(file, file.read_bytes().index(getattr(slide, what).tobytes()) + byte)
    assert check(folder).problems == []  # the index itself is valid
    calls = []
    problems = check(folder, deep=True, progress=lambda done, of: calls.append((done, of))).problems
    assert [("sha256 differs" in problem, "cannot be read" in problem) for problem in problems] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert f"slide '{small['slides'][7].slide_id}'" in problems[1]
    assert calls == [(n, 66) for n in range(1, 67)]


def test_notes(tmp_path, small):
    small["cases"]["time"] *= 60
    small["cases"].loc[small["cases"].index[:2], "site"] = "S9"
    small["expression"]["C"] = 2.0
    small["expression"].iloc[0, 0] = 70.0
    small["splits"] = small["splits"][small["splits"]["fold"] > 0]
    del small["gene_sets"]["pathways"]
    write_cohort(tmp_path, "X", **small)
    small["slides"] = [replace(slide, encoder="conch") for slide in small["slides"]]
    write_cohort(tmp_path, "Y", **small)
    notes = " ".join(check(tmp_path).notes)
    assert check(tmp_path).problems == []
    assert "Is it in days?" in notes
    assert "X: genes with the same value in all cases: 'C'" in notes
    assert "the largest expression is 70" in notes
    assert "8 cases are not held out in any fold: 'CASE-00', 'CASE-03', 'CASE-06' and 5 more" in notes
    assert "sites have training and held-out cases" in notes
    assert "there are no pathways, so models that read pathways cannot use the expression" in notes
    assert "cohorts differ in their features: {'X': '16 (uni)', 'Y': '16 (conch)'}" in notes


def test_gene_sets_that_are_hardly_measured_are_noted(tmp_path, small):
    small["gene_sets"]["pathways"] = GeneSets(("half",), (("A", "X"),))
    write_cohort(tmp_path, "X", **small)
    checked = check(tmp_path)
    assert not checked.problems and checked.cohorts[0].figures["pathways"] == "0 of 1"
    assert checked.notes == ["X: expression covers none of 1 pathways to 90%"]


def test_different_units_are_noted(tmp_path, small):
    for name, unit in (("X", "log2(TPM + 1)"), ("Y", "log2(TPM + 1)"), ("Z", "z-scores")):
        source = json.dumps({"expression": {"unit": unit}}).encode()
        write_cohort(tmp_path, name, **small, attachments={"source.json": source})
    assert any(note.startswith("cohorts differ in the unit of their expression") for note in check(tmp_path).notes)
    shutil.rmtree(tmp_path / "Z")
    assert not any("unit" in note for note in check(tmp_path).notes)
    (tmp_path / "Y" / "source.json").write_text("{")
    assert "Y/source.json: is not JSON" in check(tmp_path).problems[0]


def test_a_case_without_inputs_is_noted(tmp_path, small):
    small["expression"] = small["expression"].drop(index="CASE-00")
    write_cohort(tmp_path, "X", **small)
    assert check(tmp_path).notes == ["X: 1 cases have neither slides nor expression; studies exclude them: 'CASE-00'"]
    del small["expression"], small["slides"]
    write_cohort(tmp_path, "X", **small)
    assert "no case has slides or expression" in check(tmp_path).problems[0]


def test_no_folder_and_no_cohort(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check(tmp_path / "absent")
    (tmp_path / "papers").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no cohort" in check(tmp_path).problems[0]


def test_check_survives_any_damage(folder, small):
    """Flipped bits anywhere in the tables never cause a traceback."""
    random = np.random.default_rng(0)
    files = [folder / "ONE" / name for name in ("cases.parquet", "expression.parquet", "splits.parquet", "dropped.csv")]
    for file in [*files, folder / "pathways.gmt", folder / "gene_sets/groups.gmt"]:
        whole = file.read_bytes()
        for _ in range(5):
            damaged = bytearray(whole)
            for place in random.choice(len(whole), 3):
                damaged[place] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            assert check(folder).table()
        file.write_bytes(whole)
