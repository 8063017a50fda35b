"""Progress of slides on their way into a feature store, for people."""

from __future__ import annotations

import sys
import time

from survq.data.feature_import import SlideOutcome
from survq.text import clock

EVERY = 15.0  # seconds between lines


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
