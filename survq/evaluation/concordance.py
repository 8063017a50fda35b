"""The C-index of a fold, and its mean and deviation over folds.

A C-index ranks pairs of cases, so it is defined for a whole fold: it is never averaged over batches, and risks of
different folds, which come from different models, are never ranked against each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

PREDICTION_COLUMNS = ("case_id", "repeat", "fold", "time", "event", "risk")


def concordance_index(
    risk: Float[np.ndarray, " case"], time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]
) -> float:
    """The share of comparable pairs in which the case that died first had the higher risk (Harrell et al., 1996).

    Equal risks count one half. NaN if no pair is comparable; `undefined_concordance` then gives the reason. A risk that
    is not finite raises ValueError instead: it means that the model has diverged, which must not pass as an undefined
    fold.
    """
    from lifelines.utils import concordance_index as lifelines_concordance  # slow to import

    if bad := int((~np.isfinite(risk)).sum()):
        raise ValueError(
            f"{bad} of {len(risk)} risks are not finite: the model has diverged. Fix: lower its learning rate, "
            "or check features and expression for values that are not finite."
        )
    try:
        return float(lifelines_concordance(time, -risk, event))  # lifelines expects larger values for longer survival
    except ZeroDivisionError:
        return float("nan")


def comparable_pairs(
    time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]
) -> Bool[np.ndarray, "first second"]:
    """True where the first case is known to have died before the second one.

    Of two cases with equal times, one dead and one censored, the censored one is assumed to live longer; two deaths at
    the same time are not comparable.
    """
    earlier = time[:, None] < time[None, :]
    outlived = (time[:, None] == time[None, :]) & ~event[None, :]
    return event[:, None] & (earlier | outlived)


def undefined_concordance(time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]) -> str | None:
    """Why the C-index of these cases does not exist, or None if it does."""
    if not event.any():
        return "no events"
    if not comparable_pairs(time, event).any():
        return "no comparable pair"
    return None


def check_predictions(predictions: pd.DataFrame) -> None:
    """Raise ValueError, with all problems, if predictions cannot be ranked."""
    if missing := [column for column in PREDICTION_COLUMNS if column not in predictions]:
        raise ValueError(
            f"The predictions lack the columns {missing}; they have {list(predictions.columns)}. "
            f"Expected one row per held-out case with {list(PREDICTION_COLUMNS)}."
        )
    problems = []
    if not len(predictions):
        problems.append("they have no cases")
    if repeated := int(predictions.duplicated(["repeat", "fold", "case_id"]).sum()):
        problems.append(f"{repeated} rows repeat a case within its fold")
    for column in ("time", "event", "risk"):
        bad = ~np.isfinite(predictions[column].to_numpy(float))
        if bad.any():
            first = predictions[bad].iloc[0]
            problems.append(
                f"{bad.sum()} values of {column} are not finite; the first is that of {first['case_id']!r} "
                f"in repeat {first['repeat']}, fold {first['fold']}"
                + (" (the model has diverged)" if column == "risk" else "")
            )
    if problems:
        raise ValueError("The predictions cannot be evaluated: " + "; ".join(problems) + ". Fix: repeat the run.")


def risk_time_event(
    cases: pd.DataFrame,
) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
    """The columns risk, time and event of a table of predictions, as arrays."""
    return cases["risk"].to_numpy(float), cases["time"].to_numpy(float), cases["event"].to_numpy(bool)


def fold_concordance(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per fold: repeat, fold, cases, events, pairs (comparable), c_index, and the reason if that is NaN.

    `predictions` has one row per held-out case and fold: case_id, repeat, fold, time (months), event, risk.
    """
    check_predictions(predictions)
    rows = []
    for (repeat, fold), cases in predictions.groupby(["repeat", "fold"], sort=True):
        risk, time, event = risk_time_event(cases)
        rows.append(
            {
                "repeat": repeat,
                "fold": fold,
                "cases": len(cases),
                "events": int(event.sum()),
                "pairs": int(comparable_pairs(time, event).sum()),
                "c_index": concordance_index(risk, time, event),
                "reason": undefined_concordance(time, event),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Concordance:
    """Mean ± deviation over the folds with a defined C-index, as printed in tables."""

    c_index: float
    deviation: float  # population deviation (ddof 0) over folds; not a standard error of the mean
    folds: int  # folds with a defined C-index
    undefined: int  # folds without a comparable pair, which are excluded


def summarise(folds: pd.DataFrame) -> Concordance:
    """Mean over the folds of `fold_concordance`. Folds with NaN are excluded and counted; NaN if none remains."""
    values = folds["c_index"].dropna().to_numpy(float)
    mean, deviation = (values.mean(), values.std()) if len(values) else (np.nan, np.nan)
    return Concordance(float(mean), float(deviation), len(values), len(folds) - len(values))
