"""MODELS: one line per model."""

from survq.models.base import Prediction, SurvivalModel
from survq.models.pibd import PIBD
from survq.models.survq import SurvQ

MODELS: dict[str, type[SurvivalModel]] = {
    "pibd": PIBD,
    "survq": SurvQ,
}

__all__ = ["MODELS", "Prediction", "SurvivalModel"]
