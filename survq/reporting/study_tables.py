"""The tables of a study, made of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from survq.data.cohort import Cohort
from survq.data.folds import Fold
from survq.evaluation.measure import Measured
from survq.reporting.tables import Table, environment_note, paper_table
from survq.training.record import Record
from survq.training.run import Run


@dataclass(frozen=True)
class Trained:
    """The runs that a study requested, with their records or problems."""

    runs: Sequence[Run]
    records: Mapping[str, Record]  # of ended runs, by path
    problems: Mapping[str, str]  # why a run has no record, by path
    cohorts: Mapping[str, Cohort]

    @property
    def finished(self) -> list[Record]:
        """The records of finished runs, in the order of `runs`."""
        records = [self.records[run.path] for run in self.runs if run.path in self.records]
        return [record for record in records if record.state == "finished"]


def study_table(
    trained: Trained,
    rows: Sequence[str],
    describe: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    published: Mapping[tuple, str] | None = None,
) -> Table:
    """The table of runs, with these hyperparameters or settings as rows and one column per cohort.

    `describe` maps the settings of a run to the values of `rows`; `published` are the paper's numbers by row and
    cohort. The table is meant for settings that were fixed beforehand, not selected by their results.
    """
    lines = []
    for run in trained.runs:
        record = trained.records.get(run.path)
        described = describe(run.settings)
        line = {row: described.get(row) for row in rows} | {"seed": run.config.seed, "configurations": 1}
        line |= size(trained.cohorts[run.cohort], run.folds)
        if record is None or record.report.c_index is None:
            lines.append(line | {"problem": record.state if record else trained.problems[run.path]})
        else:
            lines.append(line | measured(record.report.c_index))
    reports = [record.report for record in trained.finished]
    return paper_table(pd.DataFrame(lines), list(rows), note=environment_note(reports), published=published)


def size(cohort: Cohort, folds: Sequence[Fold]) -> dict:
    """The part of a row of `paper_table` that is known before training."""
    cases = cohort.cases.loc[sorted({case for fold in folds for case in fold.validation})]
    unknown = dict.fromkeys(("c_index", "deviation", "low", "high"), math.nan)
    counts = {"folds": len(folds), "n_cases": len(cases), "n_events": int(cases["event"].sum())}
    return {"cohort": cohort.name, **counts, **unknown}


def measured(found: Measured) -> dict:
    """The measured part of a row of `paper_table`, over the folds with a defined C-index."""
    numbers = {"c_index": found.mean, "deviation": found.deviation, "low": found.low, "high": found.high}
    return numbers | {"folds": sum(not math.isnan(fold.c_index) for fold in found.folds)}
