"""The cases that maps show, chosen by a rule and not by how they look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from survq.data.cohort import Cohort
from survq.data.problems import raise_if_any
from survq.text import preview

RULE = (
    "of each cohort, the held-out case with the highest risk among those that died, and the one with the lowest risk "
    "among the half of the others that was followed longest (risks as percentiles of their fold)"
)


def chosen_cases(predictions: pd.DataFrame, cohort: Cohort) -> list[str]:
    """The cases of `RULE` with slides and expression: two, or fewer if there are none of a kind.

    `predictions` are held-out: case_id, repeat, fold, time, event, risk. With repeats, the first one decides.
    """
    first = predictions[predictions["repeat"] == predictions["repeat"].min()]
    table = first.assign(percentile=first.groupby("fold")["risk"].rank(pct=True))
    table = table[table["case_id"].isin(_complete(cohort))].sort_values(["percentile", "case_id"])
    died = table["event"].astype(bool)
    others = table[~died]
    followed = others[others["time"] >= others["time"].median()]
    return [*table[died]["case_id"].tail(1), *followed["case_id"].head(1)]


def cases_by_cohort(
    asked: Sequence[str], predictions: Mapping[str, pd.DataFrame], cohorts: Mapping[str, Cohort]
) -> dict[str, list[str]]:
    """The cases to show of each cohort: those asked for, or those of `RULE` if none is.

    Raises DataError, naming all of them, for cases that no cohort holds out with slides and expression.
    """
    if not asked:
        return {name: chosen_cases(table, cohorts[name]) for name, table in predictions.items()}
    found = {
        name: [case for case in asked if case in set(table["case_id"]) & _complete(cohorts[name])]
        for name, table in predictions.items()
    }
    unknown = sorted(set(asked) - {case for cases in found.values() for case in cases})
    raise_if_any(
        [
            f"--cases: no cohort of {preview(predictions, 9)} holds out the case {preview([case])} with slides and "
            f"expression. Fix: choose from cases.parquet, or leave --cases out."
            for case in unknown
        ]
    )
    return found


def _complete(cohort: Cohort) -> set[str]:
    """The cases with slides and expression."""
    return set(cohort.cases.index[cohort.has_slides & cohort.has_expression])
