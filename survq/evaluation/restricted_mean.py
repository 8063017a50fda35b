"""Restricted mean survival: the mean months of life within a horizon. It assumes no proportional hazards."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float

from survq.evaluation.censoring import counts
from survq.evaluation.significance import Interval

NORMAL = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def restricted_mean(
    time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"], horizon: float
) -> tuple[float, float]:
    """The area under Kaplan-Meier up to `horizon` (months), and its variance (Royston and Parmar, 2013).

    variance = sum over times of death u of A(u)^2 d(u) / (n(u) (n(u) - d(u))), where A(u) is the area from u to the
    horizon. NaN if the last case was censored before the horizon: the curve is unknown beyond.
    """
    times, at_risk, deaths, _ = counts(time, event)
    now = times < horizon
    u, n, d = times[now], at_risk[now], deaths[now]
    survival = np.cumprod(1 - d / n)
    if times[-1] < horizon and survival[-1] > 0:
        return math.nan, math.nan
    heights = np.concatenate([[1.0], survival])
    widths = np.diff(np.concatenate([[0.0], u, [horizon]]))
    areas = heights * widths
    beyond = areas[::-1].cumsum()[::-1][1:]  # from each u to the horizon
    left = n - d
    terms = np.where(left > 0, beyond**2 * d / (n * np.where(left > 0, left, 1)), 0.0)
    return float(areas.sum()), float(terms.sum())


def restricted_mean_difference(
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    high: Bool[np.ndarray, " case"],
    horizon: float,
) -> Interval:
    """Months that low-risk cases live longer than high-risk ones up to the horizon, and the normal 95 % interval.

    NaN if a group is empty or was not followed up to the horizon.
    """
    if not high.any() or high.all():
        return Interval(math.nan, math.nan, math.nan, 0)
    low_mean, low_variance = restricted_mean(time[~high], event[~high], horizon)
    high_mean, high_variance = restricted_mean(time[high], event[high], horizon)
    difference, error = low_mean - high_mean, math.sqrt(low_variance + high_variance)
    return Interval(difference, difference - NORMAL * error, difference + NORMAL * error, 0)
