"""Results: the finished runs of a study, on disk. The files are the only truth; nothing else remembers.

    results/<study>/runs/<cohort>/[<group>/]<model>-seed<seed>-<hash>/
        config.json           everything the result depends on
        predictions.parquet   case_id, repeat, fold, time, event, risk, ... out of fold
        fold-0-1.safetensors  the weights of a fold, where they are kept
        report.json           state, C-index, learning curves, checksums

A run's folder appears whole or not at all. Starting a study again finds what is finished and does the rest.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.location import Location, atomic_folder
from survq.data.lock import locked
from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch
from survq.text import preview
from survq.training.report import FileCheck, Report
from survq.training.run import named_settings
from survq.training.typed_json import parse, to_json

DAMAGED, STALE = ".damaged-", ".stale-"
CONFIG, REPORT, PREDICTIONS = "config.json", "report.json", "predictions.parquet"
NAMESPACES = {"hyperparameters": "hyperparameters ", "training": "training settings ", "data": "", "code": "code of "}
"""What people are told of the names in a part of a configuration."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
"""What reading a damaged record may raise."""


@dataclass(frozen=True)
class Record:
    """One run that ended, as it lies on disk."""

    folder: Path
    config: Mapping[str, Any]  # what `Run.describe` says of it
    report: Report
    predictions: pd.DataFrame | None  # None for a run that was stopped early or diverged

    @property
    def cohort(self) -> str:
        return self.config["cohort"]

    @property
    def group(self) -> str:
        return self.config["group"]

    @property
    def model(self) -> str:
        return self.config["model"]

    @property
    def hyperparameters(self) -> Mapping[str, Any]:
        """Of the model, defaults included."""
        return self.config["hyperparameters"]

    @property
    def training(self) -> Mapping[str, Any]:
        """The training settings."""
        return self.config["training"]

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """All that was chosen, by name, see `named_settings`."""
        return named_settings(self.model, self.hyperparameters, self.training)

    @property
    def state(self) -> str:
        return self.report.state

    @property
    def epochs(self) -> list[Epoch]:
        return list(self.report.epochs)

    @property
    def c_index(self) -> float:
        """The mean over folds; NaN where it is undefined, and for a run that did not finish."""
        return math.nan if self.report.c_index is None else self.report.c_index.mean

    def read(self, name: str) -> bytes:
        """One of its files. Raises DataError where it has none of this name, or where it is not what was written."""
        check = self.report.files.get(name)
        if check is None:
            has = preview(self.report.files, 9)
            raise DataError([f"{self.folder}: has no {name}; it has {has}. Fix: train the run again and keep it."])
        try:
            return _checked(self.folder / name, check)
        except (OSError, ValueError) as error:
            raise DataError([f"{self.folder}: {error}. Fix: restore it, or train the run again."]) from error


