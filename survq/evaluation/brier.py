"""The Brier score of predicted survival, its integral over time, and its gain over Kaplan-Meier."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from survq.evaluation.censoring import StepFunction, unknown_weight
from survq.evaluation.score import Score


def brier_scores(
    survival: Float[np.ndarray, "case time"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    at: Float[np.ndarray, " time"],
) -> Float[np.ndarray, " time"]:
    """The mean squared error of predicted survival at the times `at` (months) (Graf et al., 1999).

    BS(t) = mean over cases of S(t)^2 / G(t_i) if the case died by t, (1 - S(t))^2 / G(t) if it was observed longer, and
    0 if it was censored by t. 0.25 is a coin's score. `censoring` is G, of the training cases. NaN where a needed G is
    0 or unknown; scikit-survival ignores such cases.
    """
    scores = brier_terms(survival, time, event, censoring, at).mean(axis=0)
    return np.where(np.isfinite(scores), scores, np.nan)


def brier_terms(
    survival: Float[np.ndarray, "case time"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    at: Float[np.ndarray, " time"],
) -> Float[np.ndarray, "case time"]:
    """The term of each case in the mean of `brier_scores`; not finite where a needed G is 0 or unknown."""
    dead = event[:, None] & (time[:, None] <= at)
    alive = time[:, None] > at
    with np.errstate(divide="ignore"):
        of_case, of_time = 1 / censoring.at(time), 1 / censoring.at(at)
    # a weight that is not needed may be infinite
    error = np.where(dead, survival**2 * np.where(dead, of_case[:, None], 0), 0)
    return error + np.where(alive, (1 - survival) ** 2 * np.where(alive, of_time, 0), 0)


def integrated_brier_score(
    survival: Float[np.ndarray, "case time"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    at: Float[np.ndarray, " time"],
) -> Score:
    """The mean of BS over the ascending times `at`, by the trapezoidal rule: 0 is best."""
    if len(at) < 2:
        return Score.undefined("fewer than two times")
    scores = brier_scores(survival, time, event, censoring, at)
    if np.isnan(scores).any():
        needed = censoring.at(np.concatenate([at, time[event & (time <= at[-1])]]))
        return Score.undefined(unknown_weight(needed) or "predictions that are not finite")
    return Score(float(np.trapezoid(scores, at) / (at[-1] - at[0])))


def gain(model: Score, reference: Score) -> Score:
    """Explained residual variation: 1 - model / reference, of integrated Brier scores. Below 0: worse (Graf, 1999)."""
    if reason := model.reason or reference.reason:
        return Score.undefined(reason)
    if reference.value == 0:
        return Score.undefined("the reference makes no error")
    return Score(1 - model.value / reference.value)
