"""Printed progress of runs: a line per ended run, and regularly a line on those in progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.text import clock
from survq.training.queue import Schedule
from survq.training.record import Record

INTERVAL = 15.0  # seconds between lines on runs in progress
REPLAY_GAP = 0.05  # seconds; epochs that follow each other faster are replayed from a checkpoint


@dataclass
class _Running:
    """A run in progress."""

    epochs: int  # in total
    last: float  # time of its last epoch, or of its start
    epoch: int = 0
    c_index: float = math.nan
    pretraining: int = 0  # epochs

    def __str__(self) -> str:
        if not self.epoch:
            return f"pretraining, epoch {self.pretraining}"
        return f"epoch {self.epoch} of {self.epochs}, C {_c(self.c_index)}"


class Progress:
    """Prints plain lines, which look the same in a terminal, in a file and through `ray submit`."""

    def __init__(self, schedule: Schedule, label: Callable[[str], str] = str):
        self._schedule, self._label = schedule, label
        self._start = self._last = self._first_epoch = time.monotonic()
        self._running: dict[str, _Running] = {}
        self._ended = self._epochs_done = 0

    def on_started(self, path: str, epochs: int) -> None:
        self._running[path] = _Running(epochs, time.monotonic())

    def on_pretraining_epoch(self, path: str, epoch: PretrainingEpoch) -> None:
        self._running[path].pretraining = epoch.epoch
        self._print_running()

    def on_epoch(self, path: str, epoch: Epoch) -> None:
        run, now = self._running[path], time.monotonic()
        if now - run.last > REPLAY_GAP:
            self._first_epoch = self._first_epoch if self._epochs_done else now
            self._epochs_done += 1
        run.epoch, run.c_index, run.last = epoch.epoch, epoch.mean_c_index, now
        self._print_running()

    def on_finished(self, path: str, record: Record, *, found: bool) -> None:
        self._running.pop(path, None)
        self._ended += 1
        seconds = record.report.seconds
        how = "stored" if found else "" if math.isnan(seconds) else clock(seconds)
        print(f"  {self._done():>14}  {_result(record):<22} {how:>6}  {self._label(path)}", flush=True)

    def on_failed(self, path: str, reason: str) -> None:
        self._running.pop(path, None)
        print(f"  FAILED {self._label(path)}\n    {reason.strip().splitlines()[-1]}", flush=True)

    def notify(self, text: str) -> None:
        print(text, flush=True)

    def _print_running(self) -> None:
        if time.monotonic() - self._last > INTERVAL:
            self._last = time.monotonic()
            elapsed = clock(self._last - self._start)
            now = "; ".join(
                f"{self._label(path)}: {run}" for path, run in self._running.items() if run.epoch or run.pretraining
            )
            print(f"  ... {self._done()}, {elapsed} elapsed{self._left()}  |  {now}", flush=True)

    def _done(self) -> str:
        return f"{self._ended} of {self._schedule.total} done"

    def _left(self) -> str:
        if self._epochs_done < 3:
            return ""
        pace = (time.monotonic() - self._first_epoch) / (self._epochs_done - 1)
        epochs = self._schedule.remaining_epochs + sum(run.epochs - run.epoch for run in self._running.values())
        return f", about {clock(pace * epochs)} left"


def _result(record: Record) -> str:
    measured = record.report.c_index
    if measured is None:
        return f"{record.state} at epoch {len(record.epochs)}"
    return f"C {_c(measured.mean)}" + (f" ± {_c(measured.deviation)}" if len(measured.folds) > 1 else "")


def _c(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
