"""Uno's C: a C-index that does not depend on how the cases were censored."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from survq.evaluation.censoring import StepFunction, weighted_by_first
from survq.evaluation.concordance import comparable_pairs
from survq.evaluation.score import Score
from survq.evaluation.significance import share_won


def uno_concordance(
    risk: Float[np.ndarray, " case"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    tau: float,
) -> Score:
    """The weighted share of comparable pairs in which the case that died first had the higher risk.

    C = sum_ij w_i [i dies before j] [risk_i > risk_j] / sum_ij w_i [i dies before j], where w_i = 1 / G(t_i)^2 for
    deaths before `tau` (months), and 0 for later ones, whose weights are large and uncertain (Uno et al., 2011). Equal
    risks count one half. `censoring` is G, of the training cases.

    Differs from scikit-survival, which counts risks as equal if they differ by up to 1e-8, and raises where this is
    undefined.
    """
    return share_won(uno_pairs(time, event, censoring, tau), risk)


def uno_pairs(
    time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"], censoring: StepFunction, tau: float
) -> Float[np.ndarray, "first second"] | Score:
    """The weight w_i [i dies before j] of each pair; or why the weighted share of right pairs is undefined."""
    first = event & (time < tau)
    if not first.any():
        return Score.undefined("no event before tau")
    pairs = weighted_by_first(comparable_pairs(time, event), time, first, censoring, power=2)
    return pairs if isinstance(pairs, Score) or pairs.any() else Score.undefined("no comparable pair")
