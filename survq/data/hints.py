"""What is worth a second look in data that are valid: hints for people, shown by imports and by `survq check`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from survq.text import preview

LONGEST = 600  # months; fifty years of follow-up suggest days
MANY, MOST = 0.5, 0.8  # of the cases have an event; in cohorts of TCGA 7 to 45 % do

_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_DATE = re.compile(
    rf"\d{{1,2}}[-/. ]({_MONTH})|({_MONTH})[-/. ]\d{{1,4}}|\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}( 00:00:00)?",
    re.IGNORECASE,
)


def outcome_hints(cases: pd.DataFrame) -> list[str]:
    """Hints on the columns time, in months, and event of the cases."""
    hints = []
    events, longest = int(cases["event"].sum()), cases["time"].max()
    if longest > LONGEST:
        hints.append(f"the longest time is {longest:,.0f} months ({longest / 12:.0f} years). Is it in days?")
    times = cases.groupby("event")["time"].median()
    events_last = times.get(True, 0) > times.get(False, float("inf"))  # follow-up of the living lasts longer, mostly
    if events > MOST * len(cases) or (events > MANY * len(cases) and events_last):
        share = f"{events} of {len(cases)} cases ({events / len(cases):.0%}) have an event"
        hints.append(f"{share}{', later than the others end' if events_last else ''}. Is the coding reversed?")
    return hints


def gene_name_hints(names: Iterable[str]) -> list[str]:
    """Hints on the names of genes: spreadsheets turn MARCH1 into 1-Mar."""
    dates = [name for name in names if _DATE.fullmatch(name)]
    if not dates:
        return []
    return [
        f"{len(dates)} names of genes are dates, such as {preview(dates)}: a spreadsheet has changed MARCH1 or the "
        f"like. Fix: use the file that was never opened in one"
    ]
