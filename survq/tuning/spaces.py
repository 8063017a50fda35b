"""The search space of any model: its own hyperparameters, learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import torch

from survq.data.cohort import InputSpec
from survq.exits import UsageError
from survq.models import MODELS
from survq.models.space import Choices, Floats, Integers, Range
from survq.training.config import TrainConfig, hyperparameters_of
from survq.tuning.search import Space

TRAINING: Mapping[str, Range] = {
    "learning_rate": Floats(1e-4, 3e-3, log=True),
    "weight_decay": Floats(1e-4, 1e-1, log=True),
}


def space_of(
    model: str, spec: InputSpec, *, fixed: Mapping[str, Any], limits: Mapping[str, int], **training: Any
) -> Space:
    """The search space of a model for a cohort, beginning with the model's defaults.

    `fixed` hyperparameters are not searched; `limits` lower the upper ends of ranges. `training` are the settings that
    all trials share, such as the number of epochs. If they make the model nested, its sizes are not searched by trials:
    they are chosen from its curve. Raises UsageError for an unknown model and for one without anything
    to search, because it is not trained by gradient.
    """
    config = TrainConfig(model, dict(fixed), **training)
    if not MODELS[model].learns:
        raise UsageError(f"{model} has nothing to search: it is fitted without gradients.")
    sizes, known = MODELS[model].sizes, hyperparameters_of(model)
    all_ranges = {name: _limited(values, limits.get(name)) for name, values in MODELS[model].space_for(spec).items()}
    nested = _is_nested(model, spec, fixed)
    if nested:  # the largest sizes: it contains all others
        fixed = {name: _inside(known[name], all_ranges[name]) for name in sizes if name in all_ranges} | dict(fixed)
    ranges = {name: values for name, values in all_ranges.items() if name not in fixed}

    def configure(trial: optuna.trial.BaseTrial) -> TrainConfig:
        own = {name: suggest(trial, name, values) for name, values in ranges.items()}
        shared = {name: suggest(trial, name, values) for name, values in TRAINING.items()}
        return replace(config, hyperparameters={**own, **fixed}, **shared)

    defaults = {**known, "learning_rate": config.learning_rate, "weight_decay": config.weight_decay}
    first = {name: _inside(defaults[name], values) for name, values in {**ranges, **TRAINING}.items()}
    return Space(
        configure,
        first=first,
        complexity=lambda trial: sum({**defaults, **trial.hyperparameters}[name] for name in sizes),
        nested=nested,
    )


def _is_nested(model: str, spec: InputSpec, fixed: Mapping[str, Any]) -> bool:
    with torch.device("meta"):
        return MODELS[model](spec, **fixed).nested


def suggest(trial: optuna.trial.BaseTrial, name: str, values: Range) -> Any:
    """A trial's value from a range."""
    match values:
        case Integers(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Floats(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Choices(choices):
            return trial.suggest_categorical(name, choices)


def _limited(values: Range, most: int | None) -> Range:
    return replace(values, high=min(values.high, most)) if isinstance(values, Integers) and most else values


def _inside(value: Any, values: Range) -> Any:
    return value if isinstance(values, Choices) else min(max(value, values.low), values.high)
