"""Run: one configuration, trained on folds of a cohort."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import pandas as pd

from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError
from survq.text import file_name
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.identity import code_of, data_of, sha256_of


@dataclass(frozen=True)
class Run:
    """One configuration trained on some folds of a cohort: the unit of work, of results and of resuming."""

    cohort: str
    config: TrainConfig
    folds: tuple[Fold, ...]
    group: str = ""  # of related runs inside a study, such as the inner runs of one outer fold
    keep_weights: bool = False  # in the files of its record

    @property
    def model(self) -> str:
        return self.config.model

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters of the model, including defaults."""
        return {**hyperparameters_of(self.model), **self.config.hyperparameters}

    @cached_property
    def training(self) -> dict[str, Any]:
        """The training settings."""
        return {name: value for name, value in asdict(self.config).items() if name not in ("model", "hyperparameters")}

    @property
    def settings(self) -> dict[str, Any]:
        return named_settings(self.model, self.hyperparameters, self.training)

    @cached_property
    def path(self) -> str:
        """The path of its results, below the runs of its study."""
        chosen = json.dumps([self.model, self.hyperparameters, self.training], sort_keys=True)
        name = f"{self.model}-seed{self.config.seed}-{sha256_of(chosen)[:8]}"
        return "/".join(file_name(part) for part in (self.cohort, *self.group.split("/"), name) if part)

    @property
    def weights_files(self) -> tuple[str, ...]:
        """The weight files of its folds, in their order."""
        return tuple(weights_file(fold.repeat, fold.index) for fold in self.folds)

    def problems(self, cases: pd.DataFrame) -> list[str]:
        """The folds with too few times of death for time intervals. `cases` has time and event."""
        found = []
        for fold in self.folds:
            seen = cases if self.config.interval_edges == "cohort" else cases.loc[list(fold.training)]
            try:
                TimeIntervals.fit(seen["time"].to_numpy(float), seen["event"].to_numpy(bool), self.config.intervals)
            except DataError as error:
                where = " ".join(filter(None, (f"cohort {self.cohort}", self.group, f"fold {fold.index}")))
                found += [f"{where} of repeat {fold.repeat}: {problem}" for problem in error.problems]
        return found

    def describe(self, parts: Mapping[str, str]) -> dict[str, Any]:
        """All inputs of the result, as plain data; `parts` are those of its cohort.

        Runs with equal descriptions have equal results on the same kind of machine, with the same versions and the same
        number of processes per fold. Those are not inputs of a study; report.json states them.
        """
        return {
            "cohort": self.cohort,
            "group": self.group,
            "model": self.model,
            "hyperparameters": self.hyperparameters,
            "training": self.training,
            "folds": {"count": len(self.folds), "sha256": _sha256_of_folds(self.folds)},
            "data": data_of(self.model, parts),
            "code": code_of(self.model),
        }


@lru_cache(maxsize=16)  # the runs of a study have few sets of folds
def _sha256_of_folds(folds: tuple[Fold, ...]) -> str:
    return sha256_of(json.dumps([asdict(fold) for fold in folds], sort_keys=True))


def weights_file(repeat: int, index: int) -> str:
    """The file name of the trained model of a fold."""
    return f"fold-{repeat}-{index}.safetensors"


def named_settings(model: str, hyperparameters: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """All settings by name. A hyperparameter with the name of a training setting is called "hyperparameter <name>".

    >>> named_settings("mlp", {"width": 8, "alpha": 2}, {"alpha": 0.5, "seed": 0})
    {'model': 'mlp', 'width': 8, 'hyperparameter alpha': 2, 'alpha': 0.5, 'seed': 0}
    """
    own = {name if name not in training else f"hyperparameter {name}": v for name, v in hyperparameters.items()}
    return {"model": model, **own, **training}
