"""Tables and figures that a study saves, and tables read again for its report."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from survq.data.location import csv_bytes, replace_file
from survq.reporting.document import Grid, Strong
from survq.reporting.tables import Table

IDS = ("case_id", "slide_id")  # columns that a report, which is passed on, does not show
UNSAFE = re.compile(r"[^\w.+ -]")  # in the name of a file
CELLS = re.compile(r"(?<!\\)\|")


def save(study: Path, name: str, content: Table | pd.DataFrame | Figure) -> list[Path]:
    """Write a table or a figure into a study's folder; returns the paths. A `name` may hold any cohort's name."""
    folder = study / ("figures" if isinstance(content, Figure) else "tables")
    folder.mkdir(exist_ok=True)
    stem = folder / UNSAFE.sub("-", name)
    if isinstance(content, Table):
        return list(content.save(stem))
    path = stem.with_name(f"{stem.name}.{'png' if isinstance(content, Figure) else 'csv'}")
    if isinstance(content, Figure):
        content.savefig(png := io.BytesIO(), dpi=150)
        replace_file(path, png.getvalue())
    else:
        replace_file(path, csv_bytes(content))
    return [path]


def saved_grid(stem: Path, rows: int) -> Grid | None:
    """`stem`.md as printed, or else `stem`.csv without ids; the first `rows`. None if neither is readable.

    In the latter, an estimate and the bounds of its interval become one cell.
    """
    markdown, csv = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    try:
        if markdown.is_file():
            return _of_markdown(markdown.read_text(encoding="utf-8"), rows)
        table = pd.read_csv(csv)
    except (OSError, ValueError):
        return None
    bounds = _bounds([str(name) for name in table.columns])
    shown = [name for name in table.columns if name not in (*IDS, *(b for pair in bounds.values() for b in pair))]
    cells = []
    for _, row in table.head(rows).iterrows():
        cells.append([_shown(row[name]) + _interval(row, bounds.get(name)) for name in shown])
    more = f"{rows} of {len(table)} rows; the file {csv.name} has all." if len(table) > rows else ""
    return Grid([_title(str(name)) for name in shown], cells, more)


def _bounds(names: list[str]) -> dict[str, tuple[str, str]]:
    """The columns of the lower and upper bound of each estimate that has them.

    They are named `<estimate>_low` and `<estimate>_high`, or follow it as `low` and `high`.
    """
    found = {name: (f"{name}_low", f"{name}_high") for name in names if {f"{name}_low", f"{name}_high"} <= {*names}}
    place = names.index("low") if {"low", "high"} <= {*names} else 0
    return found | ({names[place - 1]: ("low", "high")} if place else {})


def _interval(row: pd.Series, bounds: tuple[str, str] | None) -> str:
    if bounds is None or row[list(bounds)].isna().any():
        return ""
    low, high = (_shown(row[name]) for name in bounds)
    return f"\n[{low}, {high}]"


def _title(name: str) -> str:
    return re.sub(r"\bc index\b", "C-index", name.replace("_", " "))


def _of_markdown(text: str, rows: int) -> Grid | None:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    if len(lines) < 2:
        return None
    header, _, *body = [[_cell(cell) for cell in CELLS.split(line)[1:-1]] for line in lines]
    caption = " ".join(line for line in text.splitlines() if line and not line.startswith("|"))
    return Grid(header, [line for line in body[:rows] if len(line) == len(header)], caption)


def _cell(text: str) -> str:
    shown = text.strip().replace("\\|", "|").replace("<br>", "\n")
    return Strong(shown.replace("**", "")) if shown.startswith("**") else shown


def _shown(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        if pd.isna(value):
            return "–"
        size = abs(value)
        return f"{value:.0f}" if size >= 1000 else f"{value:.3f}" if size >= 0.1 or size == 0 else f"{value:.2g}"
    return str(value)
