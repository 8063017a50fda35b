"""Import of expression into a cohort."""

import numpy as np
import pandas as pd
import pytest
from expression_files import CASES, GENES, random_values, survpath, xena

from survq.data.batch import Preprocessing
from survq.data.check import check
from survq.data.cohort import Cohort
from survq.data.cohort_files import read_dropped, read_source, update_cohort
from survq.data.folds import Fold
from survq.data.gene_sets import GeneSets
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.expression import import_expression


@pytest.fixture
def values() -> pd.DataFrame:
    return random_values()


@pytest.fixture
def root(tmp_path) -> Location:
    """A data folder with labels of four of the six cases, one excluded by the labels, and pathways."""
    root = Location.at(tmp_path / "data")
    cases = pd.DataFrame({"time": 3.0, "event": [True, False, True, False]}, index=CASES[:4])
    update_cohort(root / "BRCA", {}, cases=cases, dropped={CASES[4]: "no time"})
    pathways = GeneSets(("p", "q"), (("TP53", "BRCA1"), ("TTF1", "ABSENT")))
    (root / "pathways.gmt").write(pathways.to_gmt().encode())
    return root


def test_expression_becomes_part_of_the_cohort(tmp_path, root, values):
    (tmp_path / "HiSeqV2").write_text(xena(values))
    read, dropped = import_expression(tmp_path / "HiSeqV2", root, "BRCA")
    cohort = Cohort.load(tmp_path / "data", "BRCA")
    assert list(cohort.expression) == ["TP53", "BRCA1"]
    assert cohort.pathways.names == ("p",)
    assert dict(dropped.to_numpy()) == {CASES[4]: "no time", CASES[5]: "expression without a label"}
    source = read_source(root / "BRCA")["expression"]
    assert (source["file"], source["unit"]) == ("HiSeqV2", "log2(RSEM normalised count + 1), by its name")
    assert "covers 1 of 2 pathways; 2 of their 4 genes are missing" in read.notes[0]
    coverage = pd.read_csv(tmp_path / "data" / "coverage.csv", keep_default_na=False)
    rows = coverage[["gene_set", "measured", "coverage", "missing"]].to_numpy().tolist()
    assert rows == [["p", 2, 1.0, ""], ["q", 0, 0.0, "TTF1 ABSENT"]]


def test_a_repeated_import_gives_the_same_bits(tmp_path, root, values, tree):
    (tmp_path / "t").write_text(xena(values))
    import_expression(tmp_path / "t", root, "BRCA")
    before = tree(tmp_path)
    import_expression(tmp_path / "t", root, "BRCA")
    assert tree(tmp_path) == before


def test_all_genes(tmp_path, root, values):
    (tmp_path / "t").write_text(xena(values))
    import_expression(tmp_path / "t", root, "BRCA", all_genes=True)
    assert sorted(Cohort.load(tmp_path / "data", "BRCA").expression) == sorted(GENES)


def test_aliases_rename_genes_measured_under_another_name(tmp_path, root, values):
    (tmp_path / "t").write_text(xena(values))
    (tmp_path / "aliases.csv").write_text("alias,symbol\nTTF1,NKX2-1\nABSENT,NOWHERE\n")
    read, _ = import_expression(tmp_path / "t", root, "BRCA", aliases=tmp_path / "aliases.csv")
    assert (read.values["TTF1"] == values["NKX2-1"].astype(np.float32)[read.values.index]).all()
    assert "1 genes were renamed as in the gene sets: 'NKX2-1 as TTF1'" in read.notes
    assert read_source(root / "BRCA")["expression"]["renamed"] == {"NKX2-1": "TTF1"}
    assert read_source(root / "BRCA")["expression"]["aliases"]["file"] == "aliases.csv"


def test_ids_in_a_table_of_many_cohorts_are_not_listed(tmp_path, root, values):
    others = pd.DataFrame(1.0, index=[f"TCGA-ZZ-{number:04d}" for number in range(9)], columns=GENES)
    (tmp_path / "t").write_text(xena(pd.concat([values, others])))
    read, _ = import_expression(tmp_path / "t", root, "BRCA")
    assert read_dropped(root / "BRCA") == {CASES[4]: "no time"}
    assert any("10 further ids have no label in this cohort" in note for note in read.notes)
    assert read_source(root / "BRCA")["expression"]["further_cases_not_listed"] == 10


