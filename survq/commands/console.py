"""What several commands print."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence


def show_next(folder: object, cohorts: Sequence[str]) -> None:
    names = " ".join(shlex.quote(name) for name in cohorts)
    print(f"Next: python studies/query_counts.py --data {shlex.quote(str(folder))} --cohorts {names}")


def show_cohort(name: str, first: str, lines: Sequence[str], dropped) -> None:
    """A cohort after an import: a line, more below it, and who was left out, by reason."""
    from survq.data.tables import say_dropped

    print(f"{name}: {first}")
    for line in [*lines, *say_dropped(dropped)]:
        print(f"    {line}")


class Meter:
    """Counts the bytes of large files: on a terminal in one line, in a log with a line a tenth."""

    def __init__(self, least: int = 0):
        self.least = least  # bytes of a file that is worth it
        self.shown = (time.monotonic(), "", 0)

    def __call__(self, name: str, there: int, total: int | None) -> None:
        if total is not None and total < self.least:
            return
        now, live = time.monotonic(), sys.stderr.isatty()
        when, before, tenth = self.shown
        new = there * 10 // total if total else there // 10**8
        at_end = there == total
        if name == before and (now - when < 0.5 and not (at_end and new > tenth) if live else new <= tenth):
            return
        self.shown = (now, name, new)
        of = f" of {total / 1e6:,.1f}" if total else ""
        line = f"{name}: {there / 1e6:,.1f}{of} MB"
        print(f"\r{line}" if live else line, end="\n" if not live or at_end else "", file=sys.stderr, flush=True)