@dataclass(frozen=True)
class Results:
    """The folder of a study."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def views(self) -> Path:
        """What other programs show: written, never read, and made again where it is deleted."""
        return self.folder / "views"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes away from this study for as long as this one lives. Raises InUse."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock", self.folder, "wait for it to end, or give --results another folder"):
            Location.at(self.folder).sweep("**/.*")
            yield

    def find(
        self, path: str, config: dict, needed: Collection[str] = (), say: Callable[[str], None] = print
    ) -> Record | None:
        """The run at `path` with exactly this configuration, or None if it has to be done.

        One with another configuration, or damaged, is set aside under a hidden name, never reused and never deleted. So
        is a finished one without the files that are `needed`.
        """
        folder = self.runs / path
        if not folder.exists():
            return None
        try:
            record = read_record(folder)
            # as it would come back: no tuples, no numbers that JSON does not know
            changed = _changes(record.config, json.loads(to_json(config)))
        except UNREADABLE as error:
            aside = _set_aside(folder, DAMAGED)
            say(f"  {path} is damaged ({error}); kept as {aside.name}, it is done again")
            return None
        lacking = [name for name in needed if name not in record.report.files] if record.state == "finished" else []
        if changed or lacking:
            why = f"was made with other {'; '.join(changed)}" if changed else f"has no {preview(lacking)}"
            aside = _set_aside(folder, STALE)
            say(f"  {path} {why}; kept as {aside.name}, it is done again")
            return None
        return record

    def save(
        self, path: str, config: dict, report: Report, files: Mapping[str, bytes | memoryview] | None = None
    ) -> Record:
        """Write a run and its files, whole or not at all. The first writer wins."""
        folder = self.runs / path
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_folder(folder) as unfinished:
                content = {CONFIG: to_json(config), **(files or {})}
                checks = {name: _write(unfinished / name, data) for name, data in content.items()}
                content = asdict(replace(report, files=checks))
                _write(unfinished / REPORT, to_json(content | {"sha256": hashlib.sha256(to_json(content)).hexdigest()}))
        except OSError:
            if not folder.exists():
                raise
        return read_record(folder)

    def checkpoints(self, path: str, config: dict) -> Path:
        """A folder for the checkpoints of the run at `path` with exactly this configuration, which is made.

        Those of other configurations of the run go, for nothing will continue them.
        """
        folder = self.folder / "checkpoints" / path
        own = folder / hashlib.sha256(to_json(config)).hexdigest()[:16]
        for other in folder.glob("*") if folder.exists() else ():
            if other != own:
                shutil.rmtree(other, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def remove_checkpoints(self, path: str) -> None:
        """Remove the checkpoints of a run, and the folders that they leave empty."""
        folder = self.folder / "checkpoints" / path
        shutil.rmtree(folder, ignore_errors=True)
        while folder != self.folder:
            folder = folder.parent
            with suppress(OSError):  # it is not there, or there are those of other runs
                if folder != self.folder:
                    folder.rmdir()

    def records(self) -> list[Record]:
        """All runs that ended, by path. Damaged ones are passed over: `find` reports those that a study needs."""
        found = []
        for report in sorted(self.runs.rglob(REPORT)):
            if not any(part.startswith(".") for part in report.relative_to(self.runs).parts):
                with suppress(*UNREADABLE):
                    found.append(read_record(report.parent))
        return found


def read_record(folder: Path) -> Record:
    """Read a run, every byte of it checked but those of weights, which `Record.read` checks.

    Raises one of UNREADABLE where it is not what was written.
    """
    content = json.loads((folder / REPORT).read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{REPORT} is no report")
    sha256 = content.pop("sha256")
    if hashlib.sha256(to_json(content)).hexdigest() != sha256:
        raise ValueError(f"{REPORT} does not match its checksum")
    report: Report = parse(Report, content)
    config = json.loads(_checked(folder / CONFIG, report.files[CONFIG]))
    predictions = None
    if PREDICTIONS in report.files:
        table = _checked(folder / PREDICTIONS, report.files[PREDICTIONS])
        predictions = pq.ParquetFile(io.BytesIO(table)).read().to_pandas()
    for name, check in report.files.items():
        if (folder / name).stat().st_size != check.size:
            raise ValueError(f"{name} is not as long as it was written")
    return Record(folder, config, report, predictions)


def _checked(file: Path, check: FileCheck) -> bytes:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != check.sha256:
        raise ValueError(f"{file.name} does not match its checksum")
    return content


def _write(file: Path, content: bytes | memoryview) -> FileCheck:
    file.write_bytes(content)
    return FileCheck(hashlib.sha256(content).hexdigest(), len(content))


def _set_aside(folder: Path, prefix: str) -> Path:
    for number in range(1, 10_000):
        aside = folder.with_name(f"{prefix}{folder.name}-{number}")
        if not aside.exists():
            return folder.rename(aside)
    raise OSError(f"{folder} has been set aside 9999 times. Fix: delete its hidden copies.")


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of a run, in words."""
    words = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key not in NAMESPACES or not isinstance(before, dict) or not isinstance(after, dict):
            words.append(key)
            continue
        names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        words.append(NAMESPACES[key] + ", ".join(names))
    return words
