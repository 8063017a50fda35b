"""All metrics of a method's held-out predictions: how well it ranks cases, and whether its survival means what it says.

Everything is computed from the predictions alone. The training cases of a fold are the held-out cases of the other
folds of its repeat; they give the weights against censoring, Kaplan-Meier as reference, and tau, the 80th percentile of
their times. Ranking and Brier scores are computed fold by fold and averaged over the folds where they are defined.
Calibration is about survival probabilities, which have a scale of their own, so that the cases of all folds are pooled;
a case that was held out in several repeats has the mean of its predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from survq.evaluation.brier import brier_terms
from survq.evaluation.calibration_by_risk import calibration_by_risk
from survq.evaluation.censoring import StepFunction, censoring_survival, kaplan_meier, unknown_weight
from survq.evaluation.concordance import check_predictions, comparable_pairs, risk_time_event, undefined_concordance
from survq.evaluation.d_calibration import d_calibration, spread_masses, survival_bounds
from survq.evaluation.dynamic_auc import auc_pairs
from survq.evaluation.kaplan_meier import risk_groups
from survq.evaluation.one_calibration import one_calibration
from survq.evaluation.predicted_survival import (
    hazards_of,
    interpolated_survival,
    stepwise_survival,
    survival_at_edges,
)
from survq.evaluation.restricted_mean import restricted_mean_difference
from survq.evaluation.score import Score
from survq.evaluation.significance import draw_patients, interval_of, outranked, weighted_pairs
from survq.evaluation.uno import uno_pairs

TAU = 0.8  # quantile of the training times up to which Uno's C and Brier scores look
GRID = 50  # times of an integrated Brier score, equally spaced up to tau

METRICS = {
    "c_index": "Harrell's C",
    "uno_c": "Uno's C up to tau",
    "auc": "AUC at the median event time",
    "ibs": "integrated Brier score up to tau; 0 is best",
    "ibs_gain": "1 - Brier score / that of Kaplan-Meier; below 0 is worse than Kaplan-Meier",
    "d_calibration_p": "p of D-calibration; small means miscalibrated",
    "one_calibration_p": "p of 1-calibration at the median event time; small means miscalibrated",
    "calibration_low": "low-risk third: predicted minus observed survival at the median event time",
    "calibration_middle": "middle third: predicted minus observed survival at the median event time",
    "calibration_high": "high-risk third: predicted minus observed survival at the median event time",
    "months_gained": "mean months of life that low-risk cases have more than high-risk ones, up to tau",
}
"""The metrics, and what they mean."""

NO_HAZARDS = "the run has no hazards or no interval edges"
NO_TRAINING = "the results hold no other fold of this repeat"


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of one method on one cohort: case_id, repeat, fold, time (months), event, risk, hazard_k."""

    predictions: pd.DataFrame
    edges: Mapping[tuple[int, int], tuple[float, ...]]  # months, by repeat and fold; empty if unknown
    cuts: Mapping[tuple[int, int], float] = field(default_factory=dict)  # median risk of the training cases, likewise

    def __post_init__(self):
        check_predictions(self.predictions)

    @cached_property
    def folds(self) -> list[HeldOutFold]:
        found = []
        for (repeat, fold), cases in self.predictions.groupby(["repeat", "fold"], sort=True):
            others = self.predictions[(self.predictions["repeat"] == repeat) & (self.predictions["fold"] != fold)]
            edges = self.edges.get((int(repeat), int(fold)), ())
            hazards = hazards_of(cases)
            known = len(edges) > 0 and hazards.shape[1] == len(edges) + 1
            found.append(HeldOutFold(cases, others, np.array(edges) if known else None, hazards))
        return found

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """One row per case: time and event, indexed by case_id, in the order of ids."""
        return self.predictions.groupby("case_id")[["time", "event"]].first()

    @cached_property
    def groups(self) -> pd.DataFrame:
        """The risk groups of `outcomes`, see `risk_groups`: cut at the training medians, if all are known."""
        return risk_groups(self.predictions, self.cuts if self.has_cuts else None)

    @property
    def has_cuts(self) -> bool:
        return all((int(r), int(f)) in self.cuts for r, f in self.predictions.groupby(["repeat", "fold"]).groups)

    @property
    def cut(self) -> str:
        """Where the risk groups are divided, in words."""
        return f"the median risk of the {'training' if self.has_cuts else 'held-out'} cases of their fold"

    @cached_property
    def tau(self) -> float:
        return float(self.outcomes["time"].quantile(TAU))

    @cached_property
    def median_event_time(self) -> float:
        """NaN without events."""
        return float(self.outcomes.loc[self.outcomes["event"].astype(bool), "time"].median())

    @property
    def has_hazards(self) -> bool:
        return all(fold.edges is not None for fold in self.folds)

    def survival(self, at: float) -> Float[np.ndarray, " case"]:
        """Predicted survival at a time (months) of the cases of `outcomes`."""
        tables = [fold.cases[["case_id"]].assign(survival=fold.survival(at)) for fold in self.folds]
        return pd.concat(tables).groupby("case_id")["survival"].mean().to_numpy(float)


