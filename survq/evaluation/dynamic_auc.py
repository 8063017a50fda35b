"""Time-dependent AUC: how well the risk separates cases that died by a time from those alive at it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from survq.evaluation.censoring import StepFunction, kaplan_meier, weighted_by_first
from survq.evaluation.score import Score
from survq.evaluation.significance import share_won


def dynamic_auc(
    risk: Float[np.ndarray, " case"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    at: float,
) -> Score:
    """The cumulative/dynamic AUC at the time `at` (months) (Uno et al., 2007; Hung and Chiang, 2010).

    AUC(t) = sum_ij w_i [t_i <= t, dead] [t_j > t] [risk_i > risk_j] / (sum_i w_i [t_i <= t, dead] * sum_j [t_j > t])
    with w_i = 1 / G(t_i). Equal risks count one half. `censoring` is G, of the training cases.
    """
    return share_won(auc_pairs(time, event, censoring, at), risk)


def auc_pairs(
    time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"], censoring: StepFunction, at: float
) -> Float[np.ndarray, "first second"] | Score:
    """The weight w_i [t_i <= t, dead] [t_j > t] of each pair; or why the weighted share of right pairs is undefined."""
    dead, alive = event & (time <= at), time > at
    if not dead.any() or not alive.any():
        return Score.undefined("no case died by this time" if not dead.any() else "no case was observed longer")
    return weighted_by_first(np.broadcast_to(alive, (len(time), len(time))), time, dead, censoring, power=1)


def mean_dynamic_auc(
    risk: Float[np.ndarray, " case"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    at: Float[np.ndarray, " time"],
) -> Score:
    """The mean AUC over ascending times, each weighted with the drop in Kaplan-Meier survival since the one before.

    As in Lambert and Chevret (2016). Undefined if it is at one of the times, or if nobody dies up to the last one.
    """
    scores = [dynamic_auc(risk, time, event, censoring, float(one)) for one in at]
    if reason := next((score.reason for score in scores if score.reason), ""):
        return Score.undefined(reason)
    drops = -np.diff(kaplan_meier(time, event).at(at), prepend=1.0)
    return Score(float(np.array([score.value for score in scores]) @ drops / drops.sum()))
