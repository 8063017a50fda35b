"""Ridge Cox regression on more covariates than cases, and its hazards in discrete intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from lifelines import CoxPHFitter
from torch import Tensor, nn

from survq.data.batch import Batch

PENALTIES = tuple(10.0 ** np.arange(-3.0, 2.0))  # lambda: times half the squared coefficients, per case
FOLDS = 4


@dataclass(frozen=True)
class Cox:
    """eta = (x - centre) coefficients: the log hazard ratio of covariates x."""

    centre: Float[np.ndarray, " covariate"]
    coefficients: Float[np.ndarray, " covariate"]
    penalty: float

    def eta(self, x: Float[np.ndarray, "case covariate"]) -> Float[np.ndarray, " case"]:
        return (x - self.centre) @ self.coefficients


class CoxRegression(nn.Module):
    """Ridge Cox regression as a layer that is fitted, not trained: covariates in, logits of the hazards out."""

    centre: Tensor
    coefficients: Tensor
    baseline: Tensor

    def __init__(self, covariates: int, intervals: int, penalty: float | None):
        super().__init__()
        self.penalty = penalty
        for name, size in (("centre", covariates), ("coefficients", covariates), ("baseline", intervals)):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    def fit(self, training: Iterable[Batch], covariates: Callable[[Batch], Float[Tensor, "case covariate"]]) -> None:
        """Fit to the cases of all batches, whose order does not matter. See `fit_cox`."""
        batches = list(training)
        ids = [case for batch in batches for case in batch.case_ids]
        order = sorted(range(len(ids)), key=ids.__getitem__)
        x = torch.cat([covariates(batch).double() for batch in batches])[order]
        time, event, interval = (
            torch.cat([getattr(batch, name) for batch in batches])[order] for name in ("time", "event", "interval")
        )
        fitted = fit_cox(x.cpu().numpy(), time.double().cpu().numpy(), event.cpu().numpy(), self.penalty)
        self.centre.copy_(torch.from_numpy(fitted.centre))
        self.coefficients.copy_(torch.from_numpy(fitted.coefficients))
        self.baseline.copy_(log_baseline(interval, event, self.eta(x), len(self.baseline)))

    def eta(self, x: Float[Tensor, "case covariate"]) -> Float[Tensor, " case"]:
        return (x.double() - self.centre) @ self.coefficients

    def forward(self, x: Float[Tensor, "case covariate"]) -> Float[Tensor, "case interval"]:
        return cox_logits(self.eta(x), self.baseline)


def fit_cox(
    x: Float[np.ndarray, "case covariate"],
    time: Float[np.ndarray, " case"],
    event: Bool[np.ndarray, " case"],
    penalty: float | None = None,
) -> Cox:
    """Ridge regression on standardised covariates. Without `penalty`, it is selected from PENALTIES by
    cross-validation among these cases.

    The fit is lifelines'. It is made on the principal components of the covariates, at most as many as cases, which
    leaves ridge regression unchanged: coefficients have no part outside the span of the cases.
    """
    return _fit(x, time, event, select_penalty(x, time, event) if penalty is None else penalty)


def select_penalty(
    x: Float[np.ndarray, "case covariate"], time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]
) -> float:
    """The penalty with the highest cross-validated partial likelihood (Verweij and van Houwelingen, 1993):

        sum over folds of  l(all cases) - l(cases without the fold),  both with the coefficients without the fold

    The held-out cases need no comparable pairs among themselves: it is defined and steady with few events, where a
    C-index is not. With fewer than two events per fold, the largest penalty.
    """
    fold = np.empty(len(event), int)
    fold[np.lexsort((time, event))] = np.arange(len(event)) % FOLDS  # spread over events and times
    if event.sum() < 2 * FOLDS:
        return PENALTIES[-1]
    scores = []
    for penalty in PENALTIES:
        score = 0.0
        for held_out in (fold == number for number in range(FOLDS)):
            eta = _fit(x[~held_out], time[~held_out], event[~held_out], penalty).eta(x)
            score += partial_likelihood(eta, time, event)
            score -= partial_likelihood(eta[~held_out], time[~held_out], event[~held_out])
        scores.append(score)
    return PENALTIES[int(np.argmax(scores))]


def partial_likelihood(
    eta: Float[np.ndarray, " case"], time: Float[np.ndarray, " case"], event: Bool[np.ndarray, " case"]
) -> float:
    """Cox's log partial likelihood, with Breslow's treatment of ties."""
    order = np.argsort(-time, kind="stable")
    eta, time, event = eta[order], time[order], event[order]
    at_risk = np.logaddexp.accumulate(eta)  # of all with a time at least as long, up to ties
    last = np.searchsorted(-time, -time, side="right") - 1  # the last case of each tied time
    return float((eta - at_risk[last])[event].sum())


def deaths_and_at_risk(
    interval: Int[Tensor, " case"], event: Bool[Tensor, " case"], weight: Float[Tensor, " case"], intervals: int
) -> tuple[Float[Tensor, " interval"], Float[Tensor, " interval"]]:
    """The number of deaths in each interval, and the sum of weights of the cases at risk at its start."""
    deaths = torch.bincount(interval[event], minlength=intervals).to(weight.dtype)
    ended = torch.bincount(interval, weights=weight, minlength=intervals)
    return deaths, ended.flip(0).cumsum(0).flip(0)


def log_baseline(
    interval: Int[Tensor, " case"], event: Bool[Tensor, " case"], eta: Float[Tensor, " case"], intervals: int
) -> Float[Tensor, " interval"]:
    """a_k = log(deaths in k / sum of exp(eta) at risk), Breslow's estimate for grouped times.

    An interval without deaths counts half a death.
    """
    deaths, at_risk = deaths_and_at_risk(interval, event, eta.exp(), intervals)
    return (deaths.clamp(min=0.5) / at_risk.clamp(min=1e-12)).log()


def cox_logits(eta: Float[Tensor, " case"], baseline: Float[Tensor, " interval"]) -> Float[Tensor, "case interval"]:
    """The logits of the hazards 1 - exp(-exp(a_k + eta)), by which risk is monotone in eta."""
    u = (baseline + eta[:, None]).clamp(max=30.0).exp()
    return torch.where(u > 20, u, u.clamp(max=20).expm1().log())  # log(expm1(u)), which is u for large u


def _fit(x: np.ndarray, time: np.ndarray, event: np.ndarray, penalty: float) -> Cox:
    centre, deviation = x.mean(axis=0), x.std(axis=0)
    scale = np.where(deviation > 1e-12, deviation, np.inf)  # constant covariates get the coefficient 0
    U, s, Vt = np.linalg.svd((x - centre) / scale, full_matrices=False)
    kept = s > 1e-6 * s.max(initial=0.0)
    if not kept.any() or not event.any():
        return Cox(centre, np.zeros(x.shape[1]), penalty)
    components = (U * s)[:, kept]
    # lifelines standardises what it fits (with ddof 1), and its penalty is for standardised coefficients
    variance = components.var(axis=0, ddof=1)
    table = pd.DataFrame(components).assign(time=time, event=event)
    fitter = CoxPHFitter(penalizer=penalty / variance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on rare events and collinearity, which the penalty handles
        fitter.fit(table, "time", "event")
    return Cox(centre, (Vt[kept].T @ fitter.params_.to_numpy()) / scale, penalty)
