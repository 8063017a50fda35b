"""Results: the finished runs of a study, on disk. The files are the only truth; nothing else remembers.

    results/<study>/<cohort>/<run>/config.json           everything the result depends on
                                   predictions.parquet   case_id, repeat, fold, time, event, risk, ... out of fold
                                   report.json           state, C-index, learning curves, checksums

A run's folder appears whole or not at all. Starting a study again finds what is finished and does the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.location import Location, atomic_folder, parquet
from survq.data.lock import locked
from survq.evaluation.epochs import Epoch

DAMAGED, STALE = ".damaged-", ".stale-"


@dataclass(frozen=True)
class Record:
    """One run that ended, as it lies on disk."""

    folder: Path
    config: dict
    report: dict
    predictions: pd.DataFrame | None  # None for a run that was stopped early or diverged

    @property
    def state(self) -> str:
        return self.report["state"]

    @property
    def cohort(self) -> str:
        return self.config["cohort"]

    @property
    def settings(self) -> dict[str, Any]:
        """The model's hyperparameters, defaults included, and how it was trained, by name."""
        config = self.config["config"]
        return {**{k: v for k, v in config.items() if k != "hyperparameters"}, **config["hyperparameters"]}

    @cached_property
    def epochs(self) -> list[Epoch]:
        return [Epoch(**epoch) for epoch in self.report["epochs"]]

    @property
    def c_index(self) -> float:
        """The mean over folds; NaN where it is undefined, and for a run that did not finish."""
        return self.report["c_index"]["mean"] if self.state == "finished" else math.nan


@dataclass(frozen=True)
class Results:
    """The folder of a study."""

    folder: Path

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes away from this study for as long as this one lives. Raises InUse."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", self.folder, "wait for it to end, or give --results another folder"):
            Location.at(self.folder).sweep("**/.*")
            yield

    def find(self, path: str, config: dict, say: Callable[[str], None] = print) -> Record | None:
        """The finished run at `path` with exactly this configuration, or None if it has to be done.

        One with another configuration, or damaged, is set aside under a hidden name, never reused and never deleted.
        """
        folder = self.folder / path
        if not folder.exists():
            return None
        try:
            record = read_record(folder)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            aside = _set_aside(folder, DAMAGED)
            say(f"  {path} is damaged ({error}); kept as {aside.name}, it will be done again")
            return None
        config = json.loads(_json(config))  # as it would come back: no tuples, no numbers that JSON does not know
        if record.config != config:
            changed = ", ".join(_differences(record.config, config))
            aside = _set_aside(folder, STALE)
            say(f"  {path} was made with other {changed}; kept as {aside.name}, it will be done again")
            return None
        return record

    def save(self, path: str, config: dict, report: dict, predictions: pd.DataFrame | None) -> Record:
        """Write a run, whole or not at all. The first writer wins."""
        folder = self.folder / path
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_folder(folder) as unfinished:
                checksums = {"config.json": _write(unfinished / "config.json", _json(config))}
                if predictions is not None:
                    checksums["predictions.parquet"] = _write(unfinished / "predictions.parquet", parquet(predictions))
                content = {**report, "checksums": checksums}
                content["sha256"] = hashlib.sha256(_json(content)).hexdigest()
                _write(unfinished / "report.json", _json(content))
        except OSError:
            if not folder.exists():
                raise
        return read_record(folder)

    def records(self) -> list[Record]:
        """All runs that ended, by path."""
        reports = sorted(self.folder.rglob("report.json"))
        hidden = [any(p.startswith(".") for p in r.relative_to(self.folder).parts) for r in reports]
        return [read_record(r.parent) for r, aside in zip(reports, hidden, strict=True) if not aside]


def read_record(folder: Path) -> Record:
    """Read a run and check every byte of it. Raises ValueError where it is not what was written."""
    report = json.loads((folder / "report.json").read_bytes())
    if not isinstance(report, dict):
        raise ValueError("report.json is no report")
    sha256 = report.pop("sha256")
    if hashlib.sha256(_json(report)).hexdigest() != sha256:
        raise ValueError("report.json does not match its checksum")
    for name, expected in report["checksums"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{name} does not match its checksum")
    predictions = None
    if "predictions.parquet" in report["checksums"]:
        predictions = pq.ParquetFile(folder / "predictions.parquet").read().to_pandas()
    return Record(folder, json.loads((folder / "config.json").read_bytes()), _with_nan(report), predictions)


def _json(content: Any) -> bytes:
    return json.dumps(_without_nan(content), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


NUMBERS = {"training_loss", "validation_loss", "c_index", "mean", "deviation", "low", "high"}
"""What a report has numbers for, so that null there is NaN."""


def _with_nan(value: Any, name: str = "") -> Any:
    """And back, where numbers are expected."""
    if isinstance(value, dict):
        return {key: _with_nan(entry, key) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_nan(entry, name) for entry in value]
    return math.nan if value is None and name in NUMBERS else value


def _write(file: Path, content: bytes | memoryview) -> str:
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def _set_aside(folder: Path, prefix: str) -> Path:
    for number in range(1, 10_000):
        aside = folder.with_name(f"{prefix}{folder.name}-{number}")
        if not aside.exists():
            return folder.rename(aside)
    raise OSError(f"{folder} has been set aside 9999 times. Fix: delete its hidden copies.")


def _differences(old: dict, new: dict) -> list[str]:
    """The names of what differs, for people."""
    names = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differences(a, b)
        elif a != b:
            names.append(key)
    return names
