"""Import of the SurvPath repository: counts of the real files, and all problems of a source listed at once."""

import gzip
import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.problems import DataError
from survq.data.write import Slide, write_features
from survq.importing.survpath import import_survpath

LABELS = "datasets_csv/metadata/tcga_blca.csv"
EXPRESSION = "datasets_csv/raw_rna_data/xena/blca/rna_clean.csv"
SPLIT = "splits/5foldcv/tcga_blca/splits_1.csv"
SIGNATURES = "datasets_csv/metadata/combine_signatures.csv"


@pytest.mark.parametrize(
    ("name", "cases", "events", "excluded"),
    [
        ("BLCA", 359, 113, {"expression without a label": 1}),
        ("COADREAD", 296, 37, {"expression without a label": 21, "neither slides nor expression": 2}),
    ],
)
def test_the_real_cohorts(real_folder, real_data, name, cases, events, excluded):
    cohort = Cohort.load(real_folder, name)
    assert (len(cohort.cases), cohort.cases["event"].sum()) == (cases, events)
    assert cohort.expression.shape == (cases, 1577)
    assert cohort.has_expression.all()
    assert (len(cohort.pathways), cohort.sets_given["pathways"]) == (281, 331)
    assert cohort.dropped["reason"].value_counts().to_dict() == excluded
    assert (cohort.cases["site"] == cohort.cases.index.str[5:7]).all()
    assert set(cohort.cases) == {"time", "event", "site", "age", "sex", "oncotree_code"}

    # compare with the files, read independently
    labels = pd.read_csv(real_data / f"survpath/datasets_csv/metadata/tcga_{name.lower()}.csv", keep_default_na=False)
    labels = labels.drop_duplicates("case_id").set_index("case_id").loc[cohort.cases.index]
    assert (labels["survival_months_dss"] == cohort.cases["time"]).all()
    assert (labels["censorship_dss"] == 1 - cohort.cases["event"]).all()
    table = pd.read_csv(
        real_data / f"survpath/datasets_csv/raw_rna_data/xena/{name.lower()}/rna_clean.csv", index_col=0
    )
    first = table[~table.index.duplicated()].loc[cohort.cases.index]
    assert (first.astype("float32") == cohort.expression).all(axis=None)


def test_the_source_of_a_real_cohort(real_folder):
    source = json.loads((real_folder / "COADREAD" / "source.json").read_text())
    repeated = source["expression"]["several_rows_of_a_case_first_kept"]
    assert repeated == ["TCGA-G4-6317", "TCGA-G5-6572", "TCGA-NH-A8F7"]
    assert source["expression"]["unit"] == "log2(TPM + 0.001), by its floor"
    assert (source["labels"]["outcome"], source["labels"]["months"]) == ("DSS", "unchanged")
    assert len(source["splits"]["files"]) == 5
    dropped = set(Cohort.load(real_folder, "COADREAD").dropped["case_id"])
    assert {"TCGA-EI-6883", "TCGA-G4-6323"} < dropped


def test_outcomes_agree_with_the_original_table(real_folder, real_data):
    """Compared with Xena's copy of TCGA-CDR, where 1 is the event and times are in days."""
    table = pd.read_csv(real_data / "clinical/tcga_surv_xena_samples.tsv", sep="\t")
    table = table[table["sample"].str.endswith("-01")].assign(case_id=lambda t: t["sample"].str[:12])
    table = table.set_index("case_id")[["DSS", "DSS.time"]]
    for name in ("BLCA", "COADREAD"):
        cases = Cohort.load(real_folder, name).cases.join(table, how="inner")
        assert len(cases) > 290
        assert (cases["DSS"] == cases["event"]).all()
        assert ((cases["DSS.time"] / 30 - cases["time"]).abs() < 1e-6).mean() > 0.99


def shuffle(file, seed, keep_pairs=False):
    header, *rows = file.read_text().splitlines()
    if keep_pairs:  # the first row of a case is used, so keep the order of its rows
        groups = {}
        for row in rows:
            groups.setdefault(row.split(",")[0], []).append(row)
        rows = list(groups.values())
        random.Random(seed).shuffle(rows)
        rows = [row for group in rows for row in group]
    else:
        random.Random(seed).shuffle(rows)
    file.write_text("\n".join([header, *rows]) + "\n")


def test_the_order_of_rows_does_not_matter(real_data, real_folder, tmp_path, tree):
    source = tmp_path / "source"
    shutil.copytree(real_data / "survpath", source)
    before = Cohort.load(real_folder, "COADREAD")
    files = [source / LABELS.replace("blca", "coadread"), *sorted(source.glob("splits/**/tcga_coadread/*.csv"))]
    for number, file in enumerate(files):
        shuffle(file, number)
    file = source / EXPRESSION.replace("blca", "coadread")
    shuffle(file, 7, keep_pairs=True)
    import_survpath(source, tmp_path / "data", ["COADREAD"])
    after = Cohort.load(tmp_path / "data", "COADREAD")
    assert after.parts == before.parts
    one, other = tree(real_folder / "COADREAD"), tree(tmp_path / "data" / "COADREAD")
    del one["source.json"], other["source.json"]  # the source files differ
    assert one == other


