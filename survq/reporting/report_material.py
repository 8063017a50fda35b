"""What a results folder holds, as its report needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from survq.exits import UsageError
from survq.reporting.methods import Method, methods_of, metrics_table
from survq.text import preview
from survq.training.config import TrainConfig
from survq.training.record import Record
from survq.training.results import Results

SETTINGS = "study.json"
ABOUT = "about.json"  # what a study knew before it trained: protocol, cohorts, exclusions, planned runs


@dataclass(frozen=True)
class Material:
    """What a results folder holds."""

    results: Results
    known: Sequence[Record] = ()  # runs that were read before; the others are read when they are needed

    @cached_property
    def records(self) -> list[Record]:
        return self.results.records(self.known)

    @cached_property
    def methods(self) -> list[Method]:
        return methods_of(self.records)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        return metrics_table(self.methods)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        return _read(self.results.folder / SETTINGS)

    @cached_property
    def about(self) -> Mapping[str, Any]:
        return _read(self.results.folder / ABOUT)

    @cached_property
    def incomplete(self) -> list[tuple[str, int, int]]:
        """The planned runs, or folders of runs, that lack results: label, runs that ended, runs that were planned."""
        ended = [record.folder.relative_to(self.results.runs).as_posix() for record in self.records]
        found = []
        for path, planned in self.about.get("plan", {}).items():
            done = sum(one == path or one.startswith(f"{path}/") for one in ended)
            if done < planned["runs"]:
                found.append((str(planned["label"]), done, int(planned["runs"])))
        return found

    @property
    def cohorts(self) -> list[str]:
        return list(dict.fromkeys([*self.about.get("cohorts", {}), *(record.cohort for record in self.records)]))

    def of(self, cohort: str) -> list[Method]:
        """The methods of a cohort: those of the default model first, then in the order of their names."""
        own = [method for method in self.methods if method.cohort == cohort]
        return sorted(own, key=lambda method: method.records[0].model != TrainConfig.model)

    def metric(self, method: Method, name: str) -> pd.Series:
        return self._by_method.loc[(method.cohort, method.name, method.seed, name)]

    @cached_property
    def _by_method(self) -> pd.DataFrame:
        return self.metrics.set_index(["cohort", "method", "seed", "metric"]).sort_index()


def material_of(folder: Path) -> Material:
    """What the results folder of a study holds. Raises UsageError if it is none."""
    folder = folder.expanduser()
    if not (folder / SETTINGS).is_file():
        studies = sorted(path.parent.name for path in folder.glob(f"*/{SETTINGS}"))
        has = f"it has the studies {preview(studies, 9)}; choose one" if studies else f"expected {SETTINGS} in it"
        raise UsageError(f"{folder}: no results of a study; {has}.")
    return Material(Results(folder))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
