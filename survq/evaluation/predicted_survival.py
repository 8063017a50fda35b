"""Survival over time from the hazards of a discrete-time model.

A model with n intervals predicts n hazards, and its intervals end at n - 1 edges; the last one is open. So survival is
predicted at the edges only. What is said between and beyond them is a convention, which each function states.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float


def hazard_columns(predictions: pd.DataFrame) -> list[str]:
    """The names of the hazards in a table of predictions, by interval."""
    return sorted(
        (name for name in predictions if str(name).startswith("hazard_")), key=lambda name: int(str(name).split("_")[1])
    )


def hazards_of(predictions: pd.DataFrame) -> Float[np.ndarray, "case interval"]:
    return predictions[hazard_columns(predictions)].to_numpy(float)


def survival_at_edges(hazards: Float[np.ndarray, "case interval"]) -> Float[np.ndarray, "case edge"]:
    """P(alive at the end of each interval but the last, which is open)."""
    return np.cumprod(1 - hazards[:, :-1], axis=1)


def stepwise_survival(
    at_edges: Float[np.ndarray, "case edge"], edges: Float[np.ndarray, " edge"], time: Float[np.ndarray, " time"]
) -> Float[np.ndarray, "case time"]:
    """Survival as a step function at the edges: all that an interval holds happens at its end. Constant beyond them."""
    passed = np.searchsorted(edges, time, side="right")
    return np.hstack([np.ones((len(at_edges), 1)), at_edges])[:, passed]


def interpolated_survival(
    at_edges: Float[np.ndarray, "case edge"],
    edges: Float[np.ndarray, " edge"],
    time: Float[np.ndarray, " case"] | float,
) -> Float[np.ndarray, " case"]:
    """Survival of each case at a time of its own (or all at one), with a constant hazard rate within each interval.

    Times beyond the last edge count as the last edge, because the last interval is open.
    """
    grid = np.concatenate([[0.0], edges])
    # log S is linear within an interval; a hazard of 1 is kept finite
    log_survival = np.hstack([np.zeros((len(at_edges), 1)), np.log(np.maximum(at_edges, 1e-300))])
    time = np.clip(np.broadcast_to(time, len(at_edges)), 0.0, edges[-1])
    interval = np.clip(np.searchsorted(grid, time, side="right") - 1, 0, len(edges) - 1)
    share = (time - grid[interval]) / (grid[interval + 1] - grid[interval])
    case = np.arange(len(at_edges))
    before, after = log_survival[case, interval], log_survival[case, interval + 1]
    return np.exp(before + share * (after - before))
