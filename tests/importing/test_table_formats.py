"""However a table was saved, it gives the same values, or is refused with its place and a cure that works."""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import warnings
import zipfile

import openpyxl
import pandas as pd
import pytest

from survq.data.problems import DataError
from survq.importing.expression import read_expression
from survq.importing.expression_table import Reading
from survq.importing.labels import read_labels
from survq.importing.missing import MISSING, Missing
from survq.importing.outcomes import Columns
from survq.importing.splits import read_splits

LABELS = "case_id,survival_months,censorship\nP1,10,0\nP2,20.5,1\nP3,30,0\n"
EXPRESSION = "case_id,TP53,KRAS\nP1,1.5,-2\nP2,2,3\nP3,3.25,4e-1\n"
OUTCOMES = {"P1": (10.0, True), "P2": (20.5, False), "P3": (30.0, True)}
VALUES = {"P1": [1.5, -2.0], "P2": [2.0, 3.0], "P3": [3.25, 0.4]}


def outcomes(file, **options) -> dict:
    return {case: (row.time, row.event) for case, row in read_labels(file, "OS", **options).cases.iterrows()}


def values(file, cases=tuple(VALUES), **stated) -> dict:
    read = read_expression(file, cases, reading=Reading(**stated)).values[["TP53", "KRAS"]].astype(float).round(6)
    return {case: row.tolist() for case, row in read.iterrows()}


