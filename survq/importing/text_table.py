"""CSV files as text, cell by cell: nothing is guessed, so that no id becomes a number and no site becomes a blank."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.folder import Folder
from survq.data.problems import DataError, raise_if_any, some

MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "#n/a", "[not available]", "[not applicable]"})


def read_text_table(file: str | Path | Folder, needed: Sequence[str] = ()) -> pd.DataFrame:
    """Every cell as text without blanks around it; the index is the line in the file.

    Raises FileNotFoundError; DataError where it is no such table or lacks a needed column.
    """
    reader = csv.reader(io.StringIO(Folder.at(file).read_text(), newline=""))
    try:
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise DataError([f"{file}:{reader.line_num}: is not CSV ({error})."]) from error
    if not lines:
        raise DataError([f"{file}: is empty."])
    (_, header), *rows = lines
    problems = []
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        problems.append(f"{file}: columns that stand more than once: {some(twice)}. Mend: keep one of each.")
    if missing := [name for name in needed if name not in header]:
        problems.append(f"{file}: lacks the columns {some(missing, 9)}; {_what_is_there(header, missing)}.")
    if not rows:
        problems.append(f"{file}: has a header and no rows.")
    problems += [
        f"{file}:{line}: {len(row)} cells; the header has {len(header)}."
        for line, row in rows
        if len(row) != len(header)
    ]
    raise_if_any(problems)
    return pd.DataFrame([row for _, row in rows], columns=header, index=[line for line, _ in rows], dtype=object)


def numbers(cells: pd.Series, file: object) -> tuple[pd.Series, list[str]]:
    """Cells as numbers, NaN where there is nothing; and a sentence for every cell that is neither."""
    found, problems = [], []
    for line, cell in cells.items():
        try:
            number = float("nan") if cell.lower() in MISSING else float(cell)
        except ValueError:
            number = float("inf")
        if np.isinf(number):
            problems.append(f"{file}:{line}: {cells.name} {cell[:60]!r}; expected a number. Mend: correct it.")
        found.append(number)
    return pd.Series(found, index=cells.index, name=cells.name, dtype=np.float64), problems


def _what_is_there(header: list[str], missing: list[str]) -> str:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        return "it has one column, so its cells are not separated by commas. Mend: save it as CSV with commas"
    near = [match for name in missing for match in difflib.get_close_matches(name, header, n=1)]
    advice = f". Mend: rename {some(near)}" if near else ". Mend: add them"
    return f"it has {some([name for name in header if name], 20)}{advice}"
