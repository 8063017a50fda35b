"""Progress for people: a line a finished run, and now and then a line on those that run; likewise for slides."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence

from survq.data.ingest import SlideOutcome
from survq.evaluation.epochs import Epoch
from survq.reporting.results import Record

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


class SlideProgress:
    """Now and then a line, on stderr, on how a store is being filled."""

    def __init__(self, slides: int, patches: int | None = None):
        """`patches` in all, where they are known beforehand: they tell better than slides how much is left."""
        self.slides, self.patches = slides, patches
        self.done = self.failed = self.patches_done = 0
        self._under_way: dict[str, tuple[int, float]] = {}  # slide: its patches that are done, and their share of all
        self._start = self._last = time.monotonic()

    def add(self, outcome: SlideOutcome) -> None:
        self.done += 1
        self.failed += outcome.state == "failed"
        self.patches_done += outcome.patches
        self._under_way.pop(outcome.slide_id, None)
        self._now_and_then()

    def part(self, slide_id: str, patches: int, of: int | None) -> None:
        """So many of a slide's patches are done; of how many may not be known yet."""
        self._under_way[slide_id] = patches, patches / of if of else 0.0
        self._now_and_then()

    def _now_and_then(self) -> None:
        if time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """... 120 of 423 slides, 1 failed, 14,230 patches/s, 2.1 slides/s, 0:57 elapsed, about 2:24 left"""
        elapsed = self.elapsed
        patches, slides = map(sum, zip((self.patches_done, self.done), *self._under_way.values(), strict=True))
        share = patches / self.patches if self.patches else slides / self.slides
        left = f", about {clock(elapsed / share - elapsed)} left" if share else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"  ... {self.done} of {self.slides} slides{failed}, {patches / elapsed:,.0f} patches/s, "
            f"{slides / elapsed:.2g} slides/s, {clock(elapsed)} elapsed{left}"
        )

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return max(time.monotonic() - self._start, 1e-9)


def distinct(paths: Sequence[str]) -> Callable[[str], str]:
    """A short label for each path: without the settings that all of them share."""
    settings = [set(path.replace("/", ",").split(",")) for path in paths]
    shared = set.intersection(*settings) if len(settings) > 1 else set()

    def label(path: str) -> str:
        return " ".join(part for part in path.replace("/", ",").split(",") if part not in shared)

    return label


def clock(seconds: float) -> str:
    """1:05:09, or 5:09."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _outcome(record: Record) -> str:
    if record.state == "finished":
        measured = record.report["c_index"]
        spread = f" ± {_c(measured['deviation'])}" if len(measured["folds"]) > 1 else ""
        return f"C {_c(record.c_index)}{spread}"
    return f"{record.state} at epoch {len(record.epochs)}"


def _c(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"
