"""Expression tables of Xena, SurvPath, MMP and PORPOISE: the same values from every layout; problems are reported."""

import gzip
import json
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from expression_files import CASES, ENSEMBL, GENES, mmp, porpoise, random_values, survpath, xena

from survq.data.gene_sets import GeneSets
from survq.data.problems import DataError
from survq.importing.expression import read_expression
from survq.importing.expression_table import Reading
from survq.importing.gene_set_files import read_file
from survq.importing.genes import Aliases, GeneMap


@pytest.fixture
def values() -> pd.DataFrame:
    return random_values()


@pytest.fixture
def gene_map(tmp_path) -> GeneMap:
    lines = ["id\tgene\tchrom", *(f"{name}\t{gene}\tchr1" for gene, name in ENSEMBL.items())]
    (tmp_path / "gencode.probemap").write_text("\n".join([*lines, "ENSG00000000099.1\tOTHER\tchr1"]) + "\n")
    return GeneMap.read(tmp_path / "gencode.probemap")


LAYOUTS = {
    "Xena TCGA hub": lambda values: xena(values),
    "Xena GDC hub": lambda values: xena(values, "-01A", "Ensembl_ID", ENSEMBL),
    "Xena Toil hub": lambda values: xena(values, "-01", "sample", ENSEMBL),
    "Ensembl ids of another version": lambda values: xena(
        values, names={gene: name.split(".")[0] + ".99" for gene, name in ENSEMBL.items()}
    ),
    "misleading first header": lambda values: xena(values, first="TP53"),
    "SurvPath": survpath,
    "SurvPath with a named index": lambda values: survpath(values, "patient"),
    "SurvPath transposed": lambda values: survpath(values.T),
    "MMP": mmp,
    "MMP as its loader expects": lambda values: mmp(values, "case_id"),
    "PORPOISE": porpoise,
    "semicolons": lambda values: survpath(values).replace(",", ";"),
    "Windows lines": lambda values: "\ufeff" + survpath(values).replace("\n", "\r\n"),
}


def needs_map(layout: str) -> bool:
    return "GDC" in layout or "Toil" in layout or "Ensembl" in layout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", ["plain", "gz", "zip"])
def test_all_layouts_give_the_same_values(tmp_path, values, gene_map, layout, compression):
    text = LAYOUTS[layout](values).encode()
    file = tmp_path / "table"
    if compression == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("./tcga_brca_all_clean.csv.zip", text)  # the name of the member in PORPOISE's archive
    else:
        file.write_bytes(gzip.compress(text) if compression == "gz" else text)
    read = read_expression(file, CASES, reading=Reading(gene_map if needs_map(layout) else None))
    expected = values.astype(np.float32).rename_axis("case_id")
    pd.testing.assert_frame_equal(read.values[GENES], expected, check_exact=True)
    assert not read.unlabelled


@pytest.mark.parametrize("layout", ["Xena TCGA hub", "SurvPath", "PORPOISE"])
def test_only_wanted_genes_are_kept(tmp_path, values, layout):
    (tmp_path / "t").write_text(LAYOUTS[layout](values))
    read = read_expression(tmp_path / "t", CASES[:3], wanted={"BRCA1", "X"})
    assert list(read.values) == ["BRCA1"]
    assert list(read.values.index) == CASES[:3]
    assert read.unlabelled == tuple(CASES[3:])
    assert read.source["genes_in_the_table"] == 4


def test_other_sample_types(tmp_path, values):
    (tmp_path / "t").write_text(xena(values))
    read = read_expression(tmp_path / "t", CASES, reading=Reading(sample_types=["06"]))
    assert read.values.index.tolist() == [CASES[1]]
    assert (read.values.to_numpy() == 78).all()
    with pytest.raises(DataError, match="none of the samples of these cases is of type 03"):
        read_expression(tmp_path / "t", CASES, reading=Reading(sample_types=["03"]))


def test_of_several_samples_of_a_case_the_first_is_used(tmp_path, values):
    both = pd.concat([values, values.head(1) + 1, values.iloc[[2]]])
    (tmp_path / "rows").write_text(survpath(both))
    table = values.T.rename(columns=lambda case: f"{case}-01A")
    table.insert(3, f"{CASES[0]}-01B", 5.0)
    (tmp_path / "columns").write_text(table.to_csv(sep="\t"))
    for file, cases in (("rows", [CASES[0], CASES[2]]), ("columns", [CASES[0]])):
        read = read_expression(tmp_path / file, CASES)
        assert read.source["several_rows_of_a_case_first_kept"] == cases
        assert (read.values[GENES] == values.astype(np.float32)).all(axis=None)
        assert any("the first was kept" in note for note in read.notes)
    (tmp_path / "same").write_text(porpoise(values))
    assert any("all equal" in note for note in read_expression(tmp_path / "same", CASES).notes)


