"""The parts of a search: trials of settings on its inner folds, and the trainings of a setting that was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from survq.evaluation.epochs import Epoch
from survq.training.config import TrainConfig
from survq.training.record import Record


@dataclass
class Trial:
    """One setting of a search, and its results on the inner folds."""

    number: int
    config: TrainConfig
    params: dict[str, Any]
    distributions: dict[str, Any]
    record: Record | None = None

    @property
    def epochs(self) -> list[Epoch]:
        return [] if self.record is None else self.record.epochs

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest mean loss on the held-out parts of the inner folds."""
        return min(self.epochs, key=lambda epoch: epoch.mean_validation_loss)

    @property
    def state(self) -> str:
        return "waiting" if self.record is None else self.record.state

    def as_optuna_trial(self) -> optuna.trial.FrozenTrial:
        return optuna.trial.create_trial(**self.told)

    @property
    def told(self) -> dict[str, Any]:
        """What Optuna is told of an ended trial."""
        finished = self.state == "finished" and not math.isnan(self.best.mean_c_index)
        states = {"finished": TrialState.COMPLETE if finished else TrialState.FAIL, "stopped": TrialState.PRUNED}
        return {
            "state": states.get(self.state, TrialState.FAIL),
            "value": self.best.mean_c_index if finished else None,
            "params": self.params,
            "distributions": self.distributions,
            "intermediate_values": {epoch.epoch: epoch.mean_c_index for epoch in self.epochs},
        }


@dataclass(frozen=True)
class Refit:
    """A setting that is trained again: the chosen one on the inner folds, as far as its best epoch, for its curve; the
    chosen one, and the default beside it, on all training cases of the outer fold.
    """

    role: Literal["curve", "chosen", "default"]
    seed: int = 0
