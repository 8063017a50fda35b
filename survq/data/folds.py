"""Folds of training and held-out cases, and the time intervals of the discrete-time model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from survq.data.problems import DataError, raise_if_any
from survq.text import preview


@dataclass(frozen=True)
class Fold:
    """One split of a cohort's cases."""

    repeat: int
    index: int
    training: tuple[str, ...]
    validation: tuple[str, ...]

    def __post_init__(self):
        if both := set(self.training) & set(self.validation):
            raise DataError(
                [
                    f"fold {self.index}: {preview(sorted(both))} are both training and held-out cases. "
                    f"Fix: give each case one role."
                ]
            )


def given_folds(splits: pd.DataFrame, case_ids: Sequence[str]) -> list[Fold]:
    """The published folds as given, restricted to the cases of the cohort.

    `splits` has the columns repeat, fold, case_id and role ("training" or "validation").
    """
    known = set(case_ids)
    folds = []
    for (repeat, index), rows in splits.groupby(["repeat", "fold"], sort=True):
        roles = {role: tuple(sorted(known.intersection(ids))) for role, ids in rows.groupby("role")["case_id"]}
        folds.append(Fold(int(repeat), int(index), roles.get("training", ()), roles.get("validation", ())))
    _refuse_unusable(folds)
    return folds


def make_folds(cases: pd.DataFrame, k: int = 5, repeats: int = 1, seed: int = 0) -> list[Fold]:
    """`k` folds, stratified by event and grouped by site, `repeats` times over.

    `cases` is indexed by case_id and has `event` and, if folds should be usable by a study, `time`; with a `site`
    column of at least k sites, no site is on both sides of a fold, because sites differ in staining and sequencing and
    a model could learn the site. Where a draw gives a fold without comparable held-out cases, another is drawn. Raises
    DataError if there are fewer events than folds or no draw is usable, with a number of folds that would do.
    """
    cases = cases.sort_index()
    events = cases["event"].sum()
    if not 2 <= k <= events:
        raise DataError(
            [
                f"{k} folds of {len(cases)} cases with {events} events cannot be made: each fold needs a held-out "
                f"event. Fix: use at least 2 and at most as many folds as events."
            ]
        )
    folds = []
    for repeat in range(repeats):
        drawn = _usable_draw(cases, k, repeat, seed)
        if drawn is None:
            raise DataError([_what_would_do(cases, k, seed)])
        folds += drawn
    return folds


DRAWS, SAME = 40, 10
"""How often the folds of a repeat are drawn before they are given up, and how often one may repeat an earlier one."""


def _usable_draw(cases: pd.DataFrame, k: int, repeat: int, seed: int) -> list[Fold] | None:
    """The folds of the first draw that a study can use; None if there is none."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import, unused by given folds

    case_ids, event = cases.index.to_numpy(), cases["event"].to_numpy()
    sites = _sites(cases)
    grouped = len(np.unique(sites)) >= k
    seen: set[frozenset] = set()
    for draw in range(DRAWS):
        if draw - len(seen) >= SAME:  # few sites can be divided in few ways
            return None
        splitter_class = StratifiedGroupKFold if grouped else StratifiedKFold
        splitter = splitter_class(n_splits=k, shuffle=True, random_state=seed + repeat + 10_000 * draw)
        parts = splitter.split(case_ids, event, sites if grouped else None)
        folds = [
            Fold(repeat, index, tuple(case_ids[training]), tuple(case_ids[validation]))
            for index, (training, validation) in enumerate(parts)
        ]
        if all(fold.training and fold.validation for fold in folds) and not (
            "time" in cases and fold_problems(folds, cases)
        ):
            return folds
        seen.add(frozenset(fold.validation for fold in folds))
    return None


def _sites(cases: pd.DataFrame) -> np.ndarray:
    return cases["site"].fillna("unknown").astype(str).to_numpy() if "site" in cases else np.array([])


def _what_would_do(cases: pd.DataFrame, k: int, seed: int) -> str:
    """Why no draw of k folds is usable, and what would be."""
    sites = len(np.unique(_sites(cases)))
    fewer = next((number for number in range(k - 1, 1, -1) if _usable_draw(cases, number, 0, seed)), None)
    ungrouped = sites >= k and _usable_draw(cases.drop(columns="site"), k, 0, seed) is not None
    would = [f"use {fewer} folds"] if fewer else []
    would += [f"leave out the column site, so that {k} folds divide sites"] if ungrouped else []
    return (
        f"{k} folds of {len(cases)} cases with {cases['event'].sum()} events"
        f"{f' of {sites} sites' if sites else ''} cannot be made: however they are drawn, a fold has no two "
        f"held-out cases to compare. Fix: {', or '.join(would) or 'add cases with events'}."
    )


def fold_problems(
    folds: Sequence[Fold], cases: pd.DataFrame, fix: str = "use fewer folds, or move cases between them"
) -> list[str]:
    """Problems of folds that cannot be trained (no training event) or evaluated (no comparable pair of held-out cases).

    Two cases are comparable if one died and the other lived longer, or was censored at the same time.
    """
    problems = []
    for fold in folds:
        name = f"fold {fold.index} of repeat {fold.repeat}"
        held_out = cases.loc[list(fold.validation)]
        deaths = held_out.loc[held_out["event"], "time"]
        if not cases.loc[list(fold.training), "event"].any():
            problems.append(f"{name}: none of its {len(fold.training)} training cases has an event.")
        if deaths.empty:
            problems.append(f"{name}: none of its {len(held_out)} held-out cases has an event: no C-index.")
            continue
        longer = held_out["time"] > deaths.min()
        together = (held_out["time"] == deaths.min()) & ~held_out["event"]
        if not (longer | together).any():
            problems.append(f"{name}: no two of its {len(held_out)} held-out cases can be compared: no C-index.")
    return [f"{problem} Fix: {fix}." for problem in problems]


def _refuse_unusable(folds: list[Fold]) -> None:
    problems = [
        f"fold {fold.index} of repeat {fold.repeat} has {len(fold.training)} training and {len(fold.validation)} "
        f"held-out cases; both must be above 0. Fix: check the case ids of the splits, or use fewer folds."
        for fold in folds
        if not fold.training or not fold.validation
    ]
    raise_if_any(problems)


@dataclass(frozen=True)
class TimeIntervals:
    """The intervals [0, t1), [t1, t2), ..., [tn, inf) of the discrete-time model; months, left-closed (section 3.4)."""

    edges: tuple[float, ...]  # the inner edges

    @classmethod
    def fit(cls, time: np.ndarray, event: np.ndarray, intervals: int = 4) -> TimeIntervals:
        """Edges at quantiles of the observed times of death. Pass the training cases only.

        Raises DataError if the quantiles are not distinct: too few different times of death.
        """
        deaths = np.asarray(time, dtype=float)[np.asarray(event, dtype=bool)]
        edges = np.quantile(deaths, np.arange(1, intervals) / intervals) if len(deaths) else np.array([])
        if len(np.unique(edges)) < intervals - 1:
            raise DataError(
                [
                    f"{len(np.unique(deaths))} different times of death among {len(time)} cases are too few for "
                    f"{intervals} time intervals. Fix: ask for fewer intervals or folds, or add cases with events."
                ]
            )
        return cls(tuple(float(edge) for edge in edges))

    def __len__(self) -> int:
        return len(self.edges) + 1

    def interval(self, time: np.ndarray) -> np.ndarray:
        """The index of the interval of each time, from 0."""
        return np.searchsorted(np.asarray(self.edges), np.asarray(time, dtype=float), side="right")
