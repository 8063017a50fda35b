"""Results: the finished runs of a study on disk. These files are its only state.

    results/<study>/runs/<cohort>/[<group>/]<model>-seed<seed>-<hash>/
        config.json           all inputs of the result
        predictions.parquet   case_id, repeat, fold, time, event, risk, ... out of fold
        fold-0-1.safetensors  the weights of a fold, if they are kept
        report.json           state, C-index, learning curves, checksums

The folder of a run is written atomically. A restarted study finds its finished runs and trains the others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from survq.data.location import Location, atomic_folder, created_folder
from survq.data.lock import locked
from survq.text import preview
from survq.training.record import CONFIG, REPORT, UNREADABLE, Record, read_record
from survq.training.report import FileCheck, Report
from survq.training.typed_json import sealed_json, to_json

DAMAGED, STALE = ".damaged-", ".stale-"
NAMESPACES = {"hyperparameters": "hyperparameters ", "training": "training settings ", "data": "", "code": "code of "}
"""Prefix in messages of the names in each part of a configuration."""


@dataclass(frozen=True)
class Results:
    """The folder of a study."""

    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def views(self) -> Path:
        """Files for other programs: written, never read, and written again if they are deleted."""
        return self.folder / "views"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the study against other processes. Its folder is removed again if nothing is written. Raises InUse."""
        fix = "wait for it to end, or give --results another folder"
        with created_folder(self.folder), locked(self.folder / ".lock", self.folder, fix):
            Location.at(self.folder).sweep("**/.*")
            yield

    def find(
        self, path: str, config: dict, needed: Collection[str] = (), notify: Callable[[str], None] = print
    ) -> Record | None:
        """The run at `path` with exactly this configuration; None if it has to be trained.

        A damaged run, one with another configuration, or a finished one without the `needed` files is set aside under a
        hidden name. It is never used again and never deleted.
        """
        folder = self.runs / path
        if not folder.exists():
            return None
        try:
            record = read_record(folder)
            # as read from JSON: without tuples and NaN
            changed = _changes(record.config, json.loads(to_json(config)))
        except UNREADABLE as error:
            aside = _set_aside(folder, DAMAGED)
            notify(f"  {path} is damaged ({error}); kept as {aside.name}; the run is trained again")
            return None
        missing = [name for name in needed if name not in record.report.files] if record.state == "finished" else []
        if changed or missing:
            why = f"was trained with different {'; '.join(changed)}" if changed else f"has no {preview(missing)}"
            aside = _set_aside(folder, STALE)
            notify(f"  {path} {why}; kept as {aside.name}; the run is trained again")
            return None
        return record

    def save(
        self, path: str, config: dict, report: Report, files: Mapping[str, bytes | memoryview] | None = None
    ) -> Record:
        """Write a run and its files atomically. The first writer wins."""
        folder = self.runs / path
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_folder(folder) as unfinished:
                content = {CONFIG: to_json(config), **(files or {})}
                checks = {name: _write(unfinished / name, data) for name, data in content.items()}
                _write(unfinished / REPORT, sealed_json(asdict(replace(report, files=checks))))
        except OSError:
            if not folder.exists():
                raise
        return read_record(folder)

    def checkpoints(self, path: str, config: dict) -> Path:
        """Create the folder for checkpoints of the run at `path` with exactly this configuration.

        Checkpoints of other configurations of the run are deleted, because no run will resume from them.
        """
        folder = self.folder / "checkpoints" / path
        own = folder / hashlib.sha256(to_json(config)).hexdigest()[:16]
        for other in folder.glob("*") if folder.exists() else ():
            if other != own:
                shutil.rmtree(other, ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        return own

    def remove_checkpoints(self, path: str) -> None:
        """Remove the checkpoints of a run, and the empty folders above them."""
        folder = self.folder / "checkpoints" / path
        shutil.rmtree(folder, ignore_errors=True)
        while folder != self.folder:
            folder = folder.parent
            with suppress(OSError):  # missing, or in use by other runs
                if folder != self.folder:
                    folder.rmdir()

    def records(self, known: Iterable[Record] = ()) -> list[Record]:
        """All runs that ended, sorted by path; the known ones are not read again.

        Damaged ones are skipped: `find` reports them if a study needs them.
        """
        by_folder = {record.folder: record for record in known}
        found = []
        for report in sorted(self.runs.rglob(REPORT)):
            if not any(part.startswith(".") for part in report.relative_to(self.runs).parts):
                with suppress(*UNREADABLE):
                    found.append(by_folder.get(report.parent) or read_record(report.parent))
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
    """The differences between two descriptions of a run, for a message."""
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
