"""Tables laid out as in the paper: a row a configuration, a column a cohort, `0.724 ± 0.053` in the cells."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from survq.training.report import Report

PAPER_COHORTS = ("BRCA", "BLCA", "COADREAD", "HNSC", "STAD")
# what a record says of a finished run beside its settings
MEASURED = ("c_index", "deviation", "low", "high", "folds", "n_cases", "n_events")
ENVIRONMENT_KEYS = ("device", "precision", "parts", "torch")  # of a report: what may move a C-index a little
ABSENT, UNDEFINED = "–", "undefined"


@dataclass(frozen=True)
class Table:
    """C-indices by configuration and cohort.

    `cells` is the long form, one line a configuration and cohort, and what is saved as .csv. Its columns: the settings
    in `rows`, the cohort, mean and deviation over folds (ddof 0), low and high (95 %, patient bootstrap), folds, cases,
    events, seeds and, where the records have it, configurations (how many were tried to arrive at this one) and problem
    (why a cell has no number).
    """

    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: str
    epoch: str = "the last epoch"
    note: str = ""  # a sentence below it

    @property
    def average(self) -> pd.Series:
        """The mean over cohorts, indexed by the row's settings; NaN where a cohort is missing."""
        cohorts = self.cells[self.columns].nunique()
        means = self.cells.groupby(list(self.rows), sort=False, dropna=False)["mean"]
        return means.mean().where(means.count() == cohorts)

    def __str__(self) -> str:
        """Plain text for a terminal: the interval of a cell stands below it."""
        header, *body = self._grid()
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
        header, *body = [["<br>".join(filter(None, cell)).replace("|", "\\|") for cell in row] for row in self._grid()]
        lines = [header, ["---"] * len(header), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{self.caption}\n"

    @property
    def caption(self) -> str:
        seeds, folds = self.cells["seeds"], self.cells["folds"]
        over = "one fold" if folds.max() == 1 else f"mean ± population deviation over {_span(folds)} folds"
        sentences = [f"C-index after {self.epoch}: {over}; below it the 95 % interval by patient bootstrap."]
        if seeds.max() > 1:
            sentences.append(f"Every number is the mean over {_span(seeds)} seeds.")
        if "configurations" in self.cells:
            sentences.append(f"Configurations tried for a cell: {_span(self.cells['configurations'])}.")
        return " ".join([*sentences, *filter(None, [self.note])])

    def save(self, stem: Path | str) -> tuple[Path, Path]:
        """Write `stem`.csv (numbers) and `stem`.md (as printed); the folder is made."""
        csv, markdown = Path(f"{stem}.csv"), Path(f"{stem}.md")
        csv.parent.mkdir(parents=True, exist_ok=True)
        self.cells.to_csv(csv, index=False)
        markdown.write_text(self.to_markdown(), encoding="utf-8")
        return csv, markdown

    def _grid(self) -> list[list[tuple[str, str]]]:
        """The header and the rows; every cell has an upper and a lower line."""
        cohorts = sorted(self.cells[self.columns].unique(), key=_paper_order)
        header: list[tuple[str, str]] = []
        for name in self.rows:
            upper, _, lower = name.partition("_")
            header.append((upper, lower))
        for cohort in cohorts:
            cells = self.cells[self.cells[self.columns] == cohort]
            header.append((str(cohort), f"{_span(cells['events'])}/{_span(cells['cases'])} events"))
        grid = [[*header, ("Avg.", "")]]
        by_row = self.cells.groupby(list(self.rows), sort=False, dropna=False)
        for (settings, cells), average in zip(by_row, self.average, strict=True):
            by_cohort = {cell[self.columns]: cell for _, cell in cells.iterrows()}
            grid.append(
                [
                    *((_setting(value), "") for value in settings),
                    *(_cell(by_cohort.get(cohort)) for cohort in cohorts),
                    (ABSENT if pd.isna(average) else f"{average:.3f}", ""),
                ]
            )
        return grid


def paper_table(
    records: pd.DataFrame,
    rows: list[str],
    columns: str = "cohort",
    *,
    epoch: str = "the last epoch",
    note: str = "",
) -> Table:
    """The table of runs: the settings `rows` down, as they appear, and the cohorts across, as in the paper.

    `records` has one row a run: cohort, its settings (hyperparameters) as columns, seed, and what was measured:
    c_index, deviation, low, high, folds, n_cases, n_events; also, if known, configurations, and problem: why a run has
    no number, where it has none. Runs that differ in nothing but the seed are averaged, deviation and interval too:
    another seed is no other patient, so the interval does not shrink. Where a seed has a problem the cell says so and
    has no number, for what was left would flatter. Runs of one cell that differ in anything else are refused
    (ValueError). `epoch` and `note` are for the caption.
    """
    needed = [columns, *rows, *MEASURED, "seed"]
    if missing := [name for name in needed if name not in records]:
        raise ValueError(f"The records lack the columns {missing}; they have {list(records.columns)}.")
    if records.empty:
        raise ValueError("There is no finished run to make a table of.")
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
    return Table(cells, tuple(rows), columns, epoch, note)


def environment_note(reports: Sequence[Report]) -> str:
    """A sentence on what the runs of a table were not all made with, and how many with which; empty if all were.

    It is no error: a study may go on on another machine. But rows may then differ by more than their settings.
    """
    made = [{"torch": "unknown", **vars(report), **report.versions} for report in reports]
    counts = {name: Counter(str(report[name]) for report in made) for name in ENVIRONMENT_KEYS}
    differing = [
        f"{name} " + ", ".join(f"{value} ({count} runs)" for value, count in sorted(values.items()))
        for name, values in counts.items()
        if len(values) > 1
    ]
    return f"Its runs were not all made alike: {'; '.join(differing)}." if differing else ""


def _refuse_mixed(records: pd.DataFrame, cell, settings: list[str], within: list[str]) -> None:
    """Refuse runs of one cell that differ in more than the seed, or not at all."""
    fixed = [name for name in [*settings, "n_cases", "n_events"] if name not in within]
    counts = cell[fixed].nunique(dropna=False)
    if mixed := [name for name in fixed if (counts[name] > 1).any()]:
        raise ValueError(
            f"Runs that belong in one cell differ in {mixed}, and only those that differ in the seed are averaged. "
            f"Name these columns in rows (now {within[:-1]}), choose among the records, or drop the columns."
        )
    if again := int(records.duplicated([*within, "seed"]).sum()):
        raise ValueError(f"{again} records have settings, {within[-1]} and seed of another one. Keep one of them.")


def _cell(cell: pd.Series | None) -> tuple[str, str]:
    if cell is None:
        return ABSENT, ""
    if isinstance(problem := cell.get("problem"), str):
        return problem, ""
    if pd.isna(cell["mean"]):
        return UNDEFINED, ""
    deviation = f" ± {cell['deviation']:.3f}" if cell["folds"] > 1 else ""
    return f"{cell['mean']:.3f}{deviation}", f"[{cell['low']:.3f}, {cell['high']:.3f}]"


def _problem(seeds: pd.Series) -> str | None:
    """What is wrong with the runs of a cell, of which there is one a seed."""
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


def _split(row: list[tuple[str, str]]) -> list[list[str]]:
    """The upper line of a row, and the lower one unless it is empty."""
    upper, lower = ([cell[i] for cell in row] for i in range(2))
    return [upper, lower] if any(lower) else [upper]
