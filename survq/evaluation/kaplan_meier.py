"""Risk groups at a cut of each fold, their survival curves and log-rank test (Figure 3).

Interpret the p value with care. Out-of-fold risks are not independent of each other, so under the null hypothesis it is
below 0.05 in 8 to 12 % of cohorts (simulated with 113 and 37 events), and more often if it was used for selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from survq.evaluation.concordance import check_predictions

LOG_RANK_CAVEAT = (
    "Take the log-rank p with care: held-out risks of different folds are not independent. Without any effect it is "
    "below 0.05 in 8 to 12 % of cohorts, and in more if the method was selected by its result."
)


@dataclass(frozen=True)
class LogRank:
    """The log-rank test of two risk groups. If it is undefined, both numbers are NaN and `reason` is given."""

    statistic: float
    p_value: float
    reason: str | None = None


def risk_groups(predictions: pd.DataFrame, cuts: Mapping[tuple[int, int], float] | None = None) -> pd.DataFrame:
    """One row per case: case_id, time, event, and `high`: whether its risk is above the cut of its fold.

    `cuts` are by repeat and fold, such as the median risk of the training cases, which is fixed before any held-out
    case is predicted. Without them a fold is cut at the median of its held-out cases, as in the paper.
    Risks are compared only within a fold; the groups are then pooled over folds. A case that was held out several times
    (repeated cross-validation) is still one case: it is high if it was high in more than half of the repeats.
    """
    check_predictions(predictions)
    risk, high = predictions["risk"].to_numpy(float), np.empty(len(predictions), bool)
    for (repeat, fold), rows in predictions.groupby(["repeat", "fold"]).indices.items():
        high[rows] = risk[rows] > (np.median(risk[rows]) if cuts is None else cuts[int(repeat), int(fold)])
    votes = predictions[["case_id", "time", "event"]].assign(high=high).groupby("case_id", sort=True)
    cases = votes.agg(time=("time", "first"), event=("event", "first"), high=("high", "mean")).reset_index()
    return cases.assign(event=cases["event"].astype(bool), high=cases["high"] > 0.5)


def log_rank(groups: pd.DataFrame) -> LogRank:
    """Test whether the two groups of a table from `risk_groups` differ in survival."""
    from lifelines.statistics import logrank_test  # slow to import

    high = groups["high"].to_numpy(bool)
    if not high.any() or high.all():
        return LogRank(np.nan, np.nan, "all cases are in one risk group")
    if not groups["event"].any():
        return LogRank(np.nan, np.nan, "no events")
    low_risk, high_risk = groups[~high], groups[high]
    # lifelines returns p = 1 here, which would look like a result
    if groups.loc[groups["event"], "time"].min() > min(low_risk["time"].max(), high_risk["time"].max()):
        return LogRank(np.nan, np.nan, "no event while both groups were under observation")
    test = logrank_test(low_risk["time"], high_risk["time"], low_risk["event"], high_risk["event"])
    return LogRank(float(test.test_statistic), float(test.p_value))


def survival_curve(time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]) -> pd.DataFrame:
    """The Kaplan-Meier estimate as steps: time (months), survival, its 95 % interval (low, high), and censored.

    `censored` is the number of cases censored at that time. The first row is time 0.
    """
    from lifelines import KaplanMeierFitter  # slow to import

    fitted = KaplanMeierFitter().fit(time, event)
    interval = fitted.confidence_interval_
    return pd.DataFrame(
        {
            "time": fitted.survival_function_.index.to_numpy(float),
            "survival": fitted.survival_function_.iloc[:, 0].to_numpy(float),
            "low": interval.iloc[:, 0].to_numpy(float),
            "high": interval.iloc[:, 1].to_numpy(float),
            "censored": fitted.event_table["censored"].to_numpy(int),
        }
    )
