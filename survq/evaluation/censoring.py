"""Survival curves as step functions, and the distribution of censoring by which observed cases are weighted.

A case that died at t was observed only because it was not censored before. With G(t) = P(not censored up to t),
weighting it by 1 / G(t) makes it stand for those that were (inverse probability of censoring weighting, Robins and
Rotnitzky, 1992). G is estimated on training cases only: censoring of held-out cases must not shape their own score.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from survq.evaluation.score import Score


@dataclass(frozen=True, eq=False)
class StepFunction:
    """A survival curve: 1 before the first step, then the probability of the last step at or before a time."""

    time: Float[np.ndarray, " step"]  # months, ascending
    probability: Float[np.ndarray, " step"]
    last: float  # end of follow-up: the curve is unknown beyond it, unless it is 0 or there was nothing to estimate

    def at(self, time: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """The probability at each time; NaN beyond the follow-up."""
        step = np.searchsorted(self.time, time, side="right")
        values = np.concatenate([[1.0], self.probability])[step]
        return np.where((time > self.last) & (values > 0), np.nan, values)


def kaplan_meier(time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]) -> StepFunction:
    """P(alive after t) = product over times of death u <= t of 1 - deaths(u) / at risk(u) (Kaplan and Meier, 1958)."""
    times, at_risk, deaths, _ = counts(time, event)
    return StepFunction(times, np.cumprod(1 - deaths / at_risk), float(times[-1]))


def censoring_survival(time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]) -> StepFunction:
    """G(t) = P(not censored up to t): Kaplan-Meier with the roles of death and censoring exchanged.

    Of cases with equal times, deaths come first, so that they are not at risk of censoring. Without any censored case,
    G is 1 at all times.
    """
    times, at_risk, deaths, censored = counts(time, event)
    if not censored.any():
        return StepFunction(times, np.ones(len(times)), np.inf)
    left = at_risk - deaths
    return StepFunction(times, np.cumprod(1 - censored / np.where(left > 0, left, 1)), float(times[-1]))


def counts(
    time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]
) -> tuple[
    Float[np.ndarray, " step"],
    Float[np.ndarray, " step"],
    Float[np.ndarray, " step"],
    Float[np.ndarray, " step"],
]:
    """The different times, and at each the cases at risk, that die, and that are censored."""
    times, position = np.unique(time, return_inverse=True)
    deaths = np.bincount(position, event, len(times))
    ended = np.bincount(position, minlength=len(times)).astype(float)
    at_risk = ended[::-1].cumsum()[::-1]
    return times, at_risk, deaths, ended - deaths


def weighted_by_first(
    pairs: Bool[np.ndarray, "first second"],
    time: Float[np.ndarray, " case"],
    dead: Bool[np.ndarray, " case"],
    censoring: StepFunction,
    power: int,
) -> Float[np.ndarray, "first second"] | Score:
    """1 / G(t_i)^power for each pair whose first case i is one of the `dead`, else 0; or why it is undefined."""
    weight = censoring.at(time[dead])
    if reason := unknown_weight(weight):
        return Score.undefined(reason)
    weights = np.zeros(pairs.shape)
    weights[dead] = pairs[dead] / weight[:, None] ** power
    return weights


def unknown_weight(censoring: Float[np.ndarray, " case"]) -> str:
    """Why cases cannot be weighted by 1 / G, given G at their times; empty if they can."""
    if np.isnan(censoring).any():
        return "a time beyond the follow-up of the training cases"
    if (censoring == 0).any():
        return "all training cases were censored before a needed time"
    return ""
