"""Tables and figures that a study saves, and tables read again for its report."""

from __future__ import annotations

import io
import re
from pathlib import Path

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
    """`stem`.md as printed, or else the numbers of `stem`.csv without ids; the first `rows`. None if neither is
    readable.
    """
    markdown, csv = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    try:
        if markdown.is_file():
            return _of_markdown(markdown.read_text(encoding="utf-8"), rows)
        table = pd.read_csv(csv)
    except (OSError, ValueError):
        return None
    table = table.drop(columns=[name for name in IDS if name in table])
    cells = [[_shown(value) for value in row] for row in table.head(rows).itertuples(index=False)]
    more = f"{rows} of {len(table)} rows; the file {csv.name} has all." if len(table) > rows else ""
    return Grid([str(name).replace("_", " ") for name in table.columns], cells, more)


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
    if isinstance(value, float):
        if pd.isna(value):
            return "–"
        size = abs(value)
        return f"{value:.0f}" if size >= 1000 else f"{value:.3f}" if size >= 0.1 or size == 0 else f"{value:.2g}"
    return str(value)
