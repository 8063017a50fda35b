"""Whose values these are: the case and the sample of a row are found by rule, or the table is refused with a cure.

Each entry is a table that someone had. A patient never gets the values of another, or of normal tissue.
"""

import pytest

from survq.data.problems import DataError
from survq.importing.expression import read_expression
from survq.importing.expression_table import Reading

NUMBERS = ["1", "2", "3"]
TCGA = ["TCGA-A1-0001", "TCGA-A1-0002"]
OWN = ["P1", "P2", "P3"]


def table(rows: str, separator: str = ",") -> str:
    """`a b / 1 2` as two lines; `_` is an empty cell."""
    lines = [["" if cell == "_" else cell for cell in line.split()] for line in rows.split("/")]
    return "".join(separator.join(cells) + "\n" for cells in lines)


def read(tmp_path, rows, cases, **stated):
    file = tmp_path / "t.csv"
    file.write_text(rows if "\n" in rows else table(rows))
    return read_expression(file, cases, wanted={"TP53"}, reading=Reading(**stated))


def values(expression) -> dict:
    return expression.values["TP53"].to_dict()


@pytest.mark.parametrize(
    ("rows", "cases", "expected"),
    [
        ("_ patient TP53 / 0 2 2.0 / 1 3 3.0 / 2 1 1.0 / 3 9 9.0", NUMBERS, {"1": 1, "2": 2, "3": 3}),
        ("patient AGE TP53 / 1 2 1.0 / 2 3 2.0 / 8 1 8.0 / 9 3 9.0", NUMBERS, {"1": 1, "2": 2}),
        ("AGE patient TP53 / 2 1 1.0 / 3 2 2.0 / 1 8 8.0", NUMBERS, {"1": 1, "2": 2}),
        ("_ TP53 case_id / 3 1.0 1 / 1 2.0 2 / 2 3.0 3", NUMBERS, {"1": 1, "2": 2, "3": 3}),
        ("stage Sex AGE a b c d TP53 Patient.ID / 1 1 3 1 2 3 1 7.0 2", NUMBERS, {"2": 7}),
        ("_ case_id TP53 / 1 P2 2.0 / 2 P1 1.0", ["1", "2", "P1", "P2"], {"P1": 1, "P2": 2}),
        ("control case_id TP53 / P2 P1 1.0 / P1 P2 2.0", OWN, {"P1": 1, "P2": 2}),
        ("x TP53 / P2 2.0 / P1 1.0", OWN, {"P1": 1, "P2": 2}),
        ("case_id sample_type TP53 / P1 Normal 9.0 / P1 Primary 1.0", OWN, {"P1": 1}),
        ("case_id Sample_Type TP53 / TCGA-A1-0001 11 9.0 / TCGA-A1-0001 1 1.0", TCGA, {TCGA[0]: 1}),
        (
            "PATIENT_ID SAMPLE_ID TP53 / TCGA-A1-0001 TCGA-A1-0001-11A 0.1 / TCGA-A1-0001 TCGA-A1-0001-01A 9.9",
            TCGA,
            {TCGA[0]: 9.9},
        ),
        (
            "SAMPLE_ID PATIENT_ID TP53 / TCGA-A1-0001-11A TCGA-A1-0001 0.1 / TCGA-A1-0001-01A TCGA-A1-0001 9.9",
            TCGA,
            {TCGA[0]: 9.9},
        ),
        ("x y TP53 / TCGA-A1-0001 TCGA-A1-0001-11A 0.1 / TCGA-A1-0001 TCGA-A1-0001-01A 9.9", TCGA, {TCGA[0]: 9.9}),
        ("_ TP53 / TCGA.A1.0001.11A 0.1 / TCGA.A1.0001.01A 9.9", TCGA, {TCGA[0]: 9.9}),
        ("case_id sample TP53 / TCGA-A1-0001 11A 0.1 / TCGA-A1-0001 01A 9.9", TCGA, {TCGA[0]: 9.9}),
        ("case_id sample TP53 / P1 11 0.1 / P2 12 9.9", OWN, {"P1": 0.1, "P2": 9.9}),
        ("gene TCGA-A1-0001-11A TCGA-A1-0001-01A / TP53 0.1 9.9", TCGA, {TCGA[0]: 9.9}),
        ("gene TCGA.A1.0001.11A TCGA.A1.0001.01A / TP53 0.1 9.9", TCGA, {TCGA[0]: 9.9}),
        ("gene 3 1 2 / TP53 3.0 1.0 2.0", NUMBERS, {"1": 1, "2": 2, "3": 3}),
    ],
)
def test_each_case_gets_its_own_values(tmp_path, rows, cases, expected):
    assert values(read(tmp_path, rows, cases)) == pytest.approx(expected)


REFUSED = [
    ("AGE TP53 / 1 1.0 / 3 2.0 / 2 3.0", NUMBERS, "some numbers in 'AGE' are also ids", {"case_column": "AGE"}),
    ("patient AGE TP53 / P8 1 1.0 / P9 2 2.0", NUMBERS, "no name says which column", {"case_column": "AGE"}),
    ("_ TP53 / 1 1.0 / 2 2.0 / 3 3.0", NUMBERS, "name it case_id", {"case_column": ""}),
    ("_ TP53 / 0 1.0 / 1 2.0 / 2 3.0", NUMBERS, r'--case-column "" for the one without a name', {"case_column": ""}),
    ("patient subject TP53 / 1 2 1.0 / 2 1 2.0", NUMBERS, "'patient' and 'subject'", {"case_column": "subject"}),
    ("a b TP53 / P1 P2 1.0 / P2 P1 2.0", OWN, "both 'a' and 'b' hold ids .* first in row 1", {"case_column": "b"}),
    (
        "tumour twin TP53 / TCGA-A1-0001-01 TCGA-A1-0002-01 1.0",
        TCGA,
        "both 'tumour' and 'twin' hold ids",
        {"case_column": "tumour"},
    ),
    (
        "sample_id barcode TP53 / TCGA-A1-0001-01 TCGA-A1-0001-11 1.0",
        TCGA,
        "'sample_id', 'barcode' state the sample types '01', '11' in row 1",
        {"sample_column": "sample_id"},
    ),
    ("patient 1 2 / 1 1.0 2.0 / 2 3.0 4.0", NUMBERS, "both its header and its column 'patient'", None),
]