def test_different_units_of_cohorts_cause_a_warning(tmp_path, root, values):
    (tmp_path / "t").write_text(xena(values))
    import_expression(tmp_path / "t", root, "BRCA")
    cases = pd.DataFrame({"time": 3.0, "event": True}, index=CASES)
    update_cohort(root / "BLCA", {}, cases=cases)
    (tmp_path / "z").write_text(survpath((values - values.median()) / values.std()))
    read, _ = import_expression(tmp_path / "z", root, "BLCA")
    assert "WARNING: other cohorts have other units: BRCA: log2(x + 1), by its range" in read.notes
    assert not any("WARNING" in note for note in import_expression(tmp_path / "t", root, "BLCA")[0].notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("TP53", "T").replace("BRCA1", "B"), "has none of the 4 genes of the gene sets"),
        (lambda t: t.replace("\t", "\tinf\t", 2).replace("inf\t", "", 1), "cells; the header has|not a finite number"),
        (lambda t: t.replace("TCGA-A1", "TCGA-B9"), "none of its rows or columns is a case"),
    ],
)
def test_problems_leave_the_cohort_unchanged(tmp_path, root, values, tree, change, message):
    (tmp_path / "t").write_text(xena(values))
    import_expression(tmp_path / "t", root, "BRCA")
    (tmp_path / "t").write_text(change(xena(values)))
    before = tree(tmp_path)
    with pytest.raises(DataError, match=message):
        import_expression(tmp_path / "t", root, "BRCA")
    assert tree(tmp_path) == before


def test_a_missing_value_is_reported_with_gene_and_case(tmp_path, root, values, tree):
    values.loc[CASES[1], "TP53"] = float("nan")
    (tmp_path / "t").write_text(xena(values))
    before = tree(tmp_path)
    with pytest.raises(DataError, match=f"gene 'TP53': not a finite number for '{CASES[1]}'"):
        import_expression(tmp_path / "t", root, "BRCA")
    assert tree(tmp_path) == before


def test_unknown_values_become_the_means_of_training_cases_on_request(tmp_path, root, values):
    """Of each fold, and whatever the values of held-out cases are."""
    values.loc[CASES[:2], "TP53"] = float("nan")
    values["BRCA1"] = float("nan")
    (tmp_path / "t").write_text(xena(values))
    read, _ = import_expression(tmp_path / "t", root, "BRCA", all_genes=True, incomplete_genes="keep")
    assert "BRCA1" not in read.values and any("2 genes" not in note and "kept" in note for note in read.notes)
    checked = check(root)
    assert not checked.problems
    assert any("2 unknown values of 1 genes become training means: 'TP53'" in note for note in checked.notes)
    cohort = Cohort.load(root, "BRCA")
    fold = Fold(0, 0, training=(CASES[0], CASES[2], CASES[3]), validation=(CASES[1],))
    fitted = Preprocessing.fit(cohort, fold, intervals=1, expression_scale="zscore")
    place = fitted.genes.index("TP53")
    assert fitted.means[place] == pytest.approx(values.loc[[CASES[2], CASES[3]], "TP53"].mean())
    scaled = fitted.table(cohort).expression[:, place]
    row = fitted.table(cohort).row
    assert scaled[row[CASES[0]]] == scaled[row[CASES[1]]] == pytest.approx(0, abs=1e-6) and scaled.isfinite().all()


def test_labels_must_be_imported_first(tmp_path, root, values):
    (tmp_path / "t").write_text(xena(values))
    with pytest.raises(DataError, match=r"labels define the cases, .* survq import labels FILE DATA --cohort HNSC"):
        import_expression(tmp_path / "t", root, "HNSC")
    assert not (tmp_path / "data" / "HNSC").exists()


@pytest.mark.parametrize(("cohort", "cases", "unlabelled"), [("BRCA", 871, 85), ("HNSC", 394, 22)])
def test_real_tables_of_porpoise(real_data, tmp_path, cohort, cases, unlabelled):
    from survq.importing.labels import import_labels
    from survq.importing.pathways import import_gene_sets
    from survq.importing.splits import import_splits

    metadata, root = real_data / "survpath" / "datasets_csv" / "metadata", Location.at(tmp_path / "data")
    import_gene_sets([metadata / "combine_signatures.csv"], root)
    import_labels(metadata / f"tcga_{cohort.lower()}.csv", root, cohort)
    file = real_data / "porpoise" / "datasets_csv_mutsig" / f"tcga_{cohort.lower()}_all_clean.csv.zip"
    read, _ = import_expression(file, root, cohort)
    import_splits(real_data / "survpath" / "splits" / "5foldcv" / f"tcga_{cohort.lower()}", root, cohort)

    loaded = Cohort.load(root, cohort)
    assert (len(loaded.cases), loaded.has_expression.sum()) == (cases, cases)
    assert (len(loaded.pathways), loaded.sets_given["pathways"], loaded.expression.shape[1]) == (10, 331, 769)
    assert loaded.dropped["reason"].to_list() == ["expression without a label"] * unlabelled
    assert "covers 10 of 331 pathways; 4,230 of their 4,999 genes are missing" in read.notes[0]
    assert read.source["unit"] == "z-scores per gene, by their spread"

    table = pd.read_csv(file).drop_duplicates("case_id").set_index("case_id").loc[loaded.cases.index]
    ours = loaded.expression
    assert (ours == table[[f"{gene}_rnaseq" for gene in ours]].to_numpy(dtype=np.float32)).all(axis=None)
