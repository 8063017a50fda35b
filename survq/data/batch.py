"""Batch: the input of a model. CaseTable: all cases as one fold sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.expression import SCALES
from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError

Bags = Mapping[str, Tensor]
"""case id -> (patch, feature): all patches of the case's slides. Cases without slides are absent."""


@dataclass(frozen=True)
class Batch:
    """Several cases as the input of a model. Bags are ragged: without padding, no mask is needed."""

    case_ids: tuple[str, ...]
    bags: tuple[Tensor, ...]  # one (patch, feature) per case; (0, feature) for a case without slides
    expression: Float[Tensor, "case gene"]  # zeros for a case without expression
    has_expression: Bool[Tensor, " case"]
    time: Float[Tensor, " case"]  # months
    event: Bool[Tensor, " case"]
    interval: Int[Tensor, " case"]

    def __len__(self) -> int:
        return len(self.case_ids)

    @property
    def has_slides(self) -> Bool[Tensor, " case"]:
        return torch.tensor([len(bag) > 0 for bag in self.bags], device=self.time.device)


@dataclass(frozen=True)
class CaseTable:
    """All cases of a cohort as one fold sees them: scaled and discretised by its training cases."""

    row: Mapping[str, int]
    expression: Float[Tensor, "case gene"]
    has_expression: Bool[Tensor, " case"]
    time: Float[Tensor, " case"]
    event: Bool[Tensor, " case"]
    interval: Int[Tensor, " case"]
    intervals: TimeIntervals

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        fold: Fold,
        *,
        intervals: int = 4,
        interval_edges: str = "training",
        expression_scale: str = "minmax",
    ) -> CaseTable:
        """Fit scaling and interval edges on the training cases of `fold`.

        `interval_edges="cohort"` fits the edges on the whole cohort, including held-out cases, as related published
        code does; this leaks a little of the labels.
        """
        case_ids = cohort.cases.index
        time, event = cohort.cases["time"].to_numpy(float), cohort.cases["event"].to_numpy(bool)
        training = case_ids.isin(fold.training)
        seen = np.ones_like(training) if interval_edges == "cohort" else training
        edges = TimeIntervals.fit(time[seen], event[seen], intervals)

        expression = np.zeros((len(case_ids), cohort.spec.genes), dtype=np.float32)
        has = cohort.has_expression
        if has.any():
            assert cohort.expression is not None
            if not (training & has).any():
                raise DataError(
                    [f"fold {fold.index}: no training case has expression to fit the scaling. Fix: use fewer folds."]
                )
            scale = SCALES[expression_scale](cohort.expression.loc[case_ids[training & has]].to_numpy())
            expression[has] = scale(cohort.expression.loc[case_ids[has]].to_numpy())
        return cls(
            row={case: number for number, case in enumerate(case_ids)},
            expression=torch.from_numpy(expression),
            has_expression=torch.from_numpy(has),
            time=torch.from_numpy(time).float(),
            event=torch.from_numpy(event),
            interval=torch.from_numpy(edges.interval(time)),
            intervals=edges,
        )

    def to(self, device: torch.device) -> CaseTable:
        fields = ("expression", "has_expression", "time", "event", "interval")
        return replace(self, **{name: getattr(self, name).to(device) for name in fields})

    def batch(self, case_ids: Sequence[str], bags: Sequence[Tensor]) -> Batch:
        rows = torch.tensor([self.row[case] for case in case_ids], device=self.time.device, dtype=torch.long)
        return Batch(
            case_ids=tuple(case_ids),
            bags=tuple(bags),
            expression=self.expression[rows],
            has_expression=self.has_expression[rows],
            time=self.time[rows],
            event=self.event[rows],
            interval=self.interval[rows],
        )
