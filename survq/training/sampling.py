"""The order of cases in training. All folds of a run share one order, so that each slide is read once for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from survq.data.folds import Fold, TimeIntervals
from survq.data.problems import DataError
from survq.data.streams import generator


def parts_of(folds: Sequence[Fold]) -> list[list[str]]:
    """The cases, sorted, in parts that each fold uses or excludes as a whole. For k folds: the k held-out parts."""
    membership: dict[str, tuple[int, ...]] = {}
    for number, fold in enumerate(folds):
        for case in fold.training:
            membership[case] = (*membership.get(case, ()), number)
    parts: dict[tuple[int, ...], list[str]] = {}
    for case in sorted(membership):
        parts.setdefault(membership[case], []).append(case)
    return [parts[key] for key in sorted(parts)]


def epoch_batches(
    folds: Sequence[Fold],
    cases: pd.DataFrame,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    balanced: int | None = None,
) -> list[list[str]]:
    """The global batches of an epoch: lists of case ids, each ordered by part.

    Every held-out part is distributed evenly over the epoch. A fold takes its training cases from each global batch:
    it sees each of them once, in batches of an even size. With k equal parts, a global batch has
    batch_size x k / (k - 1) cases, and batch_size of them belong to each fold. The order does not depend on the folds
    of a process.

    `balanced` is a number of time intervals: cases are drawn with replacement inside each part, so that the deaths and
    the censorings of each interval have the same weight; `cases` has time and event.
    """
    batches: list[list[str]] = [[] for _ in range(max(-(-len(fold.training) // batch_size) for fold in folds))]
    for number, part in enumerate(parts_of(folds)):
        random = generator(seed, "order", epoch, number)
        order = _draw_balanced(part, cases, balanced, random) if balanced else list(random.permutation(part))
        # a random start: otherwise the same batches would always get the remainder
        start = random.random()
        for position, case in enumerate(order):
            batches[int((position + start) / len(order) * len(batches)) % len(batches)].append(case)
    return batches


def _draw_balanced(part: list[str], cases: pd.DataFrame, intervals: int, random: np.random.Generator) -> list[str]:
    chosen = cases.loc[part]
    time, event = chosen["time"].to_numpy(), chosen["event"].to_numpy()
    try:
        interval = TimeIntervals.fit(time, event, intervals).interval(time)
    except DataError:  # too few deaths in this part for intervals
        interval = np.zeros(len(part), dtype=int)
    _, group, count = np.unique(2 * interval + event, return_inverse=True, return_counts=True)
    weight = 1 / count[group]
    return list(random.choice(part, size=len(part), p=weight / weight.sum()))
