"""Report: how a run went. It is report.json in the folder of the run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import Measured


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the highest mean C-index: optimistic, for it was picked by its result."""

    epoch: int
    c_index: float


@dataclass(frozen=True)
class FileCheck:
    """A file of a record, as it was written."""

    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Report:
    """How a run went. The headline, `c_index`, is that of the last epoch; what is optimistic says so."""

    state: Literal["finished", "stopped", "diverged"]  # stopped early, by a search
    epochs: Sequence[Epoch]
    pretraining: Sequence[PretrainingEpoch] = ()
    reason: str = ""  # why it diverged
    c_index: Measured | None = None  # of a run that finished
    optimistic_best_epoch: BestEpoch | None = None
    interval_edges: Sequence[Sequence[float]] = ()  # months, by fold
    weights_sha256: Sequence[str] = ()  # by fold
    parameters: int = 0
    device: str = ""
    precision: str = ""  # bf16 where large products may be computed in it
    parts: int = 1  # processes that shared each fold
    seconds: float = math.nan  # of the last process that trained it
    resumed_after_epochs: int = 0  # those of a process before that was interrupted
    checkpoint_problem: str = ""  # why its checkpoint could not be used, and the run started from its first epoch
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileCheck] = field(default_factory=dict)  # by name: those beside this report
