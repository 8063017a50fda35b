import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter

from survq.layers.cox import (
    PENALTIES,
    cox_logits,
    deaths_and_at_risk,
    fit_cox,
    log_baseline,
    partial_likelihood,
    select_penalty,
)


def cases(n: int, genes: int, effect: float = 1.0, seed: int = 0):
    """Covariates on various scales, of which the first two carry the risk; a third of the cases is censored."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, genes))
    risk = effect * (x[:, 0] - x[:, 1])
    time = np.exp(3 - risk + 0.5 * random.normal(size=n))
    return 3 + x * random.uniform(0.1, 5, genes), time, random.random(n) < 0.67


@pytest.mark.parametrize("penalty", [0.01, 0.3, 10.0])
def test_it_is_the_ridge_regression_of_standardised_covariates(penalty):
    x, time, event = cases(80, 6)
    time = np.ceil(time / 5)  # ties
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    direct = CoxPHFitter(penalizer=penalty / z.var(axis=0, ddof=1))
    precise = {"precision": 1e-14, "r_precision": 1e-14, "step_size": 1.0}
    direct.fit(pd.DataFrame(z).assign(time=time, event=event), "time", "event", fit_options=precise)
    fitted = fit_cox(x, time, event, penalty)
    assert fitted.coefficients * x.std(axis=0) == pytest.approx(direct.params_.to_numpy(), abs=1e-7)


def test_more_genes_than_cases_are_as_exact():
    """Copying every gene four times, at a quarter of the penalty each, is the same regression."""
    x, time, event = cases(30, 20)
    once, copied = fit_cox(x, time, event, 0.4), fit_cox(np.tile(x, 4), time, event, 1.6)
    assert once.eta(x) == pytest.approx(copied.eta(np.tile(x, 4)), abs=1e-6)


def test_a_constant_covariate_has_no_coefficient():
    x, time, event = cases(40, 3)
    x[:, 2] = 7.0
    fitted = fit_cox(x, time, event, 0.1)
    assert fitted.coefficients[2] == 0 and np.isfinite(fitted.coefficients).all()


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_noise_is_penalised_more_than_signal(effect):
    chosen = [select_penalty(*cases(100, 30, effect, seed)) for seed in range(3)]
    assert set(chosen) <= set(PENALTIES)
    assert (np.median(chosen) == max(PENALTIES)) if effect == 0 else (np.median(chosen) < max(PENALTIES))


def test_few_events_choose_the_largest_penalty():
    x, time, event = cases(40, 5)
    event[:] = False
    event[:7] = True
    assert select_penalty(x, time, event) == max(PENALTIES)
    assert fit_cox(x, time, np.zeros(40, bool)).coefficients.tolist() == [0] * 5, "without events"


def test_the_partial_likelihood_of_a_worked_example():
    """A death at 1, of three at risk. Then two at the same time, of two at risk: the second leaves one half of both."""
    eta = np.log([1.0, 2.0, 3.0])
    found = partial_likelihood(eta, np.array([1.0, 2.0, 2.0]), np.array([True, True, True]))
    assert found == pytest.approx(np.log(1 / 6) + np.log(2 / 5) + np.log(3 / 2.5))
    assert partial_likelihood(eta, np.array([1.0, 2.0, 3.0]), np.array([False, True, False])) == pytest.approx(
        np.log(2 / 5)
    )


def test_deaths_at_risk_and_the_baseline_by_hand():
    interval, event = torch.tensor([0, 0, 1, 1, 3]), torch.tensor([True, False, True, True, False])
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    deaths, at_risk = deaths_and_at_risk(interval, event, 4)
    assert deaths.tolist() == [1, 2, 0, 0] and (weight @ at_risk.double()).tolist() == [15, 12, 5, 5]
    assert log_baseline(interval, event, weight.log(), 4).exp().tolist() == pytest.approx([1 / 15, 2 / 12, 0.1, 0.1])


def test_the_baseline_of_an_interval_that_no_case_reached_is_half_a_death_of_one_average_case():
    interval, event = torch.tensor([0, 1, 1]), torch.tensor([True, True, False])
    baseline = log_baseline(interval, event, torch.zeros(3, dtype=torch.float64), 3)
    assert baseline.exp().tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 2])


def test_the_baseline_of_extreme_log_hazard_ratios():
    """exp(800) has no float, exp(-800) is 0 as a float; the ratio to the baseline has."""
    interval, event = torch.tensor([0, 1, 1]), torch.tensor([True, True, False])
    baseline = log_baseline(interval, event, torch.tensor([800.0, -800.0, -800.0], dtype=torch.float64), 2)
    assert baseline.tolist() == pytest.approx([-800, 800 + np.log(1 / 2)])


def test_hazards_follow_the_proportional_hazards_form():
    eta = torch.tensor([-1000.0, -60.0, -2.0, 0.0, 2.0, 60.0, 1000.0], dtype=torch.float64)
    baseline = torch.tensor([-3.0, -1.0], dtype=torch.float64)
    logits = cox_logits(eta, baseline)
    assert logits.isfinite().all() and (logits[:6].diff(dim=0) > 0).all() and (logits.diff(dim=0) >= 0).all()
    expected = 1 - torch.exp(-torch.exp(baseline + eta[2:5, None]))
    assert torch.allclose(torch.sigmoid(logits[2:5]), expected, atol=1e-12)
