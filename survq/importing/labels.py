"""The clinical table: time and event of every case. Censorship ends here; from here on it is `event`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from survq.data.cohort import usable_id
from survq.data.problems import raise_if_any
from survq.importing.text_table import numbers, read_text_table


@dataclass(frozen=True)
class Labels:
    """The outcome of every case of a clinical table, in the order of their ids."""

    cases: pd.DataFrame  # indexed by case_id: time (months), event, further columns
    dropped: pd.DataFrame  # case_id, reason: cases without an outcome

    @property
    def case_ids(self) -> set[str]:
        return {*self.cases.index, *self.dropped["case_id"]}


def read_labels(
    file: str | Path, *, time: str, censorship: str, text: Sequence[str] = (), figures: Sequence[str] = ()
) -> Labels:
    """Read a CSV with one row or more a case, usually one a slide; the rows of a case must agree.

    `time` is in months; `censorship` is 1 for a censored case, 0 where death was observed. `text` and `figures` name
    further columns to keep. Cases without a time or status, or with time 0, are left out and listed.
    Raises DataError with every cell that cannot be used, and every case whose rows contradict each other.
    """
    table = read_text_table(file, needed=["case_id", time, censorship, *text, *figures])
    problems = [
        f"{file}:{line}: case id {case[:60]!r}; expected printable text that starts with a letter or digit."
        for line, case in table["case_id"].items()
        if not usable_id(case)
    ]
    for column in (time, censorship, *figures):
        table[column], unreadable = numbers(table[column], file)
        problems += unreadable
    for line, months in table.loc[table[time] < 0, time].items():
        problems.append(f"{file}:{line}: {time} {months:g}; expected months of 0 or more. Mend: correct it.")
    for line, code in table.loc[~table[censorship].isin([0, 1, float("nan"), float("inf")]), censorship].items():
        problems.append(f"{file}:{line}: {censorship} {code:g}; expected 1 for a censored case, 0 for a death.")
    for column in text:
        table[column] = table[column].map(lambda cell: cell or None)  # NA is a name too: that of a TCGA site
    kept = [time, censorship, *text, *figures]
    problems += _contradictions(table, kept, str(file))
    raise_if_any(problems)

    cases = table.drop_duplicates("case_id").set_index("case_id")[kept].sort_index()
    reason = pd.Series(pd.NA, index=cases.index, dtype=object)
    reason[cases[time] == 0] = "time is 0"
    reason[cases[time].isna()] = "no time"
    reason[cases[censorship].isna()] = "no event status"
    cases.insert(0, "event", cases[censorship] == 0)  # the only place where censorship turns into event
    cases.insert(0, "time", cases.pop(time))
    cases = cases.drop(columns=censorship)
    dropped = reason.dropna().rename("reason").reset_index()
    return Labels(cases[reason.isna()], dropped)


def _contradictions(table: pd.DataFrame, columns: Sequence[str], file: str) -> list[str]:
    problems = []
    repeated = table[table["case_id"].duplicated(keep=False)]
    for case, rows in repeated.groupby("case_id"):
        for column in columns:
            if rows[column].nunique(dropna=False) > 1:
                cells = ", ".join(f"{cell!r} in line {line}" for line, cell in rows[column].items())
                problems.append(f"{file}: case {case!r}: {column} is {cells}. Mend: make its rows agree.")
    return problems
