"""Read tables as text without guessing types: ids do not become numbers, and the site NA does not become blank."""

from __future__ import annotations

import csv
import difflib
import io
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.problems import DataError, raise_if_any
from survq.importing.decompress import is_workbook, most_bytes, too_large
from survq.importing.missing import MISSING, Missing
from survq.importing.table_format import decoded, format_of, is_number, text_lines
from survq.text import composed, preview

MOST_ROWS, MOST_CELLS = 1 << 20, 1 << 28  # of a table that is held in memory
SHEET = "TCGA-CDR"  # of the eight sheets in the workbook of Liu et al. (Cell 2018)


def read_text_table(
    file: str | Path, needed: Sequence[str] = (), *, missing: Missing = MISSING, verbatim: Collection[str] = ()
) -> pd.DataFrame:
    """Every cell as text without surrounding blanks, "" if missing; the index is the line in the file.

    Reads text tables (see table_format.py), plain or compressed, or a sheet of a workbook. Empty rows are left out.
    In the columns `verbatim`, cells stay as they are. Raises FileNotFoundError; DataError for other files and for
    missing columns.
    """
    file = Path(file)
    rows = ((line, row) for line, row in _rows(file, needed) if not missing.all(row))
    _, header = next(rows, (0, None))
    if header is None:
        raise DataError([f"{file}: is empty."])
    lines: list[int] = []
    cells: list[list[str]] = []
    lengths: dict[int, str] = {}
    for line, row in rows:
        if missing.all(row[len(header) :]):  # spreadsheets leave columns without a name and without cells
            row = row[: len(header)]
        if not any(header[len(row) :]):
            row = row + [""] * (len(header) - len(row))
        if len(row) != len(header):
            lengths[line] = f"{len(row)} cells"
        if len(cells) < 3 and any(cell.startswith("CDE_ID:") for cell in row):  # TCGA's files have three headers
            lines, cells, lengths = [], [], {}
            continue
        lines.append(line)
        cells.append(row)
        if len(cells) > MOST_ROWS:
            raise DataError([f"{file}: has more than {MOST_ROWS:,} rows. Fix: keep the rows of one cohort."])
    problems = []
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        problems.append(f"{file}: columns listed more than once: {preview(repeated)}. Fix: keep one of each.")
    if absent := [name for name in needed if name not in header]:
        problems.append(f"{file}: lacks the columns {preview(absent, 9)}; {describe_columns(header, absent)}.")
    if not cells:
        problems.append(f"{file}: has a header but no rows. Fix: use the whole table.")
    fix = "put a separator between all cells, and quote cells that hold one"
    problems += by_row(file, lengths, len(cells), f"; the header has {len(header)}", fix)
    raise_if_any(problems)
    table = pd.DataFrame(cells, columns=header, index=lines, dtype=object)
    for position, name in enumerate(header):
        if name not in verbatim:
            column = table.iloc[:, position]
            table.isetitem(position, column.map({cell: "" if cell in missing else cell for cell in set(column)}))
    return table


def header_notes(file: Path) -> list[str]:
    """What `read_text_table` took for granted about the header of a table, for people."""
    return [] if is_workbook(file) else format_of(file).notes


def by_row(file: object, faults: Mapping[int, str], rows: int, tail: str, fix: str) -> list[str]:
    """A problem for each line with a fault, or one for all of them if all rows have it."""
    if len(faults) == rows > 1:
        line, fault = next(iter(faults.items()))
        return [f"{file}: all {rows} rows are like line {line}: {fault}{tail}. Fix: {fix}."]
    return [f"{file}:{line}: {fault}{tail}. Fix: {fix}." for line, fault in faults.items()]


def _rows(file: Path, needed: Collection[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table with their numbers, the header first."""
    if is_workbook(file):
        yield from read_sheet(file)
        return
    form = format_of(file, needed)
    yield form.above + 1, form.names
    with text_lines(file, form.above + 1) as stream:
        lines = (decoded(line, file) for line in stream)
        reader = csv.reader(lines, delimiter=form.separator, strict=True)
        try:
            for row in reader:
                yield form.above + 1 + reader.line_num, [cell.strip() for cell in row]
        except csv.Error as error:
            line = form.above + 1 + reader.line_num
            raise DataError([f"{file}:{line}: is not valid CSV ({error}). Fix: double the quotes in cells."]) from error


def read_sheet(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of the one sheet of a workbook, or of that of TCGA-CDR, with their numbers."""
    import openpyxl  # slow to import, rarely needed

    try:
        # from its bytes: openpyxl refuses the name of a workbook that was saved as .csv
        book = openpyxl.load_workbook(io.BytesIO(file.read_bytes()), read_only=True, data_only=True)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError([f"{file}: the workbook cannot be read ({error}). Fix: save it as CSV."]) from error
    if SHEET not in book.sheetnames and len(book.sheetnames) > 1:
        raise DataError(
            [f"{file}: has the sheets {preview(book.sheetnames, 9)}; expected {SHEET!r}. Fix: save one of them as CSV."]
        )
    sheet = book[SHEET] if SHEET in book.sheetnames else book[book.sheetnames[0]]
    with zipfile.ZipFile(file) as archive:
        if sum(part.file_size for part in archive.infolist()) > most_bytes(file):
            raise too_large(file)
    if (sheet.max_row or 0) * (sheet.max_column or 0) > MOST_CELLS:
        raise DataError(
            [f"{file}: states {sheet.max_row:,} rows and {sheet.max_column:,} columns. Fix: save it as CSV."]
        )
    # a row of any number may follow, and those before it would be filled up
    rows = enumerate(sheet.iter_rows(max_row=min(sheet.max_row or MOST_ROWS, MOST_ROWS), values_only=True), start=1)
    return [(line, ["" if cell is None else composed(str(cell).strip()) for cell in row]) for line, row in rows]


def numbers(cells: pd.Series, file: object, missing: Missing = MISSING) -> tuple[pd.Series, list[str]]:
    """Cells as numbers, NaN if missing; and a problem for every other cell."""
    wrong = {
        line: f"{cells.name} {cell[:60]!r}" for line, cell in cells.items() if not _is_blank_or_finite(cell, missing)
    }
    found = [float(cell) if is_number(cell) else np.nan for cell in cells]
    present = sum(cell not in missing for cell in cells)
    problems = by_row(file, wrong, present, "; expected a number", "correct it, such as 12.5, with a decimal point")
    return pd.Series(found, index=cells.index, name=cells.name, dtype=np.float64), problems


def _is_blank_or_finite(cell: str, missing: Missing) -> bool:
    return bool(np.isfinite(float(cell))) if is_number(cell) else cell in missing


def describe_columns(header: Sequence[str], absent: Sequence[str]) -> str:
    """The columns of a table, with a fix for the absent ones: rename a column of a similar name, or add them."""
    near = [match for name in absent for match in difflib.get_close_matches(name, header, n=1)]
    advice = f"rename {preview(near)}" if near else f"add {preview(absent, 9)}, or rename the columns that hold them"
    return f"it has {preview([name for name in header if name], 20)}. Fix: {advice}"
