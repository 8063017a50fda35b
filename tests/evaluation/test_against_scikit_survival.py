"""Metrics against scikit-survival and lifelines on 200 random cohorts; 20 edge cases with the stated difference."""

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.utils import restricted_mean_survival_time
from sksurv.metrics import brier_score, concordance_index_ipcw, cumulative_dynamic_auc
from sksurv.metrics import integrated_brier_score as oracle_ibs
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from survq.evaluation.brier import brier_scores, gain, integrated_brier_score
from survq.evaluation.censoring import censoring_survival, kaplan_meier
from survq.evaluation.dynamic_auc import dynamic_auc, mean_dynamic_auc
from survq.evaluation.restricted_mean import restricted_mean, restricted_mean_difference
from survq.evaluation.score import Score
from survq.evaluation.uno import uno_concordance

EXACT = 1e-10


def cohort(seed):
    """Training and held-out outcomes, risks and predicted survival at times; half of them with many ties."""
    random = np.random.default_rng(seed)
    cases = int(random.integers(20, 80))

    def outcome(n):
        death, end = random.exponential(20, n) + 0.5, random.exponential(40, n) + 0.5
        time = np.minimum(death, end)
        return (np.ceil(time) if seed % 2 else time), death <= end

    (training, died), (time, event) = outcome(2 * cases), outcome(cases)
    training[0], died[0] = max(training.max(), time.max()) + 1, False
    risk = random.integers(0, 12, cases).astype(float) if seed % 3 == 0 else random.normal(size=cases)
    at = np.unique(time[(time >= time[event].min()) & (time < time.max())])
    survival = np.exp(-np.outer(random.exponential(1, cases), at) / 20)
    return training, died, time, event, risk, at, survival


def test_200_random_cohorts():
    for seed in range(200):
        training, died, time, event, risk, at, survival = cohort(seed)
        tau = float(np.quantile(training, 0.8))
        G = censoring_survival(training, died)
        seen, held_out = Surv.from_arrays(died, training), Surv.from_arrays(event, time)
        assert G.at(time) == pytest.approx(CensoringDistributionEstimator().fit(seen).predict_proba(time), abs=EXACT)
        expected = concordance_index_ipcw(seen, held_out, risk, tau=tau)[0]
        assert uno_concordance(risk, time, event, G, tau).value == pytest.approx(expected, abs=EXACT)
        at = at[at < tau][::3]
        survival = survival[:, : 3 * len(at) : 3]
        assert brier_scores(survival, time, event, G, at) == pytest.approx(
            brier_score(seen, held_out, survival, at)[1], abs=EXACT
        )
        ours = integrated_brier_score(survival, time, event, G, at).value
        assert ours == pytest.approx(oracle_ibs(seen, held_out, survival, at), abs=EXACT)
        auc, mean = cumulative_dynamic_auc(seen, held_out, risk, at)
        assert [dynamic_auc(risk, time, event, G, one).value for one in at] == pytest.approx(auc, abs=EXACT)
        assert mean_dynamic_auc(risk, time, event, G, at).value == pytest.approx(mean, abs=EXACT)
        if seed < 10:  # lifelines is slow
            fitted = KaplanMeierFitter().fit(time, event)
            expected = restricted_mean_survival_time(fitted, t=at[-1])
            assert restricted_mean(time, event, at[-1])[0] == pytest.approx(expected, abs=1e-8)
            assert kaplan_meier(time, event).at(at) == pytest.approx(fitted.predict(at).to_numpy(), abs=EXACT)


