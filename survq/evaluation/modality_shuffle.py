"""What a model loses when each case gets one modality of another case: permutation importance (Breiman, 2001).

The C-index with a case's own modality, minus that with another case's, the mean over several shuffles. A model that
does not read the modality gives the same risks, and loses nothing, however strongly the modality is correlated with
what the model does read. Other held-out cases of the same fold are the donors; the other modality stays.

**Interval.** Resamples patients within their folds, for these shuffles.

**p value.** If the modality says nothing of a case, its own is a shuffle like the others. Each fold then has an equal
chance of each of its C-indices, the own and the shuffled. p is the share of such draws whose mean over folds is at
least that of the own (Hemerik and Goeman, 2018). It is 1 for a model that does not read the modality.

Limits: a shuffled pair of slides and genes may be one that no patient has, and a model answers for it unseen. Where
slides and genes say the same, a model may lose little of either, although it needs one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import rankdata

from survq.evaluation.concordance import comparable_pairs
from survq.evaluation.significance import Interval, draw_patients, interval_of, outranked, weighted_share

DRAWS = 9999  # of the p value
ROUNDING = 1e-12  # of sums of equal C-indices


@dataclass(frozen=True)
class ShuffleEffect:
    c_index: float  # with the own modality
    shuffled: float  # the same with that of other cases, mean over shuffles
    drop: Interval  # c_index - shuffled
    p_value: float
    agreement: float  # rank correlation of shuffled with own risks, mean over folds and shuffles; 1: not read


def donors(cases: int, shuffles: int, random: np.random.Generator) -> Int[np.ndarray, "shuffle case"]:
    """The position of another case, for each case and shuffle.

    Each shuffle shifts the same random order by another number of places: no case is its own donor, none gives twice
    in a shuffle, and no pair occurs twice if there are enough cases. Raises ValueError for fewer than two cases.
    """
    order = random.permutation(cases)
    places = np.argsort(order)
    shifts = random.choice(np.arange(1, cases), shuffles, replace=shuffles > cases - 1)
    return order[(places + shifts[:, None]) % cases]


def shuffle_effect(
    predictions: pd.DataFrame,
    shuffled: Float[np.ndarray, "shuffle row"],
    *,
    resamples: int = 1000,
    draws: int = DRAWS,
    seed: int = 0,
) -> ShuffleEffect:
    """The effect of shuffling. `predictions` has case_id, repeat, fold, time, event and risk; `shuffled` are the risks
    of its rows with the modality of other cases.

    The C-indices and their p value are NaN if no fold has a comparable pair.
    """
    patients = draw_patients(predictions, resamples, seed)
    risks = np.vstack([predictions["risk"].to_numpy(float), shuffled])
    c, lost, agreements, repeats = [], [], [], []
    for (repeat, _), rows in sorted(predictions.groupby(["repeat", "fold"]).indices.items()):
        cases = predictions.iloc[rows]
        pairs = comparable_pairs(cases["time"].to_numpy(float), cases["event"].to_numpy(bool)).astype(float)
        own, *others = won = np.array([outranked(risk[rows]) for risk in risks])
        weight = patients.loc[cases["case_id"]].to_numpy().T
        lost.append(weighted_share(weight, pairs, own - np.mean(others, axis=0)))
        c.append([weighted_share(weight[:1], pairs, one)[0] for one in won])
        agreements += [_rank_correlation(risks[0, rows], risk[rows]) for risk in shuffled]
        repeats.append(repeat)
    drop = interval_of(_mean_of_defined(np.array(lost)))
    c_index = float(_mean_of_defined(np.array(c))[0])
    return ShuffleEffect(
        c_index=c_index,
        shuffled=c_index - drop.estimate,
        drop=drop,
        p_value=_p_value(np.array(c).T, np.array(repeats), draws, np.random.default_rng(seed)),
        agreement=float(np.mean(agreements)),
    )


def _mean_of_defined(values: Float[np.ndarray, "fold _"]) -> Float[np.ndarray, " _"]:
    """The mean over the folds that are not NaN."""
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / (~np.isnan(values)).sum(axis=0)


def _p_value(
    c: Float[np.ndarray, "shuffle fold"], repeats: Int[np.ndarray, " fold"], draws: int, random: np.random.Generator
) -> float:
    """`c` are the C-indices of the folds, in its first row with the own modality.

    Repeats hold out the same patients, so that their p values are not independent: p is twice their mean (Vovk and
    Wang, 2020).
    """
    found = []
    for repeat in np.unique(repeats):
        own = c[:, (repeats == repeat) & ~np.isnan(c[0])]
        shuffles, folds = own.shape
        if folds:
            drawn = own[random.integers(shuffles, size=(draws, folds)), np.arange(folds)].sum(axis=1)
            found.append((1 + (drawn >= own[0].sum() - ROUNDING).sum()) / (1 + draws))
    if not found:
        return np.nan
    return float(found[0] if len(found) == 1 else min(1.0, 2 * np.mean(found)))


def _rank_correlation(first: Float[np.ndarray, " case"], second: Float[np.ndarray, " case"]) -> float:
    """Spearman's, but 1 for equal vectors, and 0 where all values of only one of them are equal."""
    if np.array_equal(first, second):
        return 1.0
    ranks = rankdata(first), rankdata(second)
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(one) for one in ranks) else 0.0
