"""Progress of writing slides into a feature store, for people."""

from __future__ import annotations

import sys
import time

from survq.data.feature_import import SlideResult
from survq.text import clock

INTERVAL = 15.0  # seconds between lines


class SlideProgress:
    """Prints the progress of the slides to stderr at intervals."""

    def __init__(self, slides: int, patches: int | None = None):
        """`patches` is their total, if known in advance; it gives a better estimate of the time left than `slides`."""
        self.slides, self.patches = slides, patches
        self.done = self.failed = self.patches_done = 0
        self._started: dict[str, tuple[int, float]] = {}  # slide -> its finished patches, and their share of the slide
        self._start = self._last = time.monotonic()

    def add(self, result: SlideResult) -> None:
        self.done += 1
        self.failed += result.state == "failed"
        self.patches_done += result.patches
        self._started.pop(result.slide_id, None)
        self._print_at_intervals()

    def part(self, slide_id: str, patches: int, of: int | None) -> None:
        """Note that `patches` of a slide are done, out of `of` patches if known."""
        self._started[slide_id] = patches, patches / of if of else 0.0
        self._print_at_intervals()

    def _print_at_intervals(self) -> None:
        if time.monotonic() - self._last > INTERVAL:
            self._last = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """Such as: ... 120 of 423 slides, 1 failed, 14,230 patches/s, 2.1 slides/s, 0:57 elapsed, about 2:24 left"""
        elapsed = self.elapsed
        patches, slides = map(sum, zip((self.patches_done, self.done), *self._started.values(), strict=True))
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
