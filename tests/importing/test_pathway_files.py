"""Import of gene sets from one or more files, and their coverage by each cohort."""

import json

import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.cohort_files import update_cohort
from survq.data.gene_sets import GeneSets, least_coverage, read_collections
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.gene_set_files import read_file
from survq.importing.pathways import identical, import_gene_sets

GMT = "HALLMARK_A\thttp://x\tTP53\tBRCA1\t\nHALLMARK_B\tx\tTP53\n"
CSV = "R/1,=R 2\nTP53,HLA-A\nBRCA1,\n"


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.fixture
def root(tmp_path) -> Location:
    return Location.at(tmp_path / "data")


def test_several_files_are_concatenated_in_their_order(tmp_path, root):
    files = [write(tmp_path, "h.all.v2023.1.Hs.symbols.gmt", GMT), write(tmp_path, "signatures.csv", CSV)]
    imported = import_gene_sets(files, root)
    pathways = GeneSets.from_gmt(root / "pathways.gmt")
    assert pathways == imported.sets
    assert pathways.names == ("HALLMARK_A", "HALLMARK_B", "R/1", "=R 2")
    assert imported.notes == (
        "3 genes, 1 to 2 per set, median 2",
        "1 groups of gene sets have identical genes; all are kept: 'HALLMARK_A = R/1'",
    )
    sources = json.loads((tmp_path / "data" / "source.json").read_text())["pathways"]
    assert [source["file"] for source in sources["files"]] == ["h.all.v2023.1.Hs.symbols.gmt", "signatures.csv"]
    assert identical(pathways)[0] == ("HALLMARK_A", "R/1")


def test_the_coverage_of_cohorts_is_written(tmp_path, root):
    for name, genes in (("BRCA", ["TP53", "BRCA1"]), ("HNSC", ["HLA-A"])):
        cases = pd.DataFrame({"time": 3.0, "event": True}, index=["P1", "P2"])
        expression = pd.DataFrame(1.0, index=["P1", "P2"], columns=genes)
        source = {"expression": {"genes_kept": "those of the gene sets"}}
        update_cohort(root / name, source, cases=cases, expression=expression)
    imported = import_gene_sets([write(tmp_path, "signatures.csv", CSV)], root)
    assert imported.covered == {"BRCA": 1, "HNSC": 1}
    assert sum("has only the genes of other gene sets" in note for note in imported.notes) == 2
    table = pd.read_csv(tmp_path / "data" / "coverage.csv", keep_default_na=False)
    assert table[["cohort", "gene_set", "measured", "kept", "missing"]].to_numpy().tolist() == [
        ["BRCA", "R/1", 2, True, ""],
        ["BRCA", "'=R 2", 0, False, "HLA-A"],  # not a formula in a spreadsheet
        ["HNSC", "R/1", 0, False, "TP53 BRCA1"],
        ["HNSC", "'=R 2", 1, True, ""],
    ]
    assert not import_gene_sets([tmp_path / "signatures.csv"], root).notes[1:]


def test_further_collections_have_their_own_files(tmp_path, root):
    cases = pd.DataFrame({"time": 3.0, "event": True}, index=["P1", "P2"])
    expression = pd.DataFrame(1.0, index=["P1", "P2"], columns=["TP53"])
    update_cohort(root / "BRCA", {}, cases=cases, expression=expression)
    import_gene_sets([write(tmp_path, "signatures.csv", CSV)], root)
    imported = import_gene_sets([write(tmp_path, "hallmarks.gmt", GMT)], root, "six_groups")
    assert imported.covered == {"BRCA": 2}  # a gene is enough; of pathways 90 % are needed
    read, problems = read_collections(root)
    assert read == {"pathways": read_file(tmp_path / "signatures.csv"), "six_groups": imported.sets} and not problems
    sources = json.loads((tmp_path / "data" / "source.json").read_text())
    assert {name: [file["file"] for file in source["files"]] for name, source in sources.items()} == {
        "pathways": ["signatures.csv"],
        "six_groups": ["hallmarks.gmt"],
    }
    table = pd.read_csv(tmp_path / "data" / "coverage.csv", keep_default_na=False)
    assert table[["collection", "gene_set", "measured", "kept"]].to_numpy().tolist() == [
        ["pathways", "R/1", 1, False],
        ["pathways", "'=R 2", 0, False],
        ["six_groups", "HALLMARK_A", 1, True],
        ["six_groups", "HALLMARK_B", 1, True],
    ]
    assert Cohort.load(root, "BRCA").spec.gene_sets == {"pathways": (), "six_groups": ((0,), (0,))}


