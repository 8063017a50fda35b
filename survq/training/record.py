"""Record: one run that ended, as stored on disk."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch
from survq.text import preview
from survq.training.report import FileCheck, Report
from survq.training.run import named_settings
from survq.training.typed_json import parse, read_sealed

CONFIG, REPORT, PREDICTIONS = "config.json", "report.json", "predictions.parquet"
CURVE = "curve.parquet"  # of nested models: held-out predictions of each size
UNREADABLE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
"""The errors that reading a damaged record may raise."""


@dataclass(frozen=True)
class Record:
    """One run that ended, as stored on disk."""

    folder: Path
    config: Mapping[str, Any]  # see `Run.describe`
    report: Report
    table: bytes | memoryview | None  # of predictions, as in its file; None for a run stopped early or diverged

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
        """The hyperparameters of the model, including defaults."""
        return self.config["hyperparameters"]

    @property
    def training(self) -> Mapping[str, Any]:
        """The training settings."""
        return self.config["training"]

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Model, hyperparameters and training settings by name, see `named_settings`."""
        return named_settings(self.model, self.hyperparameters, self.training)

    @cached_property
    def predictions(self) -> pd.DataFrame | None:
        """Out of fold. Many runs of a finished study are never asked for theirs, which take longest to read."""
        if self.table is None:
            return None
        return pq.ParquetFile(io.BytesIO(self.table)).read(use_threads=False).to_pandas(use_threads=False)

    @property
    def state(self) -> str:
        return self.report.state

    @property
    def epochs(self) -> list[Epoch]:
        return list(self.report.epochs)

    @property
    def c_index(self) -> float:
        """The mean over folds; NaN if it is undefined or the run did not finish."""
        return math.nan if self.report.c_index is None else self.report.c_index.mean

    def read(self, name: str) -> bytes:
        """The content of one of its files. Raises DataError if the file is missing or damaged."""
        check = self.report.files.get(name)
        if check is None:
            has = preview(self.report.files, 9)
            raise DataError([f"{self.folder}: has no {name}; it has {has}. Fix: train the run again and keep it."])
        try:
            return _checked(self.folder / name, check)
        except (OSError, ValueError) as error:
            raise DataError([f"{self.folder}: {error}. Fix: restore it, or train the run again."]) from error


def read_record(folder: Path) -> Record:
    """Read a run and verify its checksums, except those of weights, which `Record.read` verifies.

    Raises one of UNREADABLE if it is damaged.
    """
    report: Report = parse(Report, read_sealed(folder / REPORT))
    config = json.loads(_checked(folder / CONFIG, report.files[CONFIG]))
    table = _checked(folder / PREDICTIONS, report.files[PREDICTIONS]) if PREDICTIONS in report.files else None
    for name, check in report.files.items():
        if (folder / name).stat().st_size != check.size:
            raise ValueError(f"{name} has a different size than when it was written")
    return Record(folder, config, report, table)


def _checked(file: Path, check: FileCheck) -> bytes:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != check.sha256:
        raise ValueError(f"{file.name} does not match its checksum")
    return content