LATE, NEVER, TRAINED = [9.0, 10.0, 11.0], [False] * 3, ([5.0, 8.0, 12.0, 20.0], [True, False, True, True])
EDGES = {
    # training, held-out time, event, risk, tau; Uno's C or the reason
    "no events": (TRAINED, LATE, NEVER, [1, 2, 3], 15, "no event before tau"),
    "all censored in training": (([5.0, 30.0], [False, False]), [6.0, 9.0], [True, False], [2, 1], 15, 1.0),
    "everyone censored before": (([5.0, 6.0], [False, False]), [6.0, 9.0], [True, False], [2, 1], 15, "all training"),
    "no censoring in training": (([5.0, 6.0], [True, True]), [6.0, 9.0], [True, False], [2, 1], 15, 1.0),
    "one event, right": (TRAINED, LATE, [True, False, False], [3, 1, 1], 15, 1.0),
    "one event, wrong": (TRAINED, LATE, [True, False, False], [1, 3, 3], 15, 0.0),
    "one event, last": (TRAINED, LATE, [False, False, True], [3, 1, 1], 15, "no comparable pair"),
    "event after tau": (TRAINED, LATE, [True, False, False], [3, 1, 1], 9, "no event before tau"),
    "all risks equal": (TRAINED, LATE, [True, True, False], [1, 1, 1], 15, 0.5),
    "two deaths at once": (TRAINED, [9.0, 9.0, 11.0], [True, True, False], [3, 2, 1], 15, 1.0),
    "two deaths at once, one wrong": (TRAINED, [9.0, 9.0, 11.0], [True, True, False], [3, 0, 1], 15, 0.5),
    "death and censoring at once": (TRAINED, [9.0, 9.0], [True, False], [2, 1], 15, 1.0),
    "all times equal": (TRAINED, [9.0, 9.0], [True, True], [2, 1], 15, "no comparable pair"),
    "beyond the follow-up": (TRAINED, [21.0, 22.0], [True, False], [2, 1], 30, "a time beyond the follow-up"),
    "censored beyond the follow-up": (TRAINED, [9.0, 99.0], [True, False], [2, 1], 30, 1.0),
    "all die, in reverse": (TRAINED, LATE, [True] * 3, [1, 2, 3], 15, 0.0),
    "a death that weighs more": (TRAINED, [6.0, 9.0, 11.0], [True, True, False], [1, 3, 2], 15, 2.25 / 4.25),
    "huge risks": (TRAINED, LATE, [True] * 3, [1e300, -1e300, 0], 15, 2 / 3),
    "censored before all deaths": (TRAINED, [8.5, 9.0, 9.0], [False, True, True], [3, 2, 1], 15, "no comparable pair"),
    "a single case": (TRAINED, [9.0], [True], [2], 15, "no comparable pair"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_of_unos_c(name):
    (training, died), time, event, risk, tau, expected = EDGES[name]
    G = censoring_survival(np.array(training), np.array(died))
    found = uno_concordance(np.array(risk, float), np.array(time), np.array(event), G, float(tau))
    if isinstance(expected, float):
        assert found.value == pytest.approx(expected, abs=EXACT) and not found.reason
        seen = Surv.from_arrays(np.array(died), np.array(training))
        if any(died) and max(t for t, dead in zip(time, event, strict=True) if dead) < max(training):
            oracle = concordance_index_ipcw(seen, Surv.from_arrays(event, time), risk, tau=tau)[0]
            assert oracle == pytest.approx(expected, abs=EXACT)
    else:
        assert np.isnan(found.value) and found.reason.startswith(expected)


def test_edge_cases_of_the_other_metrics():
    training, died = np.array(TRAINED[0]), np.array(TRAINED[1])
    G, never = censoring_survival(training, died), np.zeros(3, bool)
    time, risk, one = np.array(LATE), np.array([3.0, 2.0, 1.0]), np.array([True, False, False])
    assert dynamic_auc(risk, time, never, G, 9.5).reason == "no case died by this time"
    assert dynamic_auc(risk, time, one, G, 11.0).reason == "no case was observed longer"
    assert dynamic_auc(risk, time, one, G, 9.0) == Score(1.0)
    certain = np.array([[0.0], [1.0], [1.0]])
    assert brier_scores(certain, time, one, G, np.array([9.5])).tolist() == [0.0]
    assert integrated_brier_score(certain, time, one, G, np.array([9.5])).reason == "fewer than two times"
    late = integrated_brier_score(np.ones((3, 2)), time + 50, one, G, np.array([59.0, 60.5]))
    assert np.isnan(late.value) and late.reason == "a time beyond the follow-up of the training cases"
    assert gain(Score(0.1), Score(0.2)) == Score(0.5) and gain(Score(0.1), Score(0.0)).reason
    assert gain(late, Score(0.2)).reason == late.reason
    assert restricted_mean(np.array([2.0, 4.0]), np.array([True, True]), 6.0)[0] == 3.0
    assert np.isnan(restricted_mean(np.array([2.0, 4.0]), np.array([True, False]), 6.0)[0])
    assert np.isnan(restricted_mean_difference(time, one, never, 9.0).estimate), "one group"


def test_restricted_mean_difference_by_hand():
    """Low-risk cases die at 4 and 8, high-risk ones at 2 and 4: 6 months minus 3, up to month 8."""
    time, high = np.array([4.0, 8.0, 2.0, 4.0]), np.array([False, False, True, True])
    found = restricted_mean_difference(time, np.ones(4, bool), high, 8.0)
    assert found.estimate == 3.0
    # variances: area beyond the first death squared times d / (n (n - d)): (4 * 0.5)^2 / 2 = 2, and (2 * 0.5)^2 / 2
    assert found.high - found.estimate == pytest.approx(1.959963984540054 * np.sqrt(2 + 0.5))
