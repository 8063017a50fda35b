"""The C-index of out-of-fold predictions, as in reports and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from survq.evaluation.concordance import fold_concordance, summarise
from survq.evaluation.significance import bootstrap_interval


@dataclass(frozen=True)
class FoldConcordance:
    """The C-index of a fold; NaN where it is undefined, with the reason."""

    repeat: int
    fold: int
    cases: int
    events: int
    pairs: int  # comparable ones
    c_index: float
    reason: str | None


@dataclass(frozen=True)
class Measured:
    """The C-index over folds: mean, population deviation, and the 95 % interval by bootstrap of patients."""

    mean: float
    deviation: float
    low: float
    high: float
    folds: Sequence[FoldConcordance]


def measure(predictions: pd.DataFrame) -> Measured:
    """The C-index of out-of-fold predictions; NaN where it is undefined."""
    folds = fold_concordance(predictions)
    summary, interval = summarise(folds), bootstrap_interval(predictions)
    return Measured(
        mean=summary.c_index,
        deviation=summary.deviation,
        low=interval.low,
        high=interval.high,
        folds=tuple(FoldConcordance(**fold) for fold in folds.to_dict("records")),  # type: ignore[misc]
    )
