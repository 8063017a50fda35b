"""Run: one configuration, trained on the folds of a cohort."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

import pandas as pd

from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.identity import code_version, sha256_of


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
            "folds": {"count": len(self.folds), "sha256": sha256_of(folds)},
            "data": fingerprint,
            "code": code_version(self.config.model),
        }


def _file_name(text: str) -> str:
    """The text itself where it can name a file that is not hidden; else what can be kept of it, and a hash."""
    plain = re.sub(r"[^A-Za-z0-9+\-._=,]|^\.", "_", text)
    return text if plain == text and len(text) <= 200 else f"{plain[:180]}-{sha256_of(text)[:12]}"
