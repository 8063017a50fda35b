"""Progress for people: a line a finished run, and now and then a line on those that run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from survq.evaluation.epochs import Epoch
from survq.text import clock
from survq.training.results import Record

EVERY = 15.0  # seconds between lines on what is running


class Progress:
    """Prints plain lines: they read the same in a terminal, in a file and through `ray submit`."""

    def __init__(self, total: Callable[[], int], label: Callable[[str], str] = str):
        self._total, self._label = total, label
        self._start = self._last = self._first_epoch = time.monotonic()
        self._running: dict[str, tuple[int, int, float]] = {}  # path: epoch, of, C-index
        self._ended = self._found = self._epochs_done = 0
        self._epochs_of_a_run = 1

    def started(self, path: str, epochs: int) -> None:
        self._epochs_of_a_run = epochs
        self._running[path] = (0, epochs, math.nan)

    def epoch(self, path: str, epoch: Epoch) -> None:
        _, of, _ = self._running.get(path, (0, epoch.epoch, math.nan))
        self._running[path] = (epoch.epoch, of, epoch.mean_c_index)
        if not self._epochs_done:
            self._first_epoch = time.monotonic()
        self._epochs_done += 1
        if time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            now = "; ".join(
                f"{self._label(p)}: epoch {e} of {of}, C {_c(c)}" for p, (e, of, c) in self._running.items() if e
            )
            print(f"  ... {self._done()}, {clock(self._elapsed())} elapsed{self._left()}  |  {now}", flush=True)

    def ended(self, path: str, record: Record, *, found: bool) -> None:
        self._running.pop(path, None)
        self._ended += 1
        self._found += found
        seconds = record.report.get("seconds")
        how = "found" if found else clock(seconds) if seconds is not None else ""
        print(f"  {self._done():>14}  {_outcome(record):<22} {how:>6}  {self._label(path)}", flush=True)

    def failed(self, path: str, reason: str) -> None:
        self._running.pop(path, None)
        print(f"  FAILED {self._label(path)}\n    {reason.strip().splitlines()[-1]}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def _done(self) -> str:
        return f"{self._ended} of {self._total()} done"

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _left(self) -> str:
        if self._epochs_done < 3:
            return ""
        pace = (time.monotonic() - self._first_epoch) / (self._epochs_done - 1)
        runs = self._total() - self._ended
        epochs = runs * self._epochs_of_a_run - sum(epoch for epoch, _, _ in self._running.values())
        return f", about {clock(pace * epochs)} left"


def short_labels(paths: Sequence[str]) -> Callable[[str], str]:
    """A short label for each path: without the settings that all of them share."""
    settings = [set(path.replace("/", ",").split(",")) for path in paths]
    shared = set.intersection(*settings) if len(settings) > 1 else set()

    def label(path: str) -> str:
        return " ".join(part for part in path.replace("/", ",").split(",") if part not in shared)

    return label


def _outcome(record: Record) -> str:
    if record.state == "finished":
        measured = record.report["c_index"]
        spread = f" ± {_c(measured['deviation'])}" if len(measured["folds"]) > 1 else ""
        return f"C {_c(record.c_index)}{spread}"
    return f"{record.state} at epoch {len(record.epochs)}"


def _c(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
