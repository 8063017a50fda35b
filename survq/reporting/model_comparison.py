"""Several models on the same cohorts and folds: their table, their differences from one of them, and their ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from survq.data.cohort import Cohort
from survq.data.folds import Fold
from survq.evaluation.concordance import fold_concordance
from survq.evaluation.late_fusion import late_fusion
from survq.evaluation.measure import measure
from survq.evaluation.paired import corrected_t_test, holm
from survq.evaluation.ranks import mean_ranks
from survq.evaluation.significance import bootstrap_difference
from survq.reporting.study_tables import Trained, measured, size
from survq.reporting.tables import Table, paper_table
from survq.training.run import Run
from survq.tuning.outcomes import outer_predictions
from survq.tuning.search import Search

ROWS = ("group", "model")


@dataclass(frozen=True)
class Compared:
    """A model on a cohort: its held-out predictions, one table per seed, or the reason why there are none."""

    cohort: str
    model: str
    folds: Sequence[Fold]
    predictions: Sequence[pd.DataFrame]
    problem: str | None = None
    configurations: int = 1  # settings among which its own training cases selected

    def of_seed(self, seed: int) -> pd.DataFrame:
        """The predictions of a seed. A model without randomness has one table for all seeds."""
        return self.predictions[seed if len(self.predictions) > 1 else 0]

    @property
    def fold_c_index(self) -> pd.Series:
        """The C-index by repeat and fold, a mean over seeds."""
        by_seed = [fold_concordance(one).set_index(["repeat", "fold"])["c_index"] for one in self.predictions]
        return pd.concat(by_seed, axis=1).mean(axis=1, skipna=False)


def compared(trained: Trained, name: Callable[[Run], str] = lambda run: run.model) -> list[Compared]:
    """One entry per cohort and model, or other name, of the runs of a grid, which may differ in their seeds.

    Without one of its seeds, an entry has no predictions.
    """
    by_row: dict[tuple[str, str], list[Run]] = {}
    for run in trained.runs:
        by_row.setdefault((run.cohort, name(run)), []).append(run)
    rows = []
    for (cohort, model), runs in by_row.items():
        records = [trained.records.get(run.path) for run in runs]
        tables = [record.predictions for record in records if record is not None and record.predictions is not None]
        reasons = [
            record.state if record else trained.problems[run.path]
            for run, record in zip(runs, records, strict=True)
            if record is None or record.predictions is None
        ]
        problem = "; ".join(dict.fromkeys(reasons)) or None
        rows.append(Compared(cohort, model, runs[0].folds, [] if problem else tables, problem))
    return rows


def searched(searches: Sequence[Search], seeds: int) -> list[Compared]:
    """One entry per cohort and model of nested searches: the predictions of the selected settings on outer folds."""
    by_row: dict[tuple[str, str], list[Search]] = {}
    for search in searches:
        by_row.setdefault((search.cohort.name, search.model), []).append(search)
    rows = []
    for (cohort, model), own in by_row.items():
        tables = [outer_predictions(own, seed) for seed in range(seeds)]
        complete = [table for table in tables if table is not None]
        problem = None if len(complete) == seeds else "; ".join(filter(None, (search.missing for search in own)))
        folds = [search.outer for search in own if search.outer]
        tried = sum(len(search.trials) for search in own)
        rows.append(Compared(cohort, model, folds, [] if problem else complete, problem, tried))
    return rows


def fuse_late(rows: Sequence[Compared], histology: Iterable[str], genomics: Iterable[str], name: str) -> list[Fused]:
    """The late fusion of the best histology and the best gene model of each cohort, for cohorts that have both."""
    histology, genomics, fused = set(histology), set(genomics), []
    for cohort in dict.fromkeys(row.cohort for row in rows):
        own = {row.model: row for row in rows if row.cohort == cohort and not row.problem}
        slides, genes = ([model for model in own if model in group] for group in (histology, genomics))
        if not slides or not genes or len(own[slides[0]].folds) < 2:
            continue
        folds = own[slides[0]].folds
        seeds = max(len(own[model].predictions) for model in (*slides, *genes))
        results = [
            late_fusion(*({model: own[model].of_seed(seed) for model in group} for group in (slides, genes)))
            for seed in range(seeds)
        ]
        choices = pd.concat([found.assign(cohort=cohort, seed=seed) for seed, (_, found) in enumerate(results)])
        fused.append(Fused(Compared(cohort, name, folds, [table for table, _ in results]), choices))
    return fused


@dataclass(frozen=True)
class Fused:
    """A late fusion as a row of the comparison, and its choice for each fold."""

    row: Compared
    choices: pd.DataFrame


def comparison_table(
    rows: Sequence[Compared],
    cohorts: Mapping[str, Cohort],
    groups: Mapping[str, str],
    *,
    labels: Mapping[str, str],
    published: Mapping[tuple[str, str], str],
    epoch: str = "the last epoch",
    note: str = "",
) -> Table:
    """Models in groups, one column per cohort (Table 1). `groups` maps each model to its group, in the order of rows.

    `labels` maps models to printed names. `published` maps (model, cohort) to the numbers of the paper.
    """
    lines = []
    for model, group in groups.items():
        for row in (row for row in rows if row.model == model):
            line = {"group": group, "model": labels[model], "configurations": row.configurations}
            line |= size(cohorts[row.cohort], row.folds)
            if row.problem:
                lines.append(line | {"seed": 0, "problem": row.problem})
            for seed, predictions in enumerate(row.predictions):
                lines.append(line | {"seed": seed} | measured(measure(predictions)))
    by_label = {(groups[m], labels[m], cohort): number for (m, cohort), number in published.items() if m in groups}
    return paper_table(pd.DataFrame(lines), list(ROWS), epoch=epoch, note=note, ranked=True, published=by_label)


def differences_from(rows: Sequence[Compared], reference: str) -> pd.DataFrame:
    """The C-index of each model minus that of the reference on the same folds of the same cohort.

    Columns: cohort; model; difference; low and high, its 95 % interval by paired bootstrap of patients; p_value of the
    corrected resampled t-test over folds; p_holm, adjusted for all rows of this table; better, equal and worse, the
    probabilities that the difference is above 0.01, within, or below -0.01; folds. See `corrected_t_test`.
    """
    references = {row.cohort: row for row in rows if row.model == reference and not row.problem}
    lines = []
    for row in rows:
        other = references.get(row.cohort)
        if other is None or row is other or row.problem:
            continue
        seeds = range(max(len(row.predictions), len(other.predictions)))
        drawn = [bootstrap_difference(row.of_seed(seed), other.of_seed(seed)) for seed in seeds]
        held_out = float(np.mean([len(fold.validation) for fold in row.folds]))
        training = float(np.mean([len(fold.training) for fold in row.folds]))
        test = corrected_t_test((row.fold_c_index - other.fold_c_index).to_numpy(), held_out, training)
        lines.append(
            {"cohort": row.cohort, "model": row.model, "difference": test.difference}
            | {bound: float(np.mean([getattr(one, bound) for one in drawn])) for bound in ("low", "high")}
            | {"p_value": test.p_value, "better": test.better, "equal": test.equal, "worse": test.worse}
            | {"folds": test.folds}
        )
    table = pd.DataFrame(lines)
    if len(table):
        table.insert(6, "p_holm", holm(table["p_value"].tolist()))
    return table


def ranks_of(rows: Sequence[Compared]) -> pd.DataFrame:
    """The mean rank of each model over cohorts and its 95 % interval: model, rank, low, high, best first.

    A model without predictions of one of the cohorts has no rank.
    """
    cohorts = [
        {row.model: row.predictions for row in rows if row.cohort == cohort and not row.problem}
        for cohort in dict.fromkeys(row.cohort for row in rows)
    ]
    lines = [
        {"model": model, "rank": found.estimate, "low": found.low, "high": found.high}
        for model, found in mean_ranks(cohorts).items()
    ]
    return pd.DataFrame(lines, columns=["model", "rank", "low", "high"]).sort_values("rank", ignore_index=True)