@dataclass(frozen=True, eq=False)
class HeldOutFold:
    """One fold: its held-out cases, and those of the other folds of its repeat, which trained it."""

    cases: pd.DataFrame
    training: pd.DataFrame
    edges: Float[np.ndarray, " edge"] | None
    hazards: Float[np.ndarray, "case interval"]

    @property
    def arrays(self) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        return risk_time_event(self.cases)

    @cached_property
    def censoring(self) -> StepFunction:
        return censoring_survival(*self._outcomes)

    @cached_property
    def tau(self) -> float:
        return float(np.quantile(self._outcomes[0], TAU))

    def survival(self, at: float) -> Float[np.ndarray, " case"]:
        assert self.edges is not None
        return interpolated_survival(survival_at_edges(self.hazards), self.edges, at)

    def brier(self) -> tuple[Float[np.ndarray, " case"], Float[np.ndarray, " case"]] | Score:
        """The share of each case in the integrated Brier score of the model, and in that of Kaplan-Meier.

        Kaplan-Meier of the training cases is a step function at the same edges, so that both have the same resolution.
        """
        assert self.edges is not None
        _, time, event = self.arrays
        at = np.linspace(0, self.tau, GRID + 1)[1:]
        needed = np.concatenate([at[at < time.max()], time[event & (time <= at[-1])]])
        if reason := unknown_weight(self.censoring.at(needed)):
            return Score.undefined(reason)
        reference = kaplan_meier(*self._outcomes).at(self.edges)
        if np.isnan(reference).any():
            return Score.undefined("an edge beyond the follow-up of the training cases")
        both = []
        for at_edges in (survival_at_edges(self.hazards), np.tile(reference, (len(time), 1))):
            terms = brier_terms(stepwise_survival(at_edges, self.edges, at), time, event, self.censoring, at)
            both.append(np.trapezoid(terms, at, axis=1) / (at[-1] - at[0]))
        return both[0], both[1]

    @property
    def _outcomes(self) -> tuple[Float[np.ndarray, " case"], Bool[np.ndarray, " case"]]:
        return self.training["time"].to_numpy(float), self.training["event"].to_numpy(bool)


@dataclass(frozen=True, eq=False)
class FoldPairs:
    """What ranking needs to know of a fold besides the risks: methods of the same cases and folds share it."""

    weight: Float[np.ndarray, "resample case"]
    pairs: Mapping[str, Float[np.ndarray, "first second"] | Score]  # by metric; or why it is undefined
    total: Mapping[str, Float[np.ndarray, " resample"]]  # of the pairs of each metric, weighted

    @classmethod
    def of(cls, fold: HeldOutFold, draws: pd.DataFrame, median_event_time: float) -> FoldPairs:
        _, time, event = fold.arrays
        weight = np.ascontiguousarray(draws.loc[fold.cases["case_id"]].to_numpy(float).T)
        undefined = undefined_concordance(time, event)
        untrained = Score.undefined(NO_TRAINING) if fold.training.empty else None
        pairs = {
            "c_index": Score.undefined(undefined) if undefined else comparable_pairs(time, event).astype(float),
            "uno_c": untrained or uno_pairs(time, event, fold.censoring, fold.tau),
            "auc": untrained or auc_pairs(time, event, fold.censoring, median_event_time),
        }
        total = {name: weighted_pairs(weight, one) for name, one in pairs.items() if not isinstance(one, Score)}
        return cls(weight, pairs, total)


def fold_pairs(method: HeldOut) -> list[FoldPairs]:
    """The pairs of every fold, with 1000 resamples of the patients."""
    draws = draw_patients(method.predictions, 1000, 0)
    return [FoldPairs.of(fold, draws, method.median_event_time) for fold in method.folds]


