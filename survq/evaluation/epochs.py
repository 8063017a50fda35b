"""The losses and C-indices of all folds of a run after an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """A value per fold, in the order of the run's folds. An undefined C-index is NaN."""

    epoch: int  # from 1
    training_loss: Sequence[float]
    validation_loss: Sequence[float]
    c_index: Sequence[float]
    penalties: Mapping[str, Sequence[float]] = field(default_factory=dict)  # by name: means over training cases

    @property
    def mean_c_index(self) -> float:
        """Over the folds where it is defined; NaN if there are none."""
        return mean_defined(self.c_index)

    @property
    def mean_validation_loss(self) -> float:
        return mean_defined(self.validation_loss)


@dataclass(frozen=True)
class PretrainingEpoch:
    """An epoch of a model's own pretraining, before the first epoch of training and not counted among the epochs."""

    epoch: int  # from 1
    losses: Mapping[str, Sequence[float]]  # by name: a value per fold


def mean_defined(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
