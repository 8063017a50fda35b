"""What a table says of predictions."""

from __future__ import annotations

import pandas as pd

from survq.evaluation.concordance import fold_concordance, summarise
from survq.evaluation.significance import bootstrap_interval


def measure(predictions: pd.DataFrame) -> dict:
    """C-index of out-of-fold predictions: mean and population deviation over folds, 95 % interval, and each fold."""
    folds = fold_concordance(predictions)
    summary, interval = summarise(folds), bootstrap_interval(predictions)
    return {
        "mean": summary.c_index,
        "deviation": summary.deviation,
        "low": interval.low,
        "high": interval.high,
        "folds": folds.to_dict("records"),
    }
