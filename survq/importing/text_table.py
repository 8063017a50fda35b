"""Read tables as text without guessing types: ids do not become numbers, and the site NA does not become blank."""

from __future__ import annotations

import csv
import difflib
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.problems import DataError, raise_if_any
from survq.importing.decompress import decompress, is_workbook
from survq.text import preview

SHEET = "TCGA-CDR"  # of the eight sheets in the workbook of Liu et al. (Cell 2018)
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "#n/a", "[not available]", "[not applicable]"})


def read_text_table(file: str | Path, needed: Sequence[str] = ()) -> pd.DataFrame:
    """Every cell as text without surrounding blanks; the index is the line in the file.

    Reads CSV or TSV, detected by the header, plain or compressed; or a sheet of a workbook. Lines above the header that
    start with `#` are ignored. Raises FileNotFoundError; DataError for other files and for missing columns.
    """
    file = Path(file)
    lines = _sheet(file) if is_workbook(file) else _lines(file)
    if not lines:
        raise DataError([f"{file}: is empty."])
    (_, header), *rows = lines
    problems = []
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        problems.append(f"{file}: columns listed more than once: {preview(repeated)}. Fix: keep one of each.")
    if missing := [name for name in needed if name not in header]:
        problems.append(f"{file}: lacks the columns {preview(missing, 9)}; {describe_columns(header, missing)}.")
    if not rows:
        problems.append(f"{file}: has a header but no rows.")
    problems += [
        f"{file}:{line}: {len(row)} cells; the header has {len(header)}."
        for line, row in rows
        if len(row) != len(header)
    ]
    raise_if_any(problems)
    return pd.DataFrame([row for _, row in rows], columns=header, index=[line for line, _ in rows], dtype=object)


def separator(header: str) -> str:
    """The separator of the cells of a table, detected from its header."""
    return "\t" if "\t" in header else ","


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    with decompress(file) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError([f"{file}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from error
    above = 0
    while text.startswith("#"):  # descriptions of columns in cBioPortal's files
        above, text = above + 1, text.partition("\n")[2]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text.partition("\n")[0]))
    try:
        return [(above + reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError([f"{file}:{above + reader.line_num}: is not valid CSV ({error})."]) from error


def _sheet(file: Path) -> list[tuple[int, list[str]]]:
    import openpyxl  # slow to import, rarely needed

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError([f"{file}: the workbook cannot be read ({error}). Fix: save it as CSV."]) from error
    if SHEET not in book.sheetnames and len(book.sheetnames) > 1:
        raise DataError(
            [f"{file}: has the sheets {preview(book.sheetnames, 9)}; expected {SHEET!r}. Fix: save one of them as CSV."]
        )
    sheet = book[SHEET] if SHEET in book.sheetnames else book[book.sheetnames[0]]
    rows = enumerate(sheet.iter_rows(values_only=True), start=1)
    return [(line, ["" if cell is None else str(cell).strip() for cell in row]) for line, row in rows if any(row)]


def numbers(cells: pd.Series, file: object) -> tuple[pd.Series, list[str]]:
    """Cells as numbers, NaN if blank; and a problem for every other cell."""
    found, problems = [], []
    for line, cell in cells.items():
        try:
            number = float("nan") if cell.lower() in MISSING else float(cell)
        except ValueError:
            number = float("inf")
        if np.isinf(number):
            problems.append(f"{file}:{line}: {cells.name} {cell[:60]!r}; expected a number. Fix: correct it.")
        found.append(number)
    return pd.Series(found, index=cells.index, name=cells.name, dtype=np.float64), problems


def describe_columns(header: Sequence[str], missing: Sequence[str]) -> str:
    """The columns of a table, with a fix for the missing ones: rename a column of a similar name, or add them."""
    if len(header) == 1 and ";" in header[0]:
        return "it has one column, so its cells are not separated by commas or tabs. Fix: save it as CSV with commas"
    near = [match for name in missing for match in difflib.get_close_matches(name, header, n=1)]
    advice = f". Fix: rename {preview(near)}" if near else ". Fix: add them"
    return f"it has {preview([name for name in header if name], 20)}{advice}"
