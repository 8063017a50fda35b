"""From a schedule of runs to records on disk. This module does not depend on how and where runs are executed."""

from __future__ import annotations

import math
import platform
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

import survq
from survq.data.cohort import Cohort
from survq.data.location import parquet
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import measure
from survq.training.config import TrainConfig
from survq.training.loop import RunOutcome
from survq.training.record import PREDICTIONS, Record
from survq.training.report import BestEpoch, Report
from survq.training.results import Results
from survq.training.run import Run


@runtime_checkable
class Schedule(Protocol):
    """The runs to train. Its decisions may depend on finished runs, but not on their duration or machine."""

    def next(self) -> Run | None:
        """The next run that can start now. None if other runs must finish first, or if no run is left."""

    @property
    def exhausted(self) -> bool:
        """Whether no run is left to start, now or after running ones finish."""

    def on_finished(self, run: Run, record: Record) -> None: ...

    def on_failed(self, run: Run) -> None: ...

    def should_stop(self, run: Run, epochs: Sequence[Epoch]) -> bool:
        """Whether to stop a run early, after the last of these epochs."""

    @property
    def total(self) -> int:
        """The total number of runs."""

    @property
    def plan(self) -> Mapping[str, int]:
        """The number of runs to come, by the path of a run or of a folder of runs."""

    @property
    def remaining_epochs(self) -> int:
        """The number of epochs of all runs that have not started; an upper bound if it is not known yet."""

    @property
    def fold_counts(self) -> set[int]:
        """The possible numbers of folds per run."""

    @property
    def cohorts(self) -> Collection[str]:
        """The cohorts of all runs that have not started."""

    @property
    def configs(self) -> Sequence[TrainConfig]:
        """The settings of its runs; of a search, whose others are not known in advance, some of them."""

    @property
    def is_fixed(self) -> bool:
        """Whether no run has settings other than `configs`."""


class Grid:
    """A fixed list of runs, without early stopping. Those of a cohort come together, as they share its features."""

    def __init__(self, runs: Sequence[Run]):
        order = list(dict.fromkeys(run.cohort for run in runs))
        self._waiting = deque(sorted(runs, key=lambda run: order.index(run.cohort)))
        self.cohorts = Counter(run.cohort for run in runs)
        self.total = len(runs)
        self.plan = {run.path: 1 for run in runs}
        self.fold_counts = {len(run.folds) for run in runs}
        self.configs = [run.config for run in runs]
        self.is_fixed = True

    def next(self) -> Run | None:
        if not self._waiting:
            return None
        run = self._waiting.popleft()
        self.cohorts -= Counter([run.cohort])  # without those of which none is left
        return run

    @property
    def exhausted(self) -> bool:
        return not self._waiting

    @property
    def remaining_epochs(self) -> int:
        return sum(run.config.epochs for run in self._waiting)

    def on_finished(self, run: Run, record: Record) -> None: ...

    def on_failed(self, run: Run) -> None: ...

    def should_stop(self, run: Run, epochs: Sequence[Epoch]) -> bool:
        return False


@runtime_checkable
class Monitor(Protocol):
    """An observer of a study."""

    def on_started(self, path: str, epochs: int) -> None: ...

    def on_pretraining_epoch(self, path: str, epoch: PretrainingEpoch) -> None: ...

    def on_epoch(self, path: str, epoch: Epoch) -> None: ...

    def on_finished(self, path: str, record: Record, *, found: bool) -> None: ...

    def on_failed(self, path: str, reason: str) -> None: ...

    def notify(self, text: str) -> None: ...