def test_cohorts_without_expression_are_reported(real_data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"xena/brca/rna_clean\.csv.*Complete cohorts: 'BLCA', 'COADREAD'"):
        import_survpath(real_data / "survpath", tmp_path / "data", ["BRCA"])
    assert not (tmp_path / "data").exists()


def test_a_small_source(small_survpath, tmp_path):
    (imported,) = import_survpath(small_survpath, tmp_path / "data")
    cohort = Cohort.load(tmp_path / "data", "BLCA")
    assert len(cohort.cases) == 12
    assert set(cohort.cases["site"]) == {"AA", "BB", "NA"}  # a site called NA is a site
    assert cohort.expression.loc["TCGA-NA-0002"].to_dict() == {"G1": 2, "G2": 0.5, "HLA-A": -2}
    assert cohort.pathways.names == ("p/1", "p 2")
    assert imported.summary()[:2] == [
        "12 cases, 6 events, 3 genes, 2 of 2 pathways covered",
        "3 folds with 2 2 2 held-out events",
    ]


def test_a_repeated_import_gives_the_same_bytes(small_survpath, tmp_path, tree):
    import_survpath(small_survpath, tmp_path / "data")
    before = tree(tmp_path / "data")
    import_survpath(small_survpath, tmp_path / "data")
    assert tree(tmp_path / "data") == before


def test_missing_splits_are_noted(small_survpath, tmp_path):
    shutil.rmtree(small_survpath / "splits")
    (imported,) = import_survpath(small_survpath, tmp_path / "data", ["blca"])
    assert Cohort.load(tmp_path / "data", "BLCA").splits is None
    assert "no splits: studies will make their own folds" in imported.summary()


def test_excluded_cases_are_listed(small_survpath, tmp_path):
    edit(small_survpath / LABELS, "AA,10.5,1", "AA,0,1")
    edit(small_survpath / EXPRESSION, "TCGA-BB-0004,", "TCGA-XX-0004,")
    (imported,) = import_survpath(small_survpath, tmp_path / "data")
    cohort = Cohort.load(tmp_path / "data", "BLCA")
    assert len(cohort.cases) == 10
    assert dict(cohort.dropped.to_numpy()) == {
        "TCGA-AA-0009": "time is 0",
        "TCGA-BB-0004": "neither slides nor expression",
        "TCGA-XX-0004": "expression without a label",
    }
    assert [line for line in imported.summary() if line.startswith("excluded")] == [
        "excluded, expression without a label: 1, 'TCGA-XX-0004'",
        "excluded, neither slides nor expression: 1, until their slides are imported: 'TCGA-BB-0004'",
        "excluded, time is 0: 1, 'TCGA-AA-0009'",
    ]


def edit(file, old, new, count=-1):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, count))


def transpose(source):
    pd.read_csv(source / EXPRESSION, index_col=0).T.to_csv(source / EXPRESSION)


