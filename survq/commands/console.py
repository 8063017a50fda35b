"""What several commands print, and the codes they end with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

USAGE, DATA, MISSING, IO, IN_USE, INTERRUPTED = 64, 65, 66, 74, 75, 130  # exit codes, as in sysexits.h


def complain(error: object, code: int) -> int:
    print(f"survq: {error}", file=sys.stderr)
    return code


def show_next(folder: object, cohorts: Sequence[str]) -> None:
    names = " ".join(shlex.quote(name) for name in cohorts)
    print(f"Next: python studies/query_counts.py --data {shlex.quote(str(folder))} --cohorts {names}")
