"""Batch: the input of a model. Preprocessing, CaseTable: all cases as one fold sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from survq.data.clinical import ClinicalScale
from survq.data.cohort import Cohort
from survq.data.expression import SCALES, ExpressionScale, filled, training_means
from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError

Bags = Mapping[str, Tensor]
"""case id -> (patch, feature): all patches of the case's slides. Cases without slides are absent."""


class BagsByDtype(Mapping[str, Tensor]):
    """Bags that may exist in several dtypes. As a mapping they are those of the first."""

    def of(self, dtype: torch.dtype) -> Bags:
        """The bags in this dtype, or else in float16. Raises KeyError if they exist in neither."""
        raise NotImplementedError


def to_device(values: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on a device, without waiting for a GPU, as `torch.tensor(values, device=device)` would."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """Several cases as the input of a model. Bags are ragged: without padding, no mask is needed."""

    case_ids: tuple[str, ...]
    bags: tuple[Tensor, ...]  # one (patch, feature) per case; (0, feature) for a case without slides
    expression: Float[Tensor, "case gene"]  # zeros for a case without expression
    has_expression: Bool[Tensor, " case"]
    clinical: Float[Tensor, "case covariate"]  # standardised; 0, the mean, where unknown
    time: Float[Tensor, " case"]  # months
    event: Bool[Tensor, " case"]
    interval: Int[Tensor, " case"]

    def __len__(self) -> int:
        return len(self.case_ids)

    @property
    def has_slides(self) -> Bool[Tensor, " case"]:
        return to_device([len(bag) > 0 for bag in self.bags], torch.bool, self.time.device)


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What a fold fits on its training cases before a model sees them: scales and time intervals."""

    genes: tuple[str, ...]
    scale: ExpressionScale
    lowest: Float[np.ndarray, " gene"]  # of the training cases, unscaled
    highest: Float[np.ndarray, " gene"]
    clinical: ClinicalScale
    intervals: TimeIntervals
    means: Float[np.ndarray, " gene"] | None = None  # of the training cases, unscaled: for unknown values

    @classmethod
    def fit(
        cls,
        cohort: Cohort,
        fold: Fold,
        *,
        intervals: int = 4,
        interval_edges: str = "training",
        expression_scale: str = "minmax",
    ) -> Preprocessing:
        """Fit scaling and interval edges on the training cases of `fold`.

        `interval_edges="cohort"` fits the edges on the whole cohort, including held-out cases, as related published
        code does; this leaks a little of the labels.
        """
        case_ids = cohort.cases.index
        time, event = cohort.cases["time"].to_numpy(float), cohort.cases["event"].to_numpy(bool)
        training = case_ids.isin(fold.training)
        seen = np.ones_like(training) if interval_edges == "cohort" else training
        edges = TimeIntervals.fit(time[seen], event[seen], intervals)
        clinical = ClinicalScale.fit(cohort.cases[training], cohort.spec.clinical)
        genes = () if cohort.expression is None else tuple(cohort.expression.columns)
        if cohort.expression is None or not cohort.has_expression.any():
            zeros = np.zeros(len(genes), np.float32)
            return cls(genes, ExpressionScale(0.0, 1.0), zeros, zeros, clinical, edges, zeros)
        measured = case_ids[training & cohort.has_expression]
        if measured.empty:
            raise DataError([f"fold {fold.index}: no training case has expression to scale by. Fix: fewer folds."])
        expression = cohort.expression.loc[measured].to_numpy()
        means = training_means(expression)
        expression = filled(expression, means)
        return cls(
            genes=genes,
            scale=SCALES[expression_scale](expression),
            lowest=expression.min(axis=0),
            highest=expression.max(axis=0),
            clinical=clinical,
            intervals=edges,
            means=means,
        )

    def table(self, cohort: Cohort) -> CaseTable:
        """All cases of a cohort, as the fold sees them. The cohort has all `genes`, in any order, and maybe others."""
        case_ids = cohort.cases.index
        time = cohort.cases["time"].to_numpy(float)
        expression = np.zeros((len(case_ids), len(self.genes)), dtype=np.float32)
        has = cohort.has_expression if self.genes else np.zeros(len(case_ids), dtype=bool)
        if has.any():
            assert cohort.expression is not None
            measured = cohort.expression.loc[case_ids[has], list(self.genes)].to_numpy()
            expression[has] = self.scale(measured if self.means is None else filled(measured, self.means))
        return CaseTable(
            row={case: number for number, case in enumerate(case_ids)},
            expression=torch.from_numpy(expression),
            has_expression=torch.from_numpy(has),
            clinical=torch.from_numpy(self.clinical(cohort.cases)),
            time=torch.from_numpy(time).float(),
            event=torch.from_numpy(cohort.cases["event"].to_numpy(bool)),
            interval=torch.from_numpy(self.intervals.interval(time)),
        )


@dataclass(frozen=True)
class CaseTable:
    """All cases of a cohort as one fold sees them: scaled and discretised by its training cases."""

    row: Mapping[str, int]
    expression: Float[Tensor, "case gene"]
    has_expression: Bool[Tensor, " case"]
    clinical: Float[Tensor, "case covariate"]
    time: Float[Tensor, " case"]
    event: Bool[Tensor, " case"]
    interval: Int[Tensor, " case"]

    def to(self, device: torch.device) -> CaseTable:
        fields = ("expression", "has_expression", "clinical", "time", "event", "interval")
        return replace(self, **{name: getattr(self, name).to(device) for name in fields})

    def batch(self, case_ids: Sequence[str], bags: Sequence[Tensor]) -> Batch:
        rows = to_device([self.row[case] for case in case_ids], torch.long, self.time.device)
        return Batch(
            case_ids=tuple(case_ids),
            bags=tuple(bags),
            expression=self.expression[rows],
            has_expression=self.has_expression[rows],
            clinical=self.clinical[rows],
            time=self.time[rows],
            event=self.event[rows],
            interval=self.interval[rows],
        )
