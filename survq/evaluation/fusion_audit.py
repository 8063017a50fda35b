"""Does a fused model use both modalities? Answered from held-out predictions of it and of two unimodal models.

**Pairs.** Of all comparable pairs of a fold, some are ranked rightly by both unimodal models, by one, or by none. For
each of these four kinds: its share of all pairs, and the share of it that the fused model ranks rightly. Any weighted
mean of the two unimodal percentiles is right on all pairs of `both` and on none of `neither`.

**Dependence.** The partial correlation, over cases, of the fused risk with the risk of one unimodal model given that of
the other, and with the product of both given both (an interaction, which no weighted mean has). Risks are percentiles
within their fold, as normal scores. Its null distribution permutes cases within folds (Freedman and Lane, 1983).

Predictions cannot separate use from correlation: a fused model that reads slides only may know more of them than the
unimodal model does, and what it knows may correlate with genes. Only shuffling a modality between cases would separate
them, with the weights and the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import norm, rankdata

from survq.evaluation.concordance import comparable_pairs, risk_time_event
from survq.evaluation.significance import Interval, draw_patients, interval_of

KINDS = ("both", "histology only", "genes only", "neither")
QUESTIONS = ("histology", "genes", "interaction")
KEYS = ["repeat", "fold", "case_id"]


@dataclass(frozen=True)
class PairKind:
    """One kind of pairs: its share of all, and how many of it the fused model ranks rightly, with 95 % intervals.

    `null_low` and `null_high` bound the latter in 95 % of the permutations of the fused risks within folds.
    """

    kind: str
    share: Interval
    right: Interval
    null_low: float
    null_high: float


@dataclass(frozen=True)
class Dependence:
    """A partial correlation of the fused risk, with its 95 % interval and the p value of the permutations."""

    question: str
    correlation: Interval
    p_value: float


@dataclass(frozen=True)
class FusionAudit:
    pairs: list[PairKind]
    dependence: list[Dependence]


def fusion_audit(
    fused: pd.DataFrame,
    histology: pd.DataFrame,
    genes: pd.DataFrame,
    *,
    resamples: int = 1000,
    permutations: int = 500,
    seed: int = 0,
) -> FusionAudit:
    """Audit one fused model. Tables: case_id, repeat, fold, time, event and risk, of the same cases and folds."""
    tables = [table.sort_values(KEYS, ignore_index=True) for table in (fused, histology, genes)]
    if not all(table[KEYS].equals(tables[0][KEYS]) for table in tables):
        raise ValueError("The models predict different cases or folds. Fix: train them on the same folds.")
    draws = draw_patients(tables[0], resamples, seed)
    random = np.random.default_rng(seed)
    folds = list(tables[0].groupby(["repeat", "fold"], sort=True).indices.values())
    return FusionAudit(
        _pairs(tables, folds, draws, permutations, random), _dependence(tables, folds, draws, permutations, random)
    )


def _pairs(
    tables: list[pd.DataFrame],
    folds: list[np.ndarray],
    draws: pd.DataFrame,
    permutations: int,
    random: np.random.Generator,
) -> list[PairKind]:
    counts = np.zeros((len(KINDS), 2, draws.shape[1]))  # of each kind: all, and rightly ranked, in each resample
    null = np.zeros((len(KINDS), permutations))
    for rows in folds:
        cases = [table.iloc[rows] for table in tables]
        risk, time, event = risk_time_event(cases[0])
        comparable = comparable_pairs(time, event)
        right, right_h, right_g = (_higher(one["risk"].to_numpy(float)) for one in cases)
        kinds = (right_h & right_g, right_h & ~right_g, ~right_h & right_g, ~right_h & ~right_g)
        weight = draws.loc[cases[0]["case_id"]].to_numpy(float).T
        orders = [random.permutation(len(rows)) for _ in range(permutations)]
        for number, kind in enumerate(kinds):
            mine = comparable & kind
            counts[number, 0] += ((weight @ mine) * weight).sum(axis=1)
            counts[number, 1] += ((weight @ (mine & right)) * weight).sum(axis=1)
            first, second = np.nonzero(mine)
            null[number] += [(risk[order[first]] > risk[order[second]]).sum() for order in orders]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares, rights = counts[:, 0] / counts[:, 0].sum(axis=0), counts[:, 1] / counts[:, 0]
        bounds = np.quantile(null / counts[:, 0, :1], [0.025, 0.975], axis=1)
    return [
        PairKind(kind, interval_of(shares[i]), interval_of(rights[i]), float(bounds[0, i]), float(bounds[1, i]))
        for i, kind in enumerate(KINDS)
    ]


def _higher(risk: Float[np.ndarray, " case"]) -> Bool[np.ndarray, "first second"]:
    return risk[:, None] > risk


def _dependence(
    tables: list[pd.DataFrame],
    folds: list[np.ndarray],
    draws: pd.DataFrame,
    permutations: int,
    random: np.random.Generator,
) -> list[Dependence]:
    fused, histology, genes = (normal_scores(table, folds) for table in tables)
    product = histology * genes
    weight = draws.loc[tables[0]["case_id"]].to_numpy(float).T
    found = []
    asked_given = ((histology, [genes]), (genes, [histology]), (product, [histology, genes]))
    for question, (asked, given) in zip(QUESTIONS, asked_given, strict=True):
        values = partial_correlation(np.stack([fused, asked, *given]), weight)
        mine, other = _residual(fused, given), _residual(asked, given)
        null = [_cosine(mine, other[_within(folds, random)]) for _ in range(permutations)]
        p = (1 + (np.abs(null) >= abs(_cosine(mine, other))).sum()) / (1 + permutations)
        found.append(Dependence(question, interval_of(values), float(p)))
    return found


def normal_scores(table: pd.DataFrame, folds: list[np.ndarray]) -> Float[np.ndarray, " row"]:
    """The risks as normal quantiles of their percentiles within the fold; all 0 where all risks are equal."""
    scores = np.empty(len(table))
    risk = table["risk"].to_numpy(float)
    for rows in folds:
        scores[rows] = norm.ppf((rankdata(risk[rows]) - 0.5) / len(rows))
    return scores


def partial_correlation(
    values: Float[np.ndarray, "variable row"], weight: Float[np.ndarray, "resample row"]
) -> Float[np.ndarray, " resample"]:
    """The correlation of the first two variables given the others, in each resample; NaN where it is undefined.

    -P_01 / sqrt(P_00 P_11), where P is the inverse of the covariance matrix.
    """
    total = weight.sum(axis=1)
    means = weight @ values.T / total[:, None]
    moments = np.einsum("rn,in,jn->rij", weight, values, values, optimize=True) / total[:, None, None]
    covariance = moments - means[:, :, None] * means[:, None, :]
    found = np.full(len(weight), np.nan)
    defined = np.linalg.cond(covariance) < 1e12
    precision = np.linalg.inv(covariance[defined])
    found[defined] = -precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1])
    return found


def _residual(values: Float[np.ndarray, " row"], given: list[np.ndarray]) -> Float[np.ndarray, " row"]:
    design = np.column_stack([np.ones(len(values)), *given])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _cosine(first: Float[np.ndarray, " row"], second: Float[np.ndarray, " row"]) -> float:
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float(first @ second / scale) if scale > 1e-9 * len(first) else 0.0  # below, nothing but rounding is left


def _within(folds: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    order = np.empty(sum(len(rows) for rows in folds), int)
    for rows in folds:
        order[rows] = random.permutation(rows)
    return order