@pytest.mark.parametrize("transposed", [False, True])
def test_of_several_rows_of_a_symbol_the_expressed_one_is_used(tmp_path, values, transposed):
    """Copies of genes on chromosome Y are at the floor in all cases; averaging would lower the gene."""
    table = pd.concat([pd.DataFrame(-9.9658, index=CASES, columns=["TP53"]), values], axis=1)
    (tmp_path / "t").write_text((table.T if transposed else table).to_csv())
    read = read_expression(tmp_path / "t", CASES)
    assert read.source["several_rows_of_a_gene_highest_mean_kept"] == ["TP53"]
    assert (read.values[GENES] == values.astype(np.float32)).all(axis=None)


def test_a_copy_on_chromosome_y_is_the_same_gene(tmp_path, values, gene_map):
    names = {**ENSEMBL, "NKX2-1": ENSEMBL["TP53"] + "_PAR_Y"}
    values["NKX2-1"] = -9.9658
    (tmp_path / "t").write_text(xena(values, names=names))
    read = read_expression(tmp_path / "t", CASES, reading=Reading(gene_map))
    assert (read.values["TP53"] == values["TP53"].astype(np.float32)).all()
    assert "NKX2-1" not in read.values


@pytest.mark.parametrize(
    ("name", "change", "unit"),
    [
        ("rna_clean.csv", lambda v: v.mask(v < 5, -9.9658), "log2(TPM + 0.001), by its floor"),
        ("TCGA-BRCA.star_tpm.tsv.gz", lambda v: v, "log2(TPM + 1), by its name"),
        ("TCGA.BRCA.sampleMap_HiSeqV2.gz", lambda v: v, "log2(RSEM normalised count + 1), by its name"),
        ("HiSeqV2_PANCAN", lambda v: v - v.mean(), "log2(RSEM normalised count + 1), centred, by its name"),
        ("x.csv", lambda v: v, "log2(x + 1), by its range"),
        ("x.csv", lambda v: 2**v, "no logarithm, by its range"),
        ("x.csv", lambda v: (v - v.median()) / v.std(), "z-scores per gene, by their spread"),
        ("x.csv", lambda v: v - v.median(), "centred logarithm, by its range"),
        ("x.csv", lambda v: v * 5 - 30, "unknown"),
    ],
)
def test_the_unit(tmp_path, values, name, change, unit):
    (tmp_path / name).write_text(survpath(change(values)))
    assert read_expression(tmp_path / name, CASES).source["unit"] == unit


def test_outliers_and_constant_genes_are_noted(tmp_path, values):
    values.iloc[2, 1], values["TP53"] = 36893, 4.0
    (tmp_path / "t").write_text(survpath(values))
    notes = " | ".join(read_expression(tmp_path / "t", CASES).notes)
    assert "1 genes exceed +-30, up to 36893 in 'BRCA1'" in notes
    assert "1 genes have the same value in all cases: 'TP53'" in notes


BAD = {
    "ids of another cohort": (
        lambda t: t.replace("TCGA-", "P-"),
        "none of its rows or columns is a case of this cohort",
    ),
    "ragged": (lambda t: t + "TCGA-A1-0005,1,2\n", ": 3 cells; the header has 5"),
    "no header": (lambda t: "", "is empty"),
    "no rows": (lambda t: t.partition("\n")[0] + "\n", "none of its rows or columns|cannot be read as a table"),
    "one column": (lambda t: t.replace(",", "_"), "has one column"),
    "a row without id": (lambda t: t.replace("TCGA-A1-0003", ""), "no case id in lines '5'"),
}


@pytest.mark.parametrize("problem", BAD)
def test_problems_are_reported(tmp_path, values, problem):
    change, message = BAD[problem]
    (tmp_path / "t").write_text(change(survpath(values)))
    with pytest.raises(DataError, match=message):
        read_expression(tmp_path / "t", CASES)