def packed(text: str, how: str) -> bytes:
    content = io.BytesIO()
    if how == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("table.csv", text)
        return content.getvalue()
    return {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[how](text.encode())


def quoted(text: str) -> str:
    return "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()) + "\n"


def of_r(text: str, separator: str) -> str:
    """As R's write.table: the header is one cell short, row names and text in quotes."""
    header, *rows = (line.split(",") for line in text.splitlines())
    lines = [[f'"{name}"' for name in header]]
    lines += [[f'"{number}"', f'"{row[0]}"', *row[1:]] for number, row in enumerate(rows, start=1)]
    return "\n".join(separator.join(line) for line in lines) + "\n"


WRITTEN = {
    "as it is": lambda text: text.encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "bars": lambda text: text.replace(",", "|").encode(),
    "quotes": lambda text: quoted(text).encode(),
    "blanks beside cells": lambda text: text.replace(",", " , ").encode(),
    "R, blanks": lambda text: of_r(text, " ").encode(),
    "R, tabs": lambda text: of_r(text, "\t").encode(),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
    "old Mac with tabs": lambda text: text.replace("\n", "\r").replace(",", "\t").encode(),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "no end of the last line": lambda text: text.rstrip("\n").encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "Excel's Unicode text": lambda text: text.replace(",", "\t").encode("utf-16"),
    "big-endian UTF-16": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "comments": lambda text: f"# made by us\n#\n{text}".encode(),
    "GDC's comment": lambda text: f"# gene-model: GENCODE v36\n{text}".encode(),
    "a header that starts with #": lambda text: f"#{text}".encode(),
    "blank lines": lambda text: ("\n\n" + text.replace("\n", "\n\n")).encode(),
    "empty rows at the end": lambda text: f"{text},,\n,,\n,,\n".encode(),
    "rows of NA": lambda text: f"{text}NA,NA,NA\n".encode(),
    "empty columns": lambda text: text.replace("\n", ",,\n").encode(),
    **{how: lambda text, how=how: packed(text, how) for how in ("gz", "zip", "xz", "bz2")},
}


@pytest.mark.parametrize("how", WRITTEN)
def test_tables_are_read_however_they_were_saved(tmp_path, how):
    (tmp_path / "t").write_bytes(WRITTEN[how](LABELS))
    assert outcomes(tmp_path / "t") == OUTCOMES
    said = [
        note for note in read_labels(tmp_path / "t", "OS").notes if "one name less than the rows have cells" in note
    ]
    assert len(said) == how.startswith("R,"), said
    (tmp_path / "t").write_bytes(WRITTEN[how](EXPRESSION))
    assert values(tmp_path / "t") == VALUES


GENES_IN_ROWS = "gene\tP1\tP2\tP3\nTP53\t1.5\t2\t3.25\nKRAS\t-2\t3\t0.4\n"


@pytest.mark.parametrize(
    "text",
    [
        GENES_IN_ROWS,
        GENES_IN_ROWS.replace("\n", "\r"),
        "# gene-model: GENCODE v36\n" + GENES_IN_ROWS,
        "#1.2\n2\t3\n"
        + GENES_IN_ROWS.replace("gene\t", "Name\tDescription\t")
        .replace("\nTP53", "\nTP53\tx")
        .replace("\nKRAS", "\nKRAS\tx"),
        "#" + GENES_IN_ROWS,
        GENES_IN_ROWS.replace("gene\t", ""),  # R
        GENES_IN_ROWS.replace("gene\t", "Hybridization REF\t").replace(
            "\nTP53", "\ngene_id" + "\tnormalized_count" * 3 + "\nTP53|7157"
        ),
        GENES_IN_ROWS + "?|100130426\t1\t2\t3\n\t4\t5\t6\nNA\t4\t5\t6\n",
        GENES_IN_ROWS.replace("\nTP53", "\nKRAS\tNA\tNA\tNA\nTP53"),
    ],
    ids=[
        "plain",
        "CR",
        "comment",
        "GCT",
        "#",
        "R",
        "Firehose",
        "rows without a gene",
        "a repeated gene without values",
    ],
)
def test_genes_in_rows(tmp_path, text):
    (tmp_path / "t").write_text(text)
    assert values(tmp_path / "t") == VALUES


OTHER_FILES = {
    "a workbook": (None, "is a workbook; expected a text table. Fix: save the table as CSV"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 90, "is a workbook of old Excel"),
    "R": (gzip.compress(b"X\n\x00\x00\x00\x03"), "is a file of R objects.* Fix: save the table in R with write.csv"),
    "Parquet": (b"PAR1\x15\x04\x15", "is a Parquet file"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; expected a text table. Fix: unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "is packed by zstd"),
    "a web page": (b"<!DOCTYPE html><html>", "is a web page or XML.* Fix: download the table itself"),
    "JSON": (b'{"data": []}', "is JSON"),
    "binary": (b"a,b\n\x00\x01\n", "is not text. Fix: save the table as CSV"),
    "Latin-1": ("case_id,survival_months,censorship\nJosé,1,0\n".encode("latin-1"), "is not UTF-8 text"),
    "empty": (b"", "is empty"),
    "blanks": (b"\n \n", "is empty"),
    "damaged xz": (lzma.compress(EXPRESSION.encode())[:-9], "cannot be decompressed"),
    "one column": (b"case_id\nP1\n", "has one column, 'case_id'; expected commas or tabs"),
    "a separator at the end of rows": (b"case_id,b\nP1,2,\nP2,3,\n", "one cell more than its header"),
}


@pytest.mark.parametrize("what", OTHER_FILES)
@pytest.mark.parametrize("read", [outcomes, values])
def test_other_files_are_named(tmp_path, what, read):
    content, message = OTHER_FILES[what]
    if content is None:
        if read is outcomes:
            pytest.skip("labels are read from workbooks")
        openpyxl.Workbook().save(tmp_path / "t")
    else:
        (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "t")
    assert len(error.value.problems) == 1


def test_a_tar_archive_and_a_folder_are_named(tmp_path):
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        (tmp_path / "table.csv").write_text(LABELS)
        archive.add(tmp_path / "table.csv", "table.csv")
    for read in (outcomes, values):
        with pytest.raises(DataError, match=r"is a tar archive; expected a text table\. Fix: unpack it"):
            read(tmp_path / "t.tar.gz")
        with pytest.raises(DataError, match=r"is a folder, which holds 't.tar.gz', 'table.csv'; expected a file"):
            read(tmp_path)


BLANKS = [
    *["", "NA", "nan", "NaN", "n/a", "None", "NULL", "#N/A", "#DIV/0!", "<NA>", "Unknown", "Not Reported"],
    *["[Not Available]", "[Discrepancy]", "[Not Evaluated]", "[Completed]", "'--", "--", "-", ".", "?"],
]


@pytest.mark.parametrize("blank", BLANKS)
def test_missing_is_the_same_for_all_readers(tmp_path, blank):
    (tmp_path / "labels").write_text(f"{LABELS}P4,{blank},1\nP5,5,{blank}\n{blank},{blank},{blank}\n")
    labels = read_labels(tmp_path / "labels", "OS")
    assert labels.dropped == {"P4": "no time", "P5": "no event status"} and list(labels.cases.index) == list(OUTCOMES)
    (tmp_path / "t").write_text(f"{EXPRESSION}P4,{blank},1\n{blank},{blank},{blank}\n")
    with pytest.raises(
        DataError, match=r"t: gene 'TP53': not a finite number for 'P4'. Fix: .* --incomplete-genes drop, or keep"
    ):
        values(tmp_path / "t", [*VALUES, "P4"])
    left = read_expression(tmp_path / "t", [*VALUES, "P4"], incomplete_genes="drop")
    assert list(left.values) == ["KRAS"] and list(left.values.index) == [*VALUES, "P4"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "splits_0.csv").write_text(f",train,val\n0,P1,P2\n1,P3,{blank}\n{blank},{blank},{blank}\n")
    assert set(read_splits(tmp_path / "splits").table["case_id"]) == {"P1", "P2", "P3"}


@pytest.mark.parametrize("word", ["0", "P1", "x", "inf", "-1", "NAT2", "+"])
def test_what_is_not_missing(word):
    assert word not in MISSING
    assert word in Missing.and_also([word.lower()])


def test_further_spellings_are_stated(tmp_path):
    (tmp_path / "t").write_text(LABELS + "P4,-999,1\n")
    assert read_labels(tmp_path / "t", "OS").dropped == {"P4": "time is below 0"}
    assert read_labels(tmp_path / "t", "OS", missing=Missing.and_also(["-999"])).dropped == {"P4": "no time"}
    (tmp_path / "t").write_text(EXPRESSION + "P4,-999,-999\n")
    assert values(tmp_path / "t", missing=Missing.and_also(["-999"])) == VALUES
    (tmp_path / "t").write_text(EXPRESSION + "P4,low,1\n")
    with pytest.raises(DataError, match="'P4', 'TP53': 'low' is not a number"):
        values(tmp_path / "t")
    assert values(tmp_path / "t", missing=Missing.and_also(["LOW"])) == VALUES


@pytest.mark.parametrize(
    "number", ["1_2.5", "1,5", "1 200", "12 months", "0x10", "1e", "٣", "inf", "-inf", "1e999", "1d5", "½"]
)
def test_what_is_no_number_is_refused(tmp_path, number):
    (tmp_path / "t").write_text(LABELS.replace("\n", "\n").replace(",", "\t") + f"P4\t{number}\t1\n")
    with pytest.raises(DataError, match=f"t:5: survival_months {re.escape(repr(number))}; expected a number"):
        read_labels(tmp_path / "t", "OS")
    (tmp_path / "t").write_text(EXPRESSION.replace(",", "\t") + f"P4\t{number}\t1\n")
    with pytest.raises(DataError, match=r"is not a number|not a finite number for 'P4'"):
        values(tmp_path / "t", [*VALUES, "P4"])


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (outcomes, LABELS.replace("10", "ten").replace("20.5", "x").replace("30", "y"), "all 3 rows are like line 2"),
        (
            outcomes,
            LABELS.replace(",0", ",dead").replace(",1", ",alive"),
            "all 3 rows are like line 2: censorship 'dead'",
        ),
        (
            outcomes,
            "case_id,survival_months,censorship\nP1,1\nP2,3\n",
            "all 2 rows are like line 2: 2 cells; the header",
        ),
        (outcomes, LABELS.replace("P", "="), "all 3 rows are like line 2: case id '=1'"),
        (values, "case_id,TP53,KRAS\nP1,1\nP2,3\nP3,3\n", "all 3 rows are like line 2: 2 cells; the header has 3"),
        (
            values,  # R's write.csv2
            "case_id;TP53;KRAS\nP1;1,5;-2,1\nP2;2,25;3,5\nP3;3,25;0,4\n",
            r"all 3 rows have cells that are not numbers, first 'P1', 'TP53': '1,5' .* with a decimal point",
        ),
    ],
)
def test_one_fault_of_all_rows_is_said_once(tmp_path, read, text, message):
    (tmp_path / "t").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / "t")
    assert len(error.value.problems) <= 3
    assert all(len(problem) < 400 and "Fix: " in problem for problem in error.value.problems)


