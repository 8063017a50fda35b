"""The methods of a study, gathered from its runs on disk: each with its held-out predictions on one cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from survq.evaluation.held_out import HeldOut, fold_pairs, held_out_metrics
from survq.reporting.configurations import brief, differing
from survq.training.record import Record

OUTER, TRIAL, SWEEP = "outer-", "trial-", "sweep"  # parts of the groups of a search's runs
COLUMNS = ["cohort", "method", "seed", "metric", "value", "low", "high", "folds", "reason"]


@dataclass(frozen=True)
class Method:
    """A run, or the runs of all outer folds of a nested search, with the same cohort and seed."""

    cohort: str
    name: str
    seed: int
    records: Sequence[Record]  # finished, of different folds

    @cached_property
    def held_out(self) -> HeldOut:
        tables: list[pd.DataFrame] = []
        edges: dict[tuple[int, int], tuple[float, ...]] = {}
        cuts: dict[tuple[int, int], float] = {}
        for record in self.records:
            assert record.predictions is not None
            tables.append(record.predictions)
            folds = sorted(
                (int(repeat), int(fold)) for repeat, fold in record.predictions.groupby(["repeat", "fold"]).groups
            )
            # runs of an older survq lack some of it
            if len(record.report.interval_edges) == len(folds):
                edges |= dict(zip(folds, map(tuple, record.report.interval_edges), strict=True))
            if len(record.report.median_training_risk) == len(folds):
                cuts |= dict(zip(folds, record.report.median_training_risk, strict=True))
        return HeldOut(pd.concat(tables, ignore_index=True), edges, cuts)

    @property
    def title(self) -> str:
        return f"{self.name}, seed {self.seed}" if self.seed else self.name


def methods_of(records: Sequence[Record]) -> list[Method]:
    """The methods of finished runs, by cohort. Trials of a search are no results: they selected, and are left out.

    Methods are named by their model and the settings in which the runs of this model differ.
    """
    finished = [record for record in records if record.predictions is not None and not _selects(record)]
    single = [record for record in finished if not record.group.startswith(OUTER)]
    varying = {
        model: [n for n in differing([r.settings for r in single if r.model == model]) if n not in ("model", "seed")]
        for model in {record.model for record in single}
    }
    members: dict[tuple[str, str, int], list[Record]] = {}
    for record in finished:
        if record.group.startswith(OUTER):
            role = record.group.rpartition("/")[2]
            name = f"{record.model}, {role} by nested search" if role == "chosen" else f"{record.model}, {role} setting"
        else:
            name = _name(record, varying[record.model])
        members.setdefault((record.cohort, name, int(record.training["seed"])), []).append(record)
    return [Method(*key, tuple(own)) for key, own in sorted(members.items(), key=lambda item: item[0])]


def metrics_table(methods: Sequence[Method]) -> pd.DataFrame:
    """One row per method and metric (see `held_out_metrics`): COLUMNS."""
    tables: list[pd.DataFrame] = []
    cases, shared = pd.DataFrame(), None
    for method in methods:
        own = method.held_out.predictions[["case_id", "repeat", "fold", "time", "event"]]
        if not own.equals(cases):
            cases, shared = own, fold_pairs(method.held_out)
        found = held_out_metrics(method.held_out, shared)
        tables.append(found.assign(cohort=method.cohort, method=method.name, seed=method.seed)[COLUMNS])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _selects(record: Record) -> bool:
    parts = record.group.split("/")
    return any(part.startswith(TRIAL) or part == SWEEP for part in parts)


def _name(record: Record, varying: Sequence[str]) -> str:
    settings: Mapping[str, Any] = record.settings
    words = [f"{name} {brief(settings[name])}" for name in varying if name in settings]
    return ", ".join(filter(None, [record.model, record.group, *words]))