BAD = {
    "labels contradict": (
        lambda s: edit(s / LABELS, "DX1.svs,50,AA,1.5", "DX1.svs,50,AA,9.5"),
        "case 'TCGA-AA-0000': survival_months_dss is 1.5 in line 2, 9.5 in line 3",
    ),
    "time is text": (lambda s: edit(s / LABELS, "AA,10.5", "AA,ten"), "survival_months_dss 'ten'; expected a number"),
    "event coded 2": (
        lambda s: edit(s / LABELS, "AA,10.5,1", "AA,10.5,2"),
        "censorship_dss '2'; expected '0' for an event",
    ),
    "no endpoint": (
        lambda s: edit(s / LABELS, "survival_months_dss", "survival_months"),
        "unknown layout of a clinical table",
    ),
    "all censored": (
        lambda s: (s / LABELS).write_text((s / LABELS).read_text().replace(".5,0,", ".5,1,")),
        "no case has an event",
    ),
    "case id is a path": (
        lambda s: edit(s / LABELS, "TCGA-AA-0009", "../../x"),
        "case id '../../x'; expected printable",
    ),
    "labels empty": (lambda s: (s / LABELS).write_text(""), "tcga_blca.csv: is empty"),
    "expression of another cohort": (
        lambda s: edit(s / EXPRESSION, "TCGA-", "P-"),
        "none of its rows or columns is a case",
    ),
    "expression text": (
        lambda s: edit(s / EXPRESSION, "-0009,9,", "-0009,low,"),
        "'TCGA-AA-0009', 'G1': 'low' is not a number",
    ),
    "expression without genes of pathways": (
        lambda s: edit(s / EXPRESSION, ",G1,G2,HLA-A", ",X1,X2,X3"),
        "has none of the 3 genes of the gene sets",
    ),
    "expression blank": (
        lambda s: edit(s / EXPRESSION, "-0009,9,", "-0009,,"),
        "gene 'G1': not a finite number for 'TCGA-AA-0009'",
    ),
    "expression infinite": (lambda s: edit(s / EXPRESSION, "-0009,9,", "-0009,inf,"), "gene 'G1': not a finite number"),
    "expression ragged": (lambda s: edit(s / EXPRESSION, "-0009,9,", "-0009,9,9,"), "cells; the header has"),
    "no case id": (lambda s: edit(s / EXPRESSION, "TCGA-AA-0009,", ","), "no case id in lines '11'"),
    "not utf-8": (lambda s: (s / EXPRESSION).write_bytes(b"caf\xe9,G1\n"), "is not UTF-8 text"),
    "split of an unknown case": (
        lambda s: edit(s / SPLIT, "TCGA-AA-0009", "TCGA-AA-9999"),
        "splits_1.csv:5: val: 'TCGA-AA-9999' has no label",
    ),
    "case in both roles": (
        lambda s: edit(s / SPLIT, "0,TCGA-AA-0000", "0,TCGA-NA-0002"),
        "fold 1: 'TCGA-NA-0002' are listed more than once",
    ),
    "held out in two folds": (
        lambda s: shutil.copy(s / SPLIT, s / SPLIT.replace("_1", "_2")),
        "are held out in two folds",
    ),
    "split without val": (lambda s: edit(s / SPLIT, "val", "rest"), "holds 'train'; expected train and val or test"),
    "two names of held-out cases": (
        lambda s: edit(s / SPLIT, "val", "test"),
        "are named val (fold 0) and test (fold 1)",
    ),
    "pathway without genes": (lambda s: (s / SIGNATURES).write_text("p,q\nG1,\n"), "no genes in gene set 'q'"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD.keys())
def test_problems_are_reported_and_nothing_is_written(small_survpath, tmp_path, tree, spoil, message):
    spoil(small_survpath)
    before = tree(tmp_path)
    with pytest.raises(DataError) as error:
        import_survpath(small_survpath, tmp_path / "data")
    assert message in str(error.value)
    assert tree(tmp_path) == before


def test_all_problems_are_listed_at_once(small_survpath, tmp_path):
    for problem in ("time is text", "expression text", "split without val", "pathway without genes"):
        BAD[problem][0](small_survpath)
    with pytest.raises(DataError) as error:
        import_survpath(small_survpath, tmp_path / "data")
    files = " ".join(error.value.problems)
    assert all(name in files for name in ("tcga_blca.csv", "rna_clean.csv", "splits_1.csv", "combine_signatures.csv"))


def test_features_are_kept(small_survpath, tmp_path):
    import_survpath(small_survpath, tmp_path / "data")
    slides = [
        Slide(f"{case}-01Z-00-DX1", case, np.ones((2, 4), dtype=np.float16))
        for case in ("TCGA-AA-0000", "TCGA-ZZ-0000")
    ]
    write_features(tmp_path / "data/BLCA/features", slides)
    import_survpath(small_survpath, tmp_path / "data")
    cohort = Cohort.load(tmp_path / "data", "BLCA")
    assert cohort.modalities == ("histology", "genomics")
    assert dict(cohort.dropped.to_numpy()) == {"TCGA-ZZ-0000": "slides without a label"}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: edit(s / EXPRESSION, ",", "\t"),
        lambda s: transpose(s),
        lambda s: edit(s / LABELS, ",TCGA-AA-0009,", ",TCGA-AA-0009-01A,"),
        lambda s: (s / EXPRESSION).write_bytes(gzip.compress((s / EXPRESSION).read_bytes())),
    ],
    ids=["tabs", "transposed", "sample barcodes", "compressed"],
)
def test_other_file_formats_give_the_same_cohort(small_survpath, tmp_path, change):
    import_survpath(small_survpath, tmp_path / "data")
    change(small_survpath)
    import_survpath(small_survpath, tmp_path / "again")
    before, after = Cohort.load(tmp_path / "data", "BLCA"), Cohort.load(tmp_path / "again", "BLCA")
    assert before.parts == after.parts


def test_pathways_of_other_cohorts_are_not_replaced(small_survpath, tmp_path, tree):
    import_survpath(small_survpath, tmp_path / "data")
    (tmp_path / "data" / "BLCA").rename(tmp_path / "data" / "OTHER")
    edit(small_survpath / SIGNATURES, "HLA-A", "G9")
    before = tree(tmp_path)
    with pytest.raises(DataError, match="with other pathways, which 'OTHER' need"):
        import_survpath(small_survpath, tmp_path / "data")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expression": "toil"}, "no cohort with labels and 'toil' expression.*the kinds of expression 'xena'"),
        ({"pathways": "kegg"}, "no pathways 'kegg'; it has 'combine'"),
        ({"cohorts": ["../blca"]}, "no such files"),
    ],
)
def test_missing_files(small_survpath, tmp_path, options, message):
    with pytest.raises(FileNotFoundError, match=message):
        import_survpath(small_survpath, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_expression_off_the_log_scale_is_noted(small_survpath, tmp_path):
    edit(small_survpath / EXPRESSION, "-0009,9,", "-0009,36893,")
    (imported,) = import_survpath(small_survpath, tmp_path / "data")
    assert any("up to 36893 in 'G1': not on a log scale, or outliers" in line for line in imported.summary())
