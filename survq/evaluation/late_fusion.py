"""Late fusion: the weighted mean of the risks of a histology model and a gene model. A simple baseline for fusion.

Risks of different models and folds are on different scales, so each risk is replaced by its percentile among the
held-out cases of its fold. Fused risk = w * histology + (1 - w) * genes.

For each fold, the two models and w are those with the highest mean C-index on the *other* folds of the repeat, whose
held-out cases are the training cases of this fold. The outcomes of the fold itself select nothing. They are not
untouched either, because the models of the other folds were trained on them; an inner cross-validation for each fold
would avoid this at several times the cost.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from survq.evaluation.concordance import concordance_index, risk_time_event

WEIGHTS = np.linspace(0, 1, 11)  # of histology
KEYS = ["repeat", "fold", "case_id"]


def late_fusion(
    histology: Mapping[str, pd.DataFrame], genomics: Mapping[str, pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Held-out predictions of the fusion, and the choice of each fold.

    `histology` and `genomics` map models to their held-out predictions (case_id, repeat, fold, time, event, risk) on
    the same cases and folds. The choices have the columns repeat, fold, histology, genomics, weight (of histology).
    Raises ValueError if a repeat has fewer than two folds, because then no other fold can select.
    """
    percentiles = {name: _percentiles(table) for name, table in {**histology, **genomics}.items()}
    first = next(iter(percentiles.values()))
    fused, choices = [], []
    for repeat, fold in first[["repeat", "fold"]].drop_duplicates().itertuples(index=False):
        others = sorted(set(first.loc[first["repeat"] == repeat, "fold"]) - {fold})
        if not others:
            raise ValueError(f"repeat {repeat} has one fold; late fusion needs two or more to select its weight.")
        seen = {name: [_of(table, repeat, other) for other in others] for name, table in percentiles.items()}
        best_h, best_g = (max(group, key=lambda name: _mean_c(seen[name])) for group in (histology, genomics))
        pairs = list(zip(seen[best_h], seen[best_g], strict=True))
        weight = max(WEIGHTS, key=lambda w: (_mean_c([_fused(h, g, w) for h, g in pairs]), -abs(w - 0.5)))
        mine = _fused(_of(percentiles[best_h], repeat, fold), _of(percentiles[best_g], repeat, fold), weight)
        fused.append(mine)
        choice = {"repeat": repeat, "fold": fold, "histology": best_h, "genomics": best_g, "weight": weight}
        choices.append(choice)
    return pd.concat(fused, ignore_index=True), pd.DataFrame(choices)


def weight_curve(histology: pd.DataFrame, genomics: pd.DataFrame) -> pd.DataFrame:
    """The mean C-index over folds of each weight of histology: weight, c_index. Its maximum is optimistic."""
    h, g = _percentiles(histology), _percentiles(genomics)
    rows = []
    for weight in WEIGHTS:
        fused = _fused(h, g, weight)
        rows.append((weight, _mean_c([cases for _, cases in fused.groupby(["repeat", "fold"])])))
    return pd.DataFrame(rows, columns=["weight", "c_index"])


def _percentiles(predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions in the order of `KEYS`, with the risk as a percentile within its fold."""
    table = predictions[[*KEYS, "time", "event", "risk"]].sort_values(KEYS, ignore_index=True)
    ranks = table.groupby(["repeat", "fold"])["risk"].transform(lambda risk: (rankdata(risk) - 0.5) / len(risk))
    return table.assign(risk=ranks)


def _of(table: pd.DataFrame, repeat: int, fold: int) -> pd.DataFrame:
    return table[(table["repeat"] == repeat) & (table["fold"] == fold)].reset_index(drop=True)


def _fused(histology: pd.DataFrame, genomics: pd.DataFrame, weight: float) -> pd.DataFrame:
    if not histology["case_id"].equals(genomics["case_id"]):
        raise ValueError("The models predict different cases. Fix: train both on the same cases and folds.")
    return histology.assign(risk=weight * histology["risk"] + (1 - weight) * genomics["risk"])


def _mean_c(folds: list[pd.DataFrame]) -> float:
    """The mean C-index of the folds in which it is defined; 0 if there is none."""
    values: Float[np.ndarray, " fold"] = np.array([concordance_index(*risk_time_event(cases)) for cases in folds])
    return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0