def held_out_metrics(method: HeldOut, shared: Sequence[FoldPairs] | None = None) -> pd.DataFrame:
    """One row per metric of METRICS: metric, value, low, high (95 %), folds (where it is defined) and reason.

    Intervals: patient bootstrap for ranking and Brier scores, Greenwood's for calibration by thirds and months gained,
    none for p values. `reason` says why a value, or that of some folds, does not exist. `shared` are the `fold_pairs`
    of another method with the same rows in the same order up to its predictions, if they are at hand.
    """
    rows = [*_by_fold(method, shared or fold_pairs(method)), *_pooled(method)]
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "folds", "reason"])


def _by_fold(method: HeldOut, shared: Sequence[FoldPairs]) -> list[tuple]:
    found: dict[str, list[np.ndarray | Score]] = {name: [] for name in ("c_index", "uno_c", "auc", "ibs", "reference")}
    for fold, known in zip(method.folds, shared, strict=True):
        won, weight = outranked(fold.arrays[0]), known.weight
        for name, one in known.pairs.items():
            with np.errstate(invalid="ignore"):
                found[name].append(
                    one if isinstance(one, Score) else weighted_pairs(weight, one * won) / known.total[name]
                )
        untrained = Score.undefined(NO_TRAINING) if fold.training.empty else None
        terms = untrained or (Score.undefined(NO_HAZARDS) if fold.edges is None else fold.brier())
        for name, position in (("ibs", 0), ("reference", 1)):
            found[name].append(terms if isinstance(terms, Score) else weight @ terms[position] / weight.sum(axis=1))
    means = {name: _mean(folds) for name, folds in found.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = 1 - means["ibs"][0] / means["reference"][0]
    defined, reason = means["ibs"][1:]
    if defined and not np.isfinite(gain[0]):
        defined, reason = 0, "Kaplan-Meier makes no error"
    means["ibs_gain"] = np.where(np.isfinite(gain), gain, math.nan), defined, reason
    del means["reference"]
    rows = []
    for name, (values, defined, reason) in means.items():
        interval = interval_of(values)
        rows.append((name, interval.estimate, interval.low, interval.high, defined, reason))
    return rows


def _mean(folds: list[np.ndarray | Score]) -> tuple[Float[np.ndarray, " resample"], int, str]:
    """The mean over defined folds in each resample, how many are defined without resampling, and why others are not."""
    defined = [one for one in folds if not isinstance(one, Score)]
    reasons = dict.fromkeys(one.reason for one in folds if isinstance(one, Score))
    if not defined:
        return np.array([math.nan]), 0, "; ".join(reasons)
    values = np.array(defined)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis=0) / known.sum(axis=0), len(defined), "; ".join(reasons)


def _pooled(method: HeldOut) -> list[tuple]:
    time, event = method.outcomes["time"].to_numpy(float), method.outcomes["event"].to_numpy(bool)
    at, folds = method.median_event_time, len(method.folds)
    nan = (math.nan,) * 3
    names = ["d_calibration_p", "one_calibration_p", *(f"calibration_{name}" for name in ("low", "middle", "high"))]
    undefined = "" if method.has_hazards else NO_HAZARDS
    undefined = undefined or ("no events" if math.isnan(at) else "")
    if undefined:
        rows: list[tuple] = [(name, *nan, 0, undefined) for name in names]
    else:
        survival = method.survival(at)
        d, one = d_calibration(case_masses(method)), one_calibration(survival, time, event, at)
        rows = [
            (name, test.p_value, math.nan, math.nan, folds if not test.reason else 0, test.reason)
            for name, test in zip(names, (d, one), strict=False)
        ]
        for third in calibration_by_risk(survival, time, event, at):
            gap = tuple(third.predicted - observed for observed in (third.observed, third.high, third.low))
            rows.append((f"calibration_{third.third}", *gap, folds if not third.reason else 0, third.reason))
    high = method.groups.set_index("case_id").loc[method.outcomes.index, "high"].to_numpy(bool)
    gained = restricted_mean_difference(time, event, high, method.tau)
    reason = "a risk group is empty, or was not followed up to tau" if math.isnan(gained.estimate) else ""
    rows.append(("months_gained", gained.estimate, gained.low, gained.high, 0 if reason else folds, reason))
    return rows


def case_masses(method: HeldOut) -> Float[np.ndarray, "case bin"]:
    """The masses of D-calibration of each case of `outcomes`, a mean over its repeats."""
    tables = []
    for fold in method.folds:
        assert fold.edges is not None
        _, time, event = fold.arrays
        masses = spread_masses(*survival_bounds(fold.hazards, fold.edges, time, event))
        tables.append(pd.DataFrame(masses, index=fold.cases["case_id"]))
    return pd.concat(tables).groupby(level=0).mean().to_numpy(float)