def test_an_invalid_name_of_a_collection_writes_nothing(tmp_path, root, tree):
    file = write(tmp_path, "hallmarks.gmt", GMT)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=r"'\.\./x' cannot be the name of a collection"):
        import_gene_sets([file], root, "../x")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c2.cp.reactome.v7.4.entrez.gmt",
            "A\tx\t7157\t672\n",
            "its genes are Entrez ids, .* Fix: use the file with symbols",
        ),
        ("t.gmt", "A x TP53\n", "no genes in gene set"),
        ("t.gmt", GMT + "HALLMARK_A\tx\tB\n", "is already above"),
        ("t.csv", "p,q\nG1,\n", "column 2: no genes in gene set 'q'"),
        ("t.csv", "p,p\nAB,BC\n", "column 2: gene set 'p' is already to the left"),
        ("t.csv", ",p\nTP53,KRAS\n", "column 1: gene set name ''"),
        ("t.csv", '"p\tq",r\nTP53,KRAS\n', "column 1: gene set name"),
        ("t.csv", "", "holds no gene sets"),
        ("t.gmt", "", "holds no gene set"),
    ],
)
def test_problems_are_reported_and_nothing_is_written(tmp_path, root, tree, name, text, message):
    good = write(tmp_path, "good.gmt", "FINE\tx\tTP53\n")
    bad = write(tmp_path, name, text)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=message):
        import_gene_sets([good, bad], root)
    assert tree(tmp_path) == before


def test_a_name_in_two_files_is_refused(tmp_path, root):
    files = [write(tmp_path, "a.gmt", GMT), write(tmp_path, "b.gmt", GMT)]
    with pytest.raises(DataError) as error:
        import_gene_sets(files, root)
    assert len(error.value.problems) == 2
    assert "gene set 'HALLMARK_A' is also in " in error.value.problems[0]


def test_a_file_without_a_suffix_is_recognised_by_its_first_line(tmp_path):
    assert read_file(write(tmp_path, "sets", GMT)).names == ("HALLMARK_A", "HALLMARK_B")
    assert read_file(write(tmp_path, "table.txt", CSV)).names == ("R/1", "=R 2")


def test_real_gene_sets(real_data, root):
    metadata = real_data / "survpath" / "datasets_csv" / "metadata"
    joined = import_gene_sets([metadata / "hallmarks_signatures.csv", metadata / "xena_signatures.csv"], root)
    combined = read_file(metadata / "combine_signatures.csv")
    assert dict(zip(joined.sets.names, joined.sets.genes, strict=True)) == dict(
        zip(combined.names, combined.genes, strict=True)
    )
    assert joined.notes[0] == "4,999 genes, 1 to 199 per set, median 8"
    assert joined.notes[1].startswith("13 groups of gene sets have identical genes")
    assert sum(len(names) > 1 for names in identical(joined.sets)) == 13


def test_real_official_files(real_data, root):
    files = [real_data / "pathways" / name for name in ("h.all.v7.0.symbols.gmt", "ReactomePathways.gmt")]
    assert len(import_gene_sets(files, root).sets) == 50 + 2546


def test_the_real_groups_and_families_all_count(real_data, root):
    """Of the public table: 24 of 82 tumour suppressors, 50 of 1536 transcription factors. A rule of 90 % keeps none."""
    header = (real_data / "survpath/datasets_csv/raw_rna_data/xena/blca/rna_clean.csv").open().readline()
    genes = header.strip().replace('"', "").split(",")
    for name, count in (("six_groups", 6), ("eight_families", 8)):
        sets = import_gene_sets([real_data / "gene_sets" / f"{name}.gmt"], root, name).sets
        assert len(sets) == count
        assert len(sets.covered_by(genes, least_coverage(name))) == count
        assert len(sets.covered_by(genes, least_coverage("pathways"))) == 0
