"""Configuration of a training: a model, its hyperparameters and its training settings."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from survq.exits import UsageError
from survq.models import MODELS


@dataclass(frozen=True)
class TrainConfig:
    """A model, its hyperparameters and how it is trained. The defaults are the paper's (section 4.3)."""

    model: str = "survq"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3
    epochs: int = 50
    batch_size: int = 32  # cases
    seed: int = 0
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"  # adam and sgd apply weight decay as an L2 penalty
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: one epoch of linear warm-up, then decay to 0
    nll_alpha: float = 0.0  # fraction by which the survival loss of censored cases is reduced
    intervals: int = 4
    interval_edges: Literal["training", "cohort"] = "training"
    expression_scale: Literal["minmax", "minmax_as_survpath", "zscore"] = "minmax"
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    patches_per_case: int | None = None  # sampled anew in each training epoch; None: all patches

    def __post_init__(self):
        problems = []
        if unknown := model_problems([self.model]):
            problems += unknown
        else:
            known = hyperparameters_of(self.model)
            for name in self.hyperparameters:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"perhaps {near[0]!r}" if near else f"it has {', '.join(known)}"
                    problems.append(f"{self.model} has no hyperparameter {name!r}; {hint}")
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                problems.append(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        if not 0 < self.learning_rate <= 1:
            problems.append(f"learning_rate is {self.learning_rate}; expected above 0 and at most 1")
        if not 0 <= self.weight_decay <= 10:
            problems.append(f"weight_decay is {self.weight_decay}; expected 0 to 10")
        if not 0 <= self.nll_alpha <= 1:
            problems.append(f"nll_alpha is {self.nll_alpha}; expected 0 to 1")
        for name, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("intervals", 2), ("patches_per_case", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                problems.append(f"{name} is {value}; expected {low} or more")
        if problems:
            raise UsageError("Configuration: " + "; ".join(problems) + ".")

    @classmethod
    def native(cls, model: str, **settings: Any) -> TrainConfig:
        """The training settings of the model's own paper, except those given."""
        return cls(**{"model": model, **MODELS[model].native, **settings})


@cache  # a search makes many configurations
def _choices() -> dict[str, tuple[str, ...]]:
    """The fields that have one of a few values."""
    return {name: get_args(kind) for name, kind in get_type_hints(TrainConfig).items() if get_origin(kind) is Literal}


def model_problems(names: Iterable[str]) -> list[str]:
    """One message for each name that is not a model's."""
    return [f"model {name!r} is unknown; expected one of {', '.join(MODELS)}" for name in names if name not in MODELS]


def hyperparameters_of(model: str) -> dict[str, Any]:
    """The hyperparameters of a model and their defaults: the keyword arguments of its class."""
    parameters = inspect.signature(MODELS[model].__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
