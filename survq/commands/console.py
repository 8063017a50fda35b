"""Output shared by several commands."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

from survq.exits import UsageError


def show_next(folder: object, cohorts: Sequence[str]) -> None:
    names = " ".join(shlex.quote(name) for name in cohorts)
    print(f"Next: python studies/query_counts.py --data {shlex.quote(str(folder))} --cohorts {names}")


def show_cohort(name: str, first: str, lines: Sequence[str], dropped) -> None:
    """A cohort after an import: the first line, further lines below it, and excluded cases by reason."""
    from survq.data.tables import summarise_dropped

    print(f"{name}: {first}")
    for line in [*lines, *summarise_dropped(dropped)]:
        print(f"    {line}")


def one_of(option: str, value: str | None, allowed: Sequence[str]) -> str | None:
    """The value of an option that may be left out. Raises UsageError if it is none of the allowed ones."""
    if value is not None and value not in allowed:
        raise UsageError(f"{option} {value}: expected {' or '.join(allowed)}")
    return value


class ByteProgress:
    """Progress of reading or downloading files: one updated line on a terminal, a line per tenth of a file in a log."""

    def __init__(self, smallest: int = 0):
        self.smallest = smallest  # bytes; smaller files show no progress
        self.shown = (time.monotonic(), "", 0)

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if total is not None and total < self.smallest:
            return
        now, live = time.monotonic(), sys.stderr.isatty()
        when, last_name, last_tenth = self.shown
        tenth = done * 10 // total if total else done // 10**8
        at_end = done == total
        recent = now - when < 0.5 and not (at_end and tenth > last_tenth)
        if name == last_name and (recent if live else tenth <= last_tenth):
            return
        self.shown = (now, name, tenth)
        of = f" of {total / 1e6:,.1f}" if total else ""
        line = f"{name}: {done / 1e6:,.1f}{of} MB"
        print(f"\r{line}" if live else line, end="\n" if not live or at_end else "", file=sys.stderr, flush=True)
