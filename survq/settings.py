"""The few flags that every study shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from survq.exits import UsageError


@dataclass(frozen=True)
class StudySettings:
    """What every study can be told."""

    data: str | None = None
    """A data folder or bucket URI, as `survq import` makes it. Left out: a small simulated cohort."""
    cohorts: tuple[str, ...] = ()
    """Names of cohorts in the data folder, such as BLCA COADREAD. Left out: all of them."""
    results: Path = Path("results")
    """Where results go, a folder a study. Start the same command again to continue."""
    epochs: int | None = None
    """Epochs of training. Left out: the paper's 50, or what the study says for simulated data."""
    folds: int | None = None
    """Make this many folds, stratified by event, grouped by site. Left out: the folds given with the data, else 5."""
    repeats: int = 1
    """Make the folds this many times over, each time other ones. Not for folds that are given with the data."""
    seeds: int = 1
    """Train each configuration with this many seeds."""
    cpus: int | None = None
    """CPUs that a private Ray on this machine may use. Left out: all."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, or of each of its workers; 0.5 puts two on a GPU, 0 takes none. Left out: one, where
    there are any."""
    workers_per_trial: int = 0
    """Spread the folds of a trial over this many Ray Train workers; a multiple of the folds also divides their batches.
    0: the trial's own process does all."""
    keep_weights: bool = False
    """Keep the trained models of all folds, for `survq predict`: about 0.1 GB per fold at the paper's size."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints of a run, from which an interrupted run goes on. 0: after every epoch."""
    verbose: bool = False
    """Show what Ray has to say."""

    at_least: ClassVar[dict[str, int]] = dict(epochs=1, folds=2, repeats=1, seeds=1, cpus=1, workers_per_trial=0)

    def __post_init__(self):
        problems = [
            f"--{name.replace('_', '-')} is {value}; expected {low} or more"
            for name, low in self.at_least.items()
            if (value := getattr(self, name)) is not None and value < low
        ]
        if not self.checkpoint_minutes >= 0:
            problems.append(f"--checkpoint-minutes is {self.checkpoint_minutes:g}; expected 0 or more")
        if self.gpus_per_trial is not None and self.gpus_per_trial < 0:
            problems.append(f"--gpus-per-trial is {self.gpus_per_trial:g}; expected 0 or more")
        if twice := sorted({name for name in self.cohorts if self.cohorts.count(name) > 1}):
            problems.append(f"--cohorts names {', '.join(twice)} more than once")
        if problems:
            raise UsageError("; ".join(problems))
