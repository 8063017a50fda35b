"""Tables laid out as in the paper: one row per configuration, one column per cohort, `0.724 ± 0.053` in the cells."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survq.data.location import csv_bytes, replace_file
from survq.training.report import Report

PAPER_COHORTS = ("BRCA", "BLCA", "COADREAD", "HNSC", "STAD")
# columns of a finished run in addition to its settings
MEASURED = ("c_index", "deviation", "low", "high", "folds", "n_cases", "n_events")
ENVIRONMENT_KEYS = ("device", "precision", "parts", "torch")  # of a report: these may change a C-index slightly
ABSENT, UNDEFINED, AVERAGE = "–", "undefined", "Avg."
Cell = tuple[str, ...]  # its lines, from top to bottom


@dataclass(frozen=True)
class Table:
    """C-indices by configuration and cohort.

    `cells` is the long form, one row per configuration and cohort; it is saved as .csv. Its columns: the settings in
    `rows`, the cohort, mean and deviation over folds (ddof 0), low and high (95 %, patient bootstrap), folds, cases,
    events, seeds and, if the records have them, configurations (number tried for this cell) and problem (why a cell has
    no number).
    """

    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: str
    epoch: str = "the last epoch"
    note: str = ""  # ends the caption
    ranked: bool = False  # rows are models in groups: each group is named once, and the best of a column is marked
    published: Mapping[tuple, str] = field(default_factory=dict)  # by (*rows, column): the paper's numbers

    @property
    def average(self) -> pd.Series:
        """The mean over cohorts, indexed by the row's settings; NaN if a cohort is missing."""
        cohorts = self.cells[self.columns].nunique()
        means = self.cells.groupby(list(self.rows), sort=False, dropna=False)["mean"]
        return means.mean().where(means.count() == cohorts)

    def __str__(self) -> str:
        """Plain text for a terminal, with the interval of each cell below it."""
        header, *body = self._grid("{} *")
        lines = [cell for row in body for cell in (*_split(row), None)]
        widths = [max(len(line[i]) for line in [*_split(header), *filter(None, lines)]) for i in range(len(header))]

        def align(line: list[str]) -> str:
            return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

        rule = "  ".join("─" * width for width in widths)
        caption = textwrap.fill(self.caption, max(len(rule), 60))
        return "\n".join(
            [*map(align, _split(header)), rule, *("" if line is None else align(line) for line in lines), caption]
        )

    def to_markdown(self) -> str:
        grid = self._grid("**{}**")
        header, *body = [["<br>".join(filter(None, cell)).replace("|", "\\|") for cell in row] for row in grid]
        lines = [header, ["---"] * len(header), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{self.caption}\n"

    @property
    def caption(self) -> str:
        seeds, folds = self.cells["seeds"], self.cells["folds"]
        over = "one fold" if folds.max() == 1 else f"mean ± population standard deviation over {_span(folds)} folds"
        sentences = [f"C-index after {self.epoch}: {over}; below, the 95 % interval by patient bootstrap."]
        if seeds.max() > 1:
            sentences.append(f"Each number is the mean over {_span(seeds)} seeds.")
        if "configurations" in self.cells:
            sentences.append(f"Configurations tried per cell: {_span(self.cells['configurations'])}.")
        if self.ranked:
            sentences.append("The highest mean of each column is marked.")
        if self._shows_published:
            sentences.append("Paper: the number that the paper reports, not computed here.")
        return " ".join([*sentences, *filter(None, [self.note])])

    def save(self, stem: Path | str) -> tuple[Path, Path]:
        """Write `stem`.csv (numbers) and `stem`.md (as printed). The folder is created if needed."""
        csv, markdown = Path(f"{stem}.csv"), Path(f"{stem}.md")
        csv.parent.mkdir(parents=True, exist_ok=True)
        replace_file(csv, csv_bytes(self.cells))
        replace_file(markdown, self.to_markdown().encode())
        return csv, markdown

    @property
    def _shows_published(self) -> bool:
        return any(tuple(cell) in self.published for cell in self.cells[[*self.rows, self.columns]].to_numpy())

    def _grid(self, best: str) -> list[list[Cell]]:
        """Header and rows. `best` is the format of the highest number of a column."""
        cohorts = sorted(self.cells[self.columns].unique(), key=_paper_order)
        header: list[Cell] = []
        for name in self.rows:
            upper, _, lower = name.partition("_")
            header.append((upper, lower))
        for cohort in cohorts:
            cells = self.cells[self.cells[self.columns] == cohort]
            header.append((str(cohort), f"{_span(cells['events'])}/{_span(cells['cases'])} events"))
        header.append((AVERAGE, ""))

        highest = dict(self.cells.groupby(self.columns)["mean"].max()) | {AVERAGE: self.average.max()}
        in_paper = {column for *_, column in self.published} - {AVERAGE}
        complete = in_paper == set(cohorts)  # else the paper's average is one of other cohorts
        grid, group = [header], None
        by_row = self.cells.groupby(list(self.rows), sort=False, dropna=False)
        for (settings, cells), average in zip(by_row, self.average, strict=True):
            by_cohort = {cell[self.columns]: cell for _, cell in cells.iterrows()}
            names = [_setting(value) for value in settings]
            if self.ranked and settings[0] == group:
                names[0] = ""
            group = settings[0]
            line: list[Cell] = [(name,) for name in names]
            for cohort in cohorts:
                cell = _cell(by_cohort.get(cohort))
                mean = math.nan if cohort not in by_cohort else by_cohort[cohort]["mean"]
                line.append(self._finished(cell, (*settings, cohort), best if mean == highest[cohort] else "{}"))
            shown = ABSENT if pd.isna(average) else f"{average:.3f}"
            mark = best if average == highest[AVERAGE] else "{}"
            line.append(self._finished((shown,), (*settings, AVERAGE) if complete else (), mark))
            grid.append(line)
        return grid

    def _finished(self, cell: Cell, place: tuple, best: str) -> Cell:
        """A cell with its mark, if rows are ranked, and the paper's number below."""
        upper, *lower = cell
        paper = self.published.get(place)
        return (best.format(upper) if self.ranked else upper, *lower, *([f"paper {paper}"] if paper else []))


def paper_table(
    records: pd.DataFrame,
    rows: list[str],
    columns: str = "cohort",
    *,
    epoch: str = "the last epoch",
    note: str = "",
    ranked: bool = False,
    published: Mapping[tuple, str] | None = None,
) -> Table:
    """The table of runs: one row per value of the settings `rows`, in order of appearance, and one column per cohort.

    `records` has one row per run: cohort, settings (hyperparameters), seed, c_index, deviation, low, high, folds,
    n_cases and n_events. Optional columns are configurations and problem (why a run has no number). Runs that differ
    only in the seed are averaged, including deviation and interval: more seeds are not more patients, so the interval
    does not shrink. If any seed has a problem, the cell states it and has no number, because the mean of the remaining
    seeds would be optimistic. Runs of one cell that differ in anything else raise ValueError. `epoch` and `note` are
    part of the caption.
    """
    needed = [columns, *rows, *MEASURED, "seed"]
    if missing := [name for name in needed if name not in records]:
        raise ValueError(f"The records lack the columns {missing}; they have {list(records.columns)}.")
    if records.empty:
        raise ValueError("A table needs at least one finished run.")
    settings = [name for name in records if name not in {*MEASURED, "seed", "configurations", "problem"}]
    records = records.assign(**{name: records[name].map(_hashable) for name in settings})
    cell = records.groupby([*rows, columns], sort=False, dropna=False)
    _refuse_mixed(records, cell, settings, within=[*rows, columns])

    aggregates: dict[str, tuple[str, Any]] = {
        "mean": ("c_index", "mean"),
        "deviation": ("deviation", "mean"),
        "low": ("low", "mean"),
        "high": ("high", "mean"),
        "folds": ("folds", "min"),
        "cases": ("n_cases", "min"),
        "events": ("n_events", "min"),
        "seeds": ("seed", "nunique"),
    }
    if "configurations" in records:
        aggregates["configurations"] = ("configurations", "max")
    if "problem" in records:
        aggregates["problem"] = ("problem", _problem)
    cells = cell.agg(**aggregates).reset_index()
    if "problem" in cells:
        cells.loc[cells["problem"].notna(), ["mean", "deviation", "low", "high"]] = np.nan
    return Table(cells, tuple(rows), columns, epoch, note, ranked, published or {})


def published(rows: Mapping[tuple, str], cohorts: Sequence[str]) -> dict[tuple, str]:
    """The numbers of a table of the paper by (*row, cohort), from a line per row: its cohorts, and their average."""
    return {
        (*row, column): number
        for row, line in rows.items()
        for column, number in zip((*cohorts, AVERAGE), line.split(", "), strict=True)
    }


def environment_note(reports: Sequence[Report]) -> str:
    """A note on the environments of a table's runs, with the number of runs per value; empty if all are the same.

    Different environments are no error, as a study may resume on another machine. But rows may then differ by more than
    their settings.
    """
    made = [{"torch": "unknown", **vars(report), **report.versions} for report in reports]
    counts = {name: Counter(str(report[name]) for report in made) for name in ENVIRONMENT_KEYS}
    differing = [
        f"{name} " + ", ".join(f"{value} ({count} runs)" for value, count in sorted(values.items()))
        for name, values in counts.items()
        if len(values) > 1
    ]
    return f"The runs used different environments: {'; '.join(differing)}." if differing else ""


def _refuse_mixed(records: pd.DataFrame, cell, settings: list[str], within: list[str]) -> None:
    """Raise ValueError if runs of one cell differ in more than the seed, or not at all."""
    fixed = [name for name in [*settings, "n_cases", "n_events"] if name not in within]
    counts = cell[fixed].nunique(dropna=False)
    if mixed := [name for name in fixed if (counts[name] > 1).any()]:
        raise ValueError(
            f"Runs of one cell differ in {mixed}; only runs that differ in the seed alone are averaged. "
            f"Fix: add these columns to rows (now {within[:-1]}), select records, or drop the columns."
        )
    if again := int(records.duplicated([*within, "seed"]).sum()):
        raise ValueError(
            f"{again} records repeat the settings, {within[-1]} and seed of another one. Fix: keep one of them."
        )


def _cell(cell: pd.Series | None) -> Cell:
    if cell is None:
        return ABSENT, ""
    if isinstance(problem := cell.get("problem"), str):
        return problem, ""
    if pd.isna(cell["mean"]):
        return UNDEFINED, ""
    deviation = f" ± {cell['deviation']:.3f}" if cell["folds"] > 1 else ""
    return f"{cell['mean']:.3f}{deviation}", f"[{cell['low']:.3f}, {cell['high']:.3f}]"


def _problem(seeds: pd.Series) -> str | None:
    """The problems of a cell's runs, one run per seed."""
    problems = seeds.dropna()
    if problems.empty or len(seeds) == 1:
        return None if problems.empty else problems.iloc[0]
    return f"{len(problems)} of {len(seeds)} seeds: {'; '.join(sorted(set(problems)))}"


def _setting(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "✓" if value else ""
    if pd.isna(value):
        return ABSENT
    return f"{value:g}" if isinstance(value, float) else str(value)


def _paper_order(cohort: object) -> int:
    return PAPER_COHORTS.index(cohort) if cohort in PAPER_COHORTS else len(PAPER_COHORTS)


def _hashable(value: object) -> object:
    return str(value) if isinstance(value, list | tuple | dict) else value


def _span(values: Iterable[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}–{high:g}"


def _split(row: list[Cell]) -> list[list[str]]:
    """The lines of a row."""
    lines = max(len(list(filter(None, cell))) for cell in row)
    return [[cell[i] if i < len(cell) else "" for cell in row] for i in range(max(lines, 1))]
