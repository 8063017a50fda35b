"""What is trained: a model's configuration, and a run of it over the folds of a cohort."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pandas as pd

from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError
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
    intervals: int = 4
    interval_edges: Literal["training", "cohort"] = "training"
    expression_scale: Literal["minmax", "minmax_as_survpath", "zscore"] = "minmax"
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    patches_per_case: int | None = None  # drawn afresh each epoch in training; None takes all

    def __post_init__(self):
        problems = []
        if self.model not in MODELS:
            problems.append(f"model {self.model!r} is unknown; expected one of {', '.join(MODELS)}")
        else:
            known = hyperparameters_of(self.model)
            for name in self.hyperparameters:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = f"perhaps {near[0]!r}" if near else f"it has {', '.join(known)}"
                    problems.append(f"{self.model} has no hyperparameter {name!r}; {hint}")
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is Literal and getattr(self, name) not in get_args(kind):
                problems.append(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(kind))}")
        if not 0 < self.learning_rate <= 1:
            problems.append(f"learning_rate is {self.learning_rate}; expected above 0 and at most 1")
        if not 0 <= self.weight_decay <= 10:
            problems.append(f"weight_decay is {self.weight_decay}; expected 0 to 10")
        for name, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("intervals", 2), ("patches_per_case", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                problems.append(f"{name} is {value}; expected {low} or more")
        if problems:
            raise UsageError("Configuration: " + "; ".join(problems) + ".")

    @property
    def name(self) -> str:
        """What tells this configuration from the paper's default, for people and for paths."""
        given = self.hyperparameters
        parts = {name: given[name] for name in hyperparameters_of(self.model) if name in given}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name not in ("model", "hyperparameters", "seed") and value != entry.default:
                parts[entry.name] = value
        return ",".join(f"{key}={value}" for key, value in {**parts, "seed": self.seed}.items())


def hyperparameters_of(model: str) -> dict[str, Any]:
    """The hyperparameters of a model and their defaults: the keyword arguments of its class."""
    parameters = inspect.signature(MODELS[model].__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Run:
    """One configuration trained on some folds of a cohort: the unit of work, of results and of resuming."""

    cohort: str
    config: TrainConfig
    folds: tuple[Fold, ...]
    group: str = ""  # runs that belong together inside a study, such as the inner runs of one outer fold

    @property
    def path(self) -> str:
        """Where its results lie, below the study's folder."""
        name = self.config.name if self.config.model == TrainConfig.model else f"{self.config.model},{self.config.name}"
        return "/".join(_file_name(part) for part in (self.cohort, *self.group.split("/"), name) if part)

    def problems(self, cases: pd.DataFrame) -> list[str]:
        """The folds whose time intervals cannot be cut, for too few times of death. `cases` has time and event."""
        found = []
        for fold in self.folds:
            seen = cases if self.config.interval_edges == "cohort" else cases.loc[list(fold.training)]
            try:
                TimeIntervals.fit(seen["time"].to_numpy(float), seen["event"].to_numpy(bool), self.config.intervals)
            except DataError as error:
                where = " ".join(filter(None, (f"cohort {self.cohort}", self.group, f"fold {fold.index}")))
                found += [f"{where} of repeat {fold.repeat}: {problem}" for problem in error.problems]
        return found

    def describe(self, fingerprint: str) -> dict:
        """All that was chosen and that the result depends on, as plain data.

        Runs of equal descriptions have equal results on the same kind of machine, with the same versions and as many
        processes a fold; these were not chosen for the result's sake, and stand in report.json.
        """
        config = asdict(self.config)
        config["hyperparameters"] = {**hyperparameters_of(self.config.model), **config["hyperparameters"]}
        folds = json.dumps([asdict(fold) for fold in self.folds], sort_keys=True)
        return {
            "cohort": self.cohort,
            "group": self.group,
            "config": config,
            "folds": {"count": len(self.folds), "sha256": _sha256(folds)},
            "data": fingerprint,
            "code": code_version(self.config.model),
        }


MATTERS = (
    *("survq.data.batch", "survq.data.expression", "survq.data.folds", "survq.data.pathways", "survq.data.cohort"),
    *("survq.data.features", "survq.data.streams", "survq.models.base", "survq.models.layers", "survq.models.fast"),
    *("survq.training.losses", "survq.training.loop", "survq.training.sampling", "survq.evaluation.concordance"),
)
"""The modules, beside the model's own, on whose code a result depends."""


@cache
def code_version(model: str) -> str:
    """A hash of the code that a result depends on. Comments, docstrings and layout do not count."""
    modules = (*MATTERS, MODELS[model].__module__)
    return _sha256("".join(_meaning(inspect.getsource(importlib.import_module(module))) for module in modules))[:16]


def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a string that stands alone is documentation
            node.body = [  # type: ignore[attr-defined]
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
    return ast.unparse(tree)  # ast.dump differs between versions of Python


def _file_name(text: str) -> str:
    """The text itself where it can name a file that is not hidden; else what can be kept of it, and a hash."""
    plain = re.sub(r"[^A-Za-z0-9+\-._=,]|^\.", "_", text)
    return text if plain == text and len(text) <= 200 else f"{plain[:180]}-{_sha256(text)[:12]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
