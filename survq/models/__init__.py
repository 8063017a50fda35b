"""MODELS: one line a model."""

from survq.models.base import Prediction, SurvivalModel
from survq.models.pibd import PIBD
from survq.models.survq import SurvQ

MODELS: dict[str, type[SurvivalModel]] = {
    "survq": SurvQ,
    "pibd": PIBD,
}

__all__ = ["MODELS", "Prediction", "SurvivalModel"]
