"""survq check"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from survq.commands.console import show_next
from survq.exits import DATA


@dataclass(frozen=True)
class Check:
    """Show what a data folder holds, and everything that is wrong with it.

    Looks at all cohorts in one pass; exits with 65 where there are problems. A folder in a bucket is read as well.

    example:  survq check data --deep

    next:     python studies/query_counts.py --data data
    """

    folder: Annotated[Positional[str], arg(metavar="DIR")]
    """Data folder, or the address of one in a bucket."""
    deep: bool = False
    """Read every patch feature too, and hold it against its checksum."""

    def run(self) -> int:
        from survq.data.check import check

        report = check(self.folder, deep=self.deep, progress=_progress)
        if report.cohorts:
            print(report.table())
        if report.notes:
            print("\nWorth a look:\n" + "\n".join(f"  - {note}" for note in report.notes))
        if report.problems:
            print(f"\n{len(report.problems)} problems:\n" + "\n".join(f"  - {line}" for line in report.problems))
            return DATA
        print(f"\nNo problems found{'' if self.deep else '; features themselves were not read, --deep does that'}.")
        show_next(self.folder, [cohort.name for cohort in report.cohorts])
        return 0


def _progress(done: int, slides: int) -> None:
    """On a terminal one line that counts; in a log ten lines."""
    if sys.stderr.isatty():
        print(f"\r{done} of {slides} slides read", end="\n" if done == slides else "", file=sys.stderr, flush=True)
    elif done * 10 // slides > (done - 1) * 10 // slides:
        print(f"{done} of {slides} slides read", file=sys.stderr, flush=True)
