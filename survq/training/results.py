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
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from survq.data.location import Location, atomic_folder
from survq.data.lock import locked
from survq.text import preview
from survq.training.record import CONFIG, REPORT, UNREADABLE, Record, read_record
from survq.training.report import FileCheck, Report
from survq.training.typed_json import to_json

DAMAGED, STALE = ".damaged-", ".stale-"
NAMESPACES = {"hyperparameters": "hyperparameters ", "training": "training settings ", "data": "", "code": "code of "}
"""What people are told of the names in a part of a configuration."""


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
        self, path: str, config: dict, needed: Collection[str] = (), notify: Callable[[str], None] = print
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
            notify(f"  {path} is damaged ({error}); kept as {aside.name}, it is done again")
            return None
        lacking = [name for name in needed if name not in record.report.files] if record.state == "finished" else []
        if changed or lacking:
            why = f"was made with other {'; '.join(changed)}" if changed else f"has no {preview(lacking)}"
            aside = _set_aside(folder, STALE)
            notify(f"  {path} {why}; kept as {aside.name}, it is done again")
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