class RunQueue:
    """Hands out those runs of a schedule that have no record on disk, and writes their records."""

    def __init__(
        self,
        schedule: Schedule,
        results: Results,
        cohorts: dict[str, Cohort],
        monitors: Sequence[Monitor] = (),
    ):
        self.schedule, self.results, self.cohorts, self.monitors = schedule, results, cohorts, monitors
        self.records: dict[str, Record] = {}  # by path
        self.failures: dict[str, str] = {}
        self._epochs: dict[str, list[Epoch]] = {}
        self._pretraining: dict[str, list[PretrainingEpoch]] = {}
        self._prefetched: Run | None = None
        self._running: dict[str, Run] = {}  # by path

    def has_work(self) -> bool:
        """Whether a run has to be trained. If not, no machine is needed."""
        self._prefetched = self.take()
        return self._prefetched is not None

    def take(self) -> Run | None:
        """The next run to train. Runs with a record on disk are skipped."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None:
            return prefetched
        while (run := self.schedule.next()) is not None:
            needed = run.weights_files if run.keep_weights else ()
            record = self.results.find(run.path, self._describe(run), needed, self._notify)
            if record is None:
                self._running[run.path] = run
                self._broadcast(lambda monitor: monitor.on_started(run.path, run.config.epochs))
                return run
            self._finish(run, record, found=True)
        return None

    def checkpoints(self, run: Run) -> Path:
        """The folder for the checkpoints of a run."""
        return self.results.checkpoints(run.path, self._describe(run))

    @property
    def exhausted(self) -> bool:
        return self.schedule.exhausted

    @property
    def done(self) -> bool:
        """Whether all runs have ended."""
        return self.exhausted and not self._running

    @property
    def cohorts_in_use(self) -> set[str]:
        """The cohorts of runs that have started and not ended, or have not started."""
        return {*self.schedule.cohorts, *(run.cohort for run in self._running.values())}

    def is_running(self, run: Run) -> bool:
        """Whether a run has started and not ended."""
        return run.path in self._running

    def lost(self, run: Run, reason: str) -> None:
        """Say that a run is started again."""
        self._notify(f"  {run.path}: {reason}; it is started again")

    def pretraining(self, run: Run, epoch: PretrainingEpoch) -> None:
        """Record an epoch of pretraining. It is not counted as an epoch of training."""
        epochs = self._pretraining.setdefault(run.path, [])
        if epoch.epoch == 1:
            epochs.clear()
        epochs.append(epoch)
        self._broadcast(lambda monitor: monitor.on_pretraining_epoch(run.path, epoch))

    def epoch(self, run: Run, epoch: Epoch) -> bool:
        """Record an epoch. Returns True if the run has to stop; its record is written then."""
        epochs = self._epochs.setdefault(run.path, [])
        if epoch.epoch == 1:
            epochs.clear()  # a retry reports all epochs again
        epochs.append(epoch)
        self._broadcast(lambda monitor: monitor.on_epoch(run.path, epoch))
        if epoch.epoch < run.config.epochs and self.schedule.should_stop(run, epochs):
            pretraining = self._pretraining.get(run.path, [])
            self.end(run, RunOutcome("stopped", epochs, pretraining=pretraining))
            return True
        return False

    def end(self, run: Run, outcome: RunOutcome) -> None:
        """Write the record of a run. A failed run has no record."""
        if outcome.state == "failed":
            self._running.pop(run.path, None)
            self.failures[run.path] = outcome.details["reason"]
            self.schedule.on_failed(run)
            self._broadcast(lambda monitor: monitor.on_failed(run.path, outcome.details["reason"]))
            return
        files = {} if outcome.predictions is None else {PREDICTIONS: parquet(outcome.predictions)}
        record = self.results.save(run.path, self._describe(run), report_of(outcome), {**files, **outcome.files})
        outcome.files.clear()  # weights are large
        self.results.remove_checkpoints(run.path)
        self._finish(run, record, found=False)

    def _finish(self, run: Run, record: Record, *, found: bool) -> None:
        self._running.pop(run.path, None)
        self.records[run.path] = record
        self.schedule.on_finished(run, record)
        self._broadcast(lambda monitor: monitor.on_finished(run.path, record, found=found))

    def _describe(self, run: Run) -> dict:
        return run.describe(self.cohorts[run.cohort].parts)

    def _broadcast(self, event: Callable[[Monitor], None]) -> None:
        for monitor in self.monitors:
            event(monitor)

    def _notify(self, text: str) -> None:
        self._broadcast(lambda monitor: monitor.notify(text))


def report_of(outcome: RunOutcome) -> Report:
    """The report of a run. The main result is that of the last epoch; the best epoch is labelled as optimistic."""
    versions = {"survq": survq.__version__, "torch": torch.__version__, "lifelines": version("lifelines")}
    measured = best = None
    if outcome.predictions is not None:
        measured = measure(outcome.predictions)
        top = max(outcome.epochs, key=lambda epoch: (not math.isnan(epoch.mean_c_index), epoch.mean_c_index))
        best = BestEpoch(top.epoch, top.mean_c_index)
    return Report(
        state=outcome.state,  # type: ignore[arg-type]  # failed runs have no report
        epochs=tuple(outcome.epochs),
        pretraining=tuple(outcome.pretraining),
        c_index=measured,
        optimistic_best_epoch=best,
        versions=versions | {"python": platform.python_version()},
        **outcome.details,
    )
