"""MODELS: one line a model."""

from survq.models.base import Prediction, SurvivalModel
from survq.models.survq import SurvQ

MODELS: dict[str, type[SurvivalModel]] = {
    "survq": SurvQ,
}

__all__ = ["MODELS", "Prediction", "SurvivalModel"]