def test_a_table_of_missing_values_is_refused_without_warnings(tmp_path):
    (tmp_path / "t").write_text("case_id,TP53,KRAS\nP1,NA,NA\nP2,NA,NA\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"t: no gene has a finite number for 'P1', 'P2'\. Fix: fill in the values"):
            values(tmp_path / "t")


def test_several_kinds_of_values_below_the_header_are_refused(tmp_path):
    text = "Hybridization REF\tP1\tP1\tP2\tP2\ngene_id\traw\tscaled\traw\tscaled\nTP53|7157\t1\t2\t3\t4\n"
    (tmp_path / "t").write_text(text)
    with pytest.raises(
        DataError, match=r"names several kinds of values, 'raw', 'scaled'.* Fix: keep the columns of one"
    ):
        values(tmp_path / "t")


def test_a_line_is_named_as_in_the_file(tmp_path):
    (tmp_path / "t").write_text("# a\n\n" + LABELS.replace("P2,20.5", "P2,x"))
    with pytest.raises(DataError, match="t:5: survival_months 'x'"):
        outcomes(tmp_path / "t")
    (tmp_path / "t").write_text("# a\n" + EXPRESSION.replace("P2,2", "P2,2,7"))
    with pytest.raises(DataError, match="t:4: 4 cells; the header has 3"):
        values(tmp_path / "t")


def test_an_unclosed_quote_is_refused(tmp_path):
    for text, read in ((LABELS, outcomes), (EXPRESSION, values)):
        (tmp_path / "t").write_text(text.replace("P2", '"P2'))
        with pytest.raises(DataError, match="t"):
            read(tmp_path / "t")


def test_a_sheet_of_a_workbook_gives_the_same_labels(tmp_path):
    table = pd.read_csv(io.StringIO(LABELS))
    table.to_excel(tmp_path / "t.xlsx", index=False)
    assert outcomes(tmp_path / "t.xlsx") == OUTCOMES


def test_stated_event_values_may_be_signs(tmp_path):
    (tmp_path / "t").write_text("id,months,died\nP1,10,+\nP2,20.5,-\nP3,30,+\n")
    columns = Columns("stated", "id", ("months",), "died", "months", event=("+",), censored=("-",))
    assert outcomes(tmp_path / "t", columns=columns) == OUTCOMES


def test_semicolons_go_before_the_commas_of_decimals(tmp_path):
    (tmp_path / "t").write_text("case_id;survival_months;censorship\nP1;10,5;1\nP2;3,25;0\n")
    with pytest.raises(DataError, match=r"all 2 rows are like line 2: survival_months '10,5'; .* with a decimal point"):
        outcomes(tmp_path / "t")
