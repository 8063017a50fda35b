"""The one-standard-error rule: the simplest of the settings that are about as good as the best one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from survq.evaluation.concordance import fold_concordance
from survq.evaluation.epochs import mean_defined


def equally_good(c_index: Sequence[Sequence[float]]) -> list[int]:
    """The positions of the settings whose mean C-index is within one standard error of the highest, which is of the
    first of equal ones. `c_index` has the values of each setting, one per fold; a setting without a value is left out.

    >>> equally_good([[0.70, 0.74], [0.71, 0.72], [0.60, 0.62]])
    [0, 1]
    """
    means = {position: mean_defined(folds) for position, folds in enumerate(c_index)}
    means = {position: mean for position, mean in means.items() if not math.isnan(mean)}
    if not means:
        return []
    best = max(means, key=lambda position: (means[position], -position))
    folds = [value for value in c_index[best] if not math.isnan(value)]
    error = statistics.stdev(folds) / math.sqrt(len(folds)) if len(folds) > 1 else 0.0
    return [position for position, mean in means.items() if mean >= means[best] - error]


@dataclass(frozen=True)
class Sizes:
    """The sizes chosen from the curve of a nested model."""

    values: Mapping[str, int]  # by the name of the hyperparameter
    c_index: float  # mean over the folds that chose


def choose_sizes(curve: pd.DataFrame, names: Sequence[str]) -> Sizes | None:
    """The smallest sum of sizes within one standard error of the best, and of equal sums the lowest loss.

    `curve` has the held-out predictions of each contained model, with a column for each of the `names`. None if the
    C-index is undefined.
    """
    groups = [(sizes, rows) for sizes, rows in curve.groupby(list(names))]
    c_index = [fold_concordance(rows)["c_index"].tolist() for _, rows in groups]
    losses = [float(rows.groupby(["repeat", "fold"])["nll"].mean().mean()) for _, rows in groups]
    good = equally_good(c_index)
    if not good:
        return None
    chosen = min(good, key=lambda position: (sum(groups[position][0]), losses[position], position))
    sizes = dict(zip(names, map(int, groups[chosen][0]), strict=True))
    return Sizes(sizes, mean_defined(c_index[chosen]))
