"""Report: the results of a run, stored as report.json in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import Measured


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the highest mean C-index: optimistic, because it was selected by its result."""

    epoch: int
    c_index: float


@dataclass(frozen=True)
class FileCheck:
    """Size and checksum of a file of a record."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Report:
    """The results of a run. The main one, `c_index`, is that of the last epoch; optimistic ones are named so."""

    state: Literal["finished", "stopped", "diverged"]  # stopped early, by a search
    epochs: Sequence[Epoch]
    pretraining: Sequence[PretrainingEpoch] = ()
    reason: str = ""  # why it diverged
    c_index: Measured | None = None  # None if the run did not finish
    optimistic_best_epoch: BestEpoch | None = None
    interval_edges: Sequence[Sequence[float]] = ()  # months, by fold
    median_training_risk: Sequence[float] = ()  # by fold: the cut between risk groups, fixed before held-out cases
    weights_sha256: Sequence[str] = ()  # by fold
    parameters: int = 0
    device: str = ""
    precision: str = ""  # of the largest matrix products: bf16 or fp32
    parts: int = 1  # processes that shared each fold
    seconds: float = math.nan  # of the process that finished it
    resumed_after_epochs: int = 0  # epochs trained before the last interruption
    checkpoint_problem: str = ""  # why its checkpoint was not used, so that training restarted
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileCheck] = field(default_factory=dict)  # by name: the other files of the record
