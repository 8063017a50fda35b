"""Calibration of hazards: by hand, and of true and of sharpened hazards in simulated cohorts."""

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from survq.evaluation.brier import gain, integrated_brier_score
from survq.evaluation.censoring import censoring_survival, kaplan_meier
from survq.evaluation.d_calibration import d_calibration, spread_masses, survival_bounds
from survq.evaluation.one_calibration import one_calibration, survival_at
from survq.evaluation.predicted_survival import interpolated_survival, stepwise_survival, survival_at_edges
from survq.simulation.cohort import MEDIAN_MONTHS, WEIBULL_SHAPE, time_of_death

EDGES = np.array([10.0, 20.0, 40.0])
HAZARDS = np.array([[0.5, 0.5, 0.2, 0.9]])  # survival at the edges: 0.5, 0.25, 0.2


def test_survival_from_hazards():
    at_edges = survival_at_edges(HAZARDS)
    assert at_edges.tolist() == [[0.5, 0.25, 0.2]]
    steps = stepwise_survival(at_edges, EDGES, np.array([0.0, 9.9, 10.0, 39.0, 40.0, 999.0]))
    assert steps.tolist() == [[1.0, 1.0, 0.5, 0.25, 0.2, 0.2]]
    for time, expected in [(0, 1), (5, 0.5**0.5), (10, 0.5), (15, 0.125**0.5), (40, 0.2), (90, 0.2)]:
        assert interpolated_survival(at_edges, EDGES, float(time))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("time", "event", "bounds"),
    [
        (3, True, (0.5, 1)),
        (10, True, (0.25, 0.5)),
        (39, True, (0.2, 0.25)),
        (40, True, (0, 0.2)),  # in the open interval: observed until the last edge
        (5, False, (0, 0.5**0.5)),
        (99, False, (0, 0.2)),
    ],
)
def test_bounds_of_the_survival_at_death(time, event, bounds):
    low, high = survival_bounds(HAZARDS, EDGES, np.array([float(time)]), np.array([event]))
    assert (low[0], high[0]) == pytest.approx(bounds)


def test_masses():
    low, high = np.array([0.5, 0.0, 0.3, 0.0]), np.array([1.0, 0.2, 0.3, 0.0])
    expected = [[0, 0, 0.2, 0.4, 0.4], [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert spread_masses(low, high, 5) == pytest.approx(np.array(expected))


def test_without_spread_the_statistic_is_pearsons():
    """Of counts 70, 50, 60, 60, 60: Pearson's sum of (count - 60)^2 / 60, up to the estimated variance."""
    masses = np.eye(5)[np.repeat(np.arange(5), [70, 50, 60, 60, 60])]
    pearson = 200 / 60
    found = d_calibration(masses)
    assert found.statistic == pytest.approx(pearson, rel=0.02)
    assert found.p_value == pytest.approx(chi2.sf(pearson, 4), rel=0.05)
    assert d_calibration(masses[:70]).p_value < 1e-12, "all in one bin"


def test_undefined_calibration_has_a_reason():
    everything = np.full((9, 5), 0.2)
    assert np.isnan(d_calibration(everything).p_value) and d_calibration(everything).reason
    survival, time = np.full(4, 0.5), np.array([1.0, 2.0, 3.0, 4.0])
    assert one_calibration(survival, time, np.zeros(4, bool), 2.0).reason == "no case died by this time"
    assert one_calibration(survival, time, np.ones(4, bool), 9.0).reason == "no case was observed until this time"
    assert one_calibration(np.ones(4), time, np.ones(4, bool), 2.0).reason == "predictions of 0 or 1"


def test_one_calibration_by_hand():
    """One group of four cases, of which two died by month 2; predicted survival 0.75: 4 (0.5 - 0.75)^2 / 0.1875."""
    found = one_calibration(np.full(4, 0.75), np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4, bool), 2.0)
    assert (found.statistic, found.groups) == (pytest.approx(4 / 3), 1)
    assert found.p_value == pytest.approx(chi2.sf(4 / 3, 1))
    assert survival_at(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]), 1.5) == pytest.approx((2 / 3, 2 / 27))


def world(seed: int, cases: int = 300, sharpened: float = 1.0):
    """Hazards of a cohort whose log hazards are known; sharpened: computed from log hazards that are too large."""
    random = np.random.default_rng(seed)
    eta = 1.3 * random.normal(size=cases)
    death, end = time_of_death(eta, random), np.minimum(random.exponential(60, cases), 120)
    time, event = np.minimum(death, end), death <= end
    edges = np.quantile(time[event], [0.25, 0.5, 0.75])
    cumulative = np.log(2) * np.exp(sharpened * eta)[:, None] * (np.hstack([0, edges]) / MEDIAN_MONTHS) ** WEIBULL_SHAPE
    hazards = 1 - np.exp(-np.diff(cumulative, axis=1))
    return np.hstack([hazards, np.full((cases, 1), 0.5)]), edges, time, event


def p_values(**options) -> np.ndarray:
    """(100 worlds, 2): of D-calibration and of 1-calibration at the median time of death."""
    found = []
    for seed in range(100):
        hazards, edges, time, event = world(seed, **options)
        predicted = interpolated_survival(survival_at_edges(hazards), edges, float(edges[1]))
        d = d_calibration(spread_masses(*survival_bounds(hazards, edges, time, event)))
        found.append((d.p_value, one_calibration(predicted, time, event, float(edges[1])).p_value))
    return np.array(found)


def test_true_hazards_are_calibrated():
    d, one = p_values().T
    assert kstest(d, "uniform").pvalue > 0.01
    assert kstest(one, "uniform").pvalue > 0.01


def test_sharpened_hazards_are_found():
    d, one = p_values(sharpened=2.0).T
    assert (d < 0.05).sum() >= 95
    assert (one < 0.05).sum() >= 95


def test_true_hazards_beat_kaplan_meier():
    for seed in range(20):
        hazards, edges, time, event = world(seed)
        _, _, training, died = world(1000 + seed)
        G, at = censoring_survival(training, died), np.unique(time[time < np.quantile(training, 0.8)])
        mine = stepwise_survival(survival_at_edges(hazards), edges, at)
        reference = np.tile(kaplan_meier(training, died).at(edges), (len(time), 1))
        scores = [
            integrated_brier_score(survival, time, event, G, at)
            for survival in (mine, stepwise_survival(reference, edges, at))
        ]
        assert gain(*scores).value > 0.1
