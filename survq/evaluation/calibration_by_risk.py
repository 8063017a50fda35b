"""Calibration by risk third: predicted survival of the low, middle and high third against what happened to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from survq.evaluation.one_calibration import survival_at
from survq.evaluation.restricted_mean import NORMAL

THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class ThirdCalibration:
    """A third of the cases at one time: mean predicted survival, Kaplan-Meier, and the 95 % interval of the latter.

    The interval is that of Greenwood's variance, normal and cut at 0 and 1. If nobody was observed until this time,
    what was observed is NaN, and `reason` says so.
    """

    third: str
    cases: int
    predicted: float
    observed: float
    low: float
    high: float
    reason: str = ""


def risk_thirds(survival: Float[np.ndarray, " case"]) -> Int[np.ndarray, " case"]:
    """The third of each case by its predicted survival at one time: 0 has the lowest risk. Ties keep their order."""
    third = np.empty(len(survival), int)
    for number, cases in enumerate(np.array_split(np.argsort(-survival, kind="stable"), len(THIRDS))):
        third[cases] = number
    return third


def calibration_by_risk(
    survival: Float[np.ndarray, " case"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    at: float,
) -> list[ThirdCalibration]:
    """Each third of the cases by predicted survival at the time `at` (months), with what was predicted and observed."""
    thirds, found = risk_thirds(survival), []
    for number, name in enumerate(THIRDS):
        mine = thirds == number
        if not mine.any():
            nan = math.nan
            found.append(ThirdCalibration(name, 0, nan, nan, nan, nan, "fewer than three cases"))
            continue
        predicted, cases = float(survival[mine].mean()), int(mine.sum())
        observed, variance = survival_at(time[mine], event[mine], at)
        if observed > 0 and time[mine].max() < at:
            reason = "no case was observed until this time"
            found.append(ThirdCalibration(name, cases, predicted, math.nan, math.nan, math.nan, reason))
            continue
        half = NORMAL * math.sqrt(variance)
        found.append(
            ThirdCalibration(name, cases, predicted, observed, max(observed - half, 0.0), min(observed + half, 1.0))
        )
    return found
