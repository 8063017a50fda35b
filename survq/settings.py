"""The options shared by all studies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from survq.exits import UsageError


@dataclass(frozen=True)
class StudySettings:
    """Options shared by all studies."""

    data: str | None = None
    """Data folder made by `survq import`, or its bucket URI. If omitted: a small simulated cohort."""
    cohorts: tuple[str, ...] = ()
    """Cohorts in the data folder, such as BLCA COADREAD. If omitted: all cohorts."""
    results: Path = Path("results")
    """Folder for results, with one subfolder per study. Run the same command again to resume."""
    epochs: int | None = None
    """Training epochs. If omitted: 50 as in the paper, or the study's own number for simulated data."""
    folds: int | None = None
    """New folds, stratified by event and grouped by site. If omitted: the folds of the data folder, or 5 new ones."""
    repeats: int = 1
    """Repeats of the cross-validation, each with a new split. Not available for folds of the data folder."""
    seeds: int = 1
    """Seeds per configuration."""
    cpus: int | None = None
    """CPUs for the private Ray on this machine. If omitted: all that this process, or its Slurm job, may use."""
    gpus_per_trial: float | None = None
    """GPUs per trial or Ray Train worker; with 0.5 two share a GPU, 0 uses none. If omitted: 1, if there are GPUs."""
    workers_per_trial: int = 0
    """Ray Train workers per trial, which share its folds or, if a multiple, their batches. 0: one process per trial."""
    keep_weights: bool = False
    """Keep the trained models of all folds, for `survq predict`: about 0.1 GB per fold at the paper's size."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints of a run, from which an interrupted run resumes. 0: after every epoch."""
    verbose: bool = False
    """Show Ray's log."""

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
        if bucket := re.match("([a-z][a-z0-9+.-]*):/+", str(self.results)):
            where = f"{bucket[1]}://{str(self.results)[bucket.end() :]}"
            problems.append(
                f"--results {where}: results need a folder, because a bucket cannot lock a study. "
                f"Fix: use a folder on the machine where the study starts, and copy it afterwards"
            )
        if repeated := sorted({name for name in self.cohorts if self.cohorts.count(name) > 1}):
            problems.append(f"--cohorts lists {', '.join(repeated)} more than once")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass(frozen=True)
class MapSettings(StudySettings):
    """Options shared by the studies that show single cases."""

    cases: tuple[str, ...] = ()
    """Cases to show. If omitted: two per cohort, the most certain of a bad and of a good outcome."""
    slides: Path | None = None
    """Folder of the slide files, searched with its subfolders. If omitted: patches are drawn as squares."""