@pytest.mark.parametrize("transposed", [False, True])
def test_every_cell_that_is_not_a_number_is_listed(tmp_path, values, transposed):
    table = values.astype(object)
    table.iloc[1, 2], table.iloc[4, 0] = "low", "1,5"
    table.iloc[0, 0] = "NA"
    (tmp_path / "t").write_text((table.T if transposed else table).to_csv())
    with pytest.raises(DataError) as error:
        read_expression(tmp_path / "t", CASES)
    problems = " ".join(error.value.problems)
    assert len(error.value.problems) == 2
    row, column = (GENES[2], CASES[1]) if transposed else (CASES[1], GENES[2])
    assert f"{row!r}, {column!r}: 'low' is not a number" in problems
    assert "'1,5' is not a number" in problems


def test_ensembl_ids_and_symbols_are_distinguished(tmp_path, values, gene_map):
    (tmp_path / "ids").write_text(xena(values, names=ENSEMBL))
    with pytest.raises(
        DataError, match=r"its genes are Ensembl ids such as 'ENSG.*Fix: pass Xena's probemap .* with --gene-map"
    ):
        read_expression(tmp_path / "ids", CASES)
    (tmp_path / "symbols").write_text(xena(values))
    with pytest.raises(DataError, match="its genes are not Ensembl ids: 'TP53'"):
        read_expression(tmp_path / "symbols", CASES, reading=Reading(gene_map))


def test_a_truncated_table_is_refused(tmp_path, values):
    (tmp_path / "t.gz").write_bytes(gzip.compress(xena(values).encode())[:-12])
    with pytest.raises(DataError, match=r"t\.gz: cannot be decompressed"):
        read_expression(tmp_path / "t.gz", CASES)


PEAK = """
import json, resource, sys
from survq.importing.expression import read_expression
cases, genes = [f"TCGA-A1-{n:04d}" for n in range(100)], {f"G{n}" for n in range(500)}
read = read_expression(sys.argv[1], cases, wanted=genes)
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, *read.values.shape]))
"""


@pytest.mark.timeout(120)
def test_memory_does_not_grow_with_the_table(tmp_path):
    """2,000 samples, of which 100 are imported; 2,000 and 10,000 genes, of which 500 are imported."""
    header = "\t".join(["sample", *(f"TCGA-A1-{number:04d}-01" for number in range(2000))])
    cells = "\t".join(f"{number % 17}.{number % 9973:04d}" for number in range(2000))
    peaks = []
    for genes in (2000, 10000):
        with (tmp_path / "t").open("w") as stream:
            stream.write(header + "\n")
            stream.writelines(f"G{number}\t{cells}\n" for number in range(genes))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path / "t")], capture_output=True, text=True, check=True
        )
        peak, *shape = json.loads(done.stdout)
        assert shape == [100, 500]
        peaks.append(peak)
    size = (tmp_path / "t").stat().st_size / 2**20
    assert size > 110
    assert peaks[1] - peaks[0] < 40, f"{peaks} MiB for tables of {size / 5:.0f} and {size:.0f} MiB"


def test_aliases_between_real_old_and_new_symbols(real_data):
    """The 281 sets of SurvPath use older symbols than Reactome and MSigDB today."""
    older = read_file(real_data / "survpath/datasets_csv/metadata/xena_signatures.csv")
    newer = [
        GeneSets.from_gmt(real_data / "pathways" / name) for name in ("ReactomePathways.gmt", "h.all.v7.0.symbols.gmt")
    ]
    wanted = {gene for members in older.genes for gene in members}
    measured = {gene for pathways in newer for members in pathways.genes for gene in members}
    pairs = {"MMUT": "MUT", "NECTIN1": "PVRL1", "ATP5F1E": "ATP5E"}
    renamed, ambiguous = Aliases.of(pairs.items()).renamed(measured, wanted)
    assert renamed == pairs
    assert not ambiguous


def test_a_header_without_a_name_for_the_row_names_is_said(tmp_path):
    """As R writes it, or as a table is whose first name somebody has lost."""
    table = random_values()
    for written in (table, table.T):
        text = written.to_csv(sep="\t")
        (tmp_path / "r.tsv").write_text(text.removeprefix("\t"))
        read = read_expression(tmp_path / "r.tsv", CASES)
        assert [note for note in read.notes if f"taken for R's, with {written.columns[0]!r} second" in note]
        assert read.values.shape == table.shape