@pytest.mark.parametrize(("rows", "cases", "message", "cure"), REFUSED)
def test_ambiguous_tables_are_refused_and_the_cure_works(tmp_path, rows, cases, message, cure):
    with pytest.raises(DataError, match=message):
        read(tmp_path, rows, cases)
    if cure is not None:
        assert len(read(tmp_path, rows, cases, **cure).values)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"case_column": "nix"}, "has no columns 'nix'; it has 'patient', 'AGE', 'TP53'. Fix: .* --case-column"),
        ({"sample_column": "nix"}, "Fix: name one of them with --sample-column"),
        ({"case_column": "TP53"}, "its column 'TP53' has '1.5', '2.5'; none is a case of this cohort"),
    ],
)
def test_a_stated_column_must_hold_the_cases(tmp_path, stated, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, "patient AGE TP53 / 1 2 1.5 / 2 3 2.5", NUMBERS, **stated)


def test_a_stated_column_counts_whatever_its_name(tmp_path):
    rows = "patient AGE TP53 / 1 2 1.0 / 2 3 2.0"
    assert values(read(tmp_path, rows, NUMBERS, case_column="AGE")) == {"2": 1, "3": 2}


def test_columns_of_annotation_are_not_patients(tmp_path):
    rows = "Hugo_Symbol Entrez_Gene_Id Description TCGA-A1-0001-01 TCGA-ZZ-0009-01 / TP53 7157 tumour 1.0 2.0"
    expression = read(tmp_path, rows, TCGA)
    assert expression.unlabelled == ("TCGA-ZZ-0009",)
    assert "columns that are no samples were ignored: 'Entrez_Gene_Id', 'Description'" in expression.notes
    rows = "gene_id gene_name gene_type P1 P9 / ENSG00000141510.16 TP53 protein_coding 1.0 2.0"
    expression = read(tmp_path, rows, OWN)
    assert (values(expression), expression.unlabelled) == ({"P1": 1.0}, ("P9",))
    expression = read(tmp_path, "_ gene P1 P2 / 0 TP53 1.0 2.0 / 1 KRAS 3.0 4.0", OWN)
    assert values(expression) == {"P1": 1.0, "P2": 2.0}


def test_the_kept_one_of_several_samples_is_named(tmp_path):
    rows = "gene TCGA-A1-0001-01B TCGA-A1-0001-01A TCGA-A1-0002-01A / TP53 1.0 2.0 3.0"
    expression = read(tmp_path, rows, TCGA)
    assert values(expression) == {TCGA[0]: 1.0, TCGA[1]: 3.0}
    note = "1 cases have several rows or columns, the first was kept: 'TCGA-A1-0001-01B before TCGA-A1-0001-01A'"
    assert note in expression.notes
    assert expression.source["kept_of_several"] == {TCGA[0]: "TCGA-A1-0001-01B"}
    expression = read(tmp_path, "sample patient TP53 / P1-b P1 9 / P1-a P1 1", OWN)
    assert expression.source["kept_of_several"] == {"P1": "P1-b"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("gene P1 P2 / TP53 NA NA / TP53 1 2", {"P1": 1, "P2": 2}),
        ("gene P1 P2 / TP53 1 2 / TP53 NA NA", {"P1": 1, "P2": 2}),
        ("gene P1 P2 / TP53 9 NA / TP53 1 2", {"P1": 1, "P2": 2}),
        ("gene P1 P2 / TP53 1 2 / TP53 2 1", {"P1": 2, "P2": 1}),
        ("gene P1 P2 / TP53 2 1 / TP53 1 2", {"P1": 2, "P2": 1}),
        ("gene P2 P1 / TP53 2 1 / TP53 1 2", {"P1": 2, "P2": 1}),
    ],
)
def test_the_order_of_rows_of_a_gene_decides_nothing(tmp_path, rows, expected):
    assert values(read(tmp_path, rows, OWN)) == expected


@pytest.mark.parametrize(
    "date", ["1-Mar", "2-Sep", "Mar-01", "1-Dec", "2001-03-01", "01/03/2001", "2021-03-01 00:00:00"]
)
def test_genes_that_a_spreadsheet_made_dates_are_named(tmp_path, date):
    (tmp_path / "t.csv").write_text(f"gene,P1,P2\nTP53,1,2\n{date},3,4\n")
    notes = read_expression(tmp_path / "t.csv", OWN, all_genes=True).notes
    assert any(f"1 names of genes are dates, such as '{date}'" in note for note in notes)


@pytest.mark.parametrize(
    "symbol", ["MARCH1", "SEPT2", "DEC1", "HLA-A", "NKX2-1", "C1orf112", "7SK", "MT-ND1", "AC005-2.1"]
)
def test_symbols_are_no_dates(tmp_path, symbol):
    (tmp_path / "t.csv").write_text(f"gene,P1,P2\nTP53,1,2\n{symbol},3,4\n")
    assert not [note for note in read_expression(tmp_path / "t.csv", OWN, all_genes=True).notes if "dates" in note]
