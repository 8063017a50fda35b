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
    """Show the content of a data folder, and all its problems.

    Checks all cohorts in one pass and exits with 65 if there are problems. The folder may be in a bucket.

    example:  survq check data --deep

    next:     python studies/query_counts.py --data data
    """

    folder: Annotated[Positional[str], arg(metavar="DIR")]
    """Data folder, or its bucket URI."""
    deep: bool = False
    """Also read all patch features and verify their checksums."""

    def run(self) -> int:
        from survq.data.check import check

        checked = check(self.folder, deep=self.deep, progress=_show_progress)
        if checked.cohorts:
            print(checked.table())
        if checked.notes:
            print("\nNotes:\n" + "\n".join(f"  - {note}" for note in checked.notes))
        if checked.problems:
            print(f"\n{len(checked.problems)} problems:\n" + "\n".join(f"  - {line}" for line in checked.problems))
            return DATA
        print(f"\nNo problems found{'' if self.deep else '; patch features were not read (--deep reads them)'}.")
        show_next(self.folder, [cohort.name for cohort in checked.cohorts])
        return 0


def _show_progress(done: int, slides: int) -> None:
    """On a terminal, one line that is updated; in a log, ten lines."""
    if sys.stderr.isatty():
        print(f"\r{done} of {slides} slides read", end="\n" if done == slides else "", file=sys.stderr, flush=True)
    elif done * 10 // slides > (done - 1) * 10 // slides:
        print(f"{done} of {slides} slides read", file=sys.stderr, flush=True)
