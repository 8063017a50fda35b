import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2
from sksurv.compare import compare_survival
from sksurv.nonparametric import kaplan_meier_estimator

from survq.evaluation.kaplan_meier import log_rank, risk_groups, survival_curve


def table(case_id, fold, risk, time=None, event=None, repeat=0):
    n = len(case_id)
    return pd.DataFrame(
        {
            "case_id": list(case_id),
            "repeat": repeat,
            "fold": fold,
            "risk": np.array(risk, float),
            "time": np.arange(1.0, n + 1) if time is None else np.array(time, float),
            "event": True if event is None else np.array(event, bool),
        }
    )


def high_cases(groups):
    return "".join(groups.loc[groups["high"], "case_id"])


def test_groups_are_split_at_the_median_of_each_fold():
    # with one median over all folds, the high-risk group would be exactly fold 1
    predictions = table("abcdefgh", [0, 0, 0, 0, 1, 1, 1, 1], [1, 2, 3, 4, 11, 12, 13, 14])
    assert high_cases(risk_groups(predictions)) == "cdgh"


def test_the_median_case_of_an_odd_fold_is_low_risk():
    assert high_cases(risk_groups(table("abc", 0, [1, 2, 3]))) == "c"


def test_a_cut_fixed_beforehand_divides_each_fold_on_its_own():
    """Without looking at other held-out cases: also all of a fold may be on one side, and a risk at the cut is low."""
    predictions = table("abcdef", [0, 0, 0, 1, 1, 1], [1, 2, 3, 11, 12, 13])
    assert high_cases(risk_groups(predictions, {(0, 0): 2.0, (0, 1): 10.0})) == "cdef"
    with pytest.raises(KeyError):
        risk_groups(predictions, {(0, 0): 2.0})


def test_repeats_count_as_one_case():
    repeats = [table("abcd", 0, risk, repeat=i) for i, risk in enumerate([[1, 2, 3, 4], [1, 3, 2, 4], [4, 3, 2, 1]])]
    groups = risk_groups(pd.concat(repeats))
    assert groups["case_id"].tolist() == list("abcd")
    assert high_cases(groups) == "bd"  # high in 1, 2, 1 and 2 of the 3 repeats
    assert log_rank(groups) == log_rank(risk_groups(table("abcd", 0, [0, 1, 0, 1])))


@pytest.fixture
def cohort():
    rng = np.random.default_rng(5)
    n = 120
    risk = rng.normal(size=n)
    time = rng.exponential(30 * np.exp(-0.6 * risk)).round() + 1
    return table([f"c{i}" for i in range(n)], np.arange(n) % 5, risk, time, rng.random(n) < 0.6)


def test_log_rank_equals_the_textbook_formula(cohort):
    groups = risk_groups(cohort)
    time, event, high = (groups[name].to_numpy() for name in ("time", "event", "high"))
    difference = variance = 0.0
    for t in np.unique(time[event]):
        at_risk, died = time >= t, (time == t) & event
        n, n_high, d = at_risk.sum(), (at_risk & high).sum(), died.sum()
        difference += (died & high).sum() - d * n_high / n
        if n > 1:
            variance += d * n_high / n * (1 - n_high / n) * (n - d) / (n - 1)
    test = log_rank(groups)
    assert test.statistic == pytest.approx(difference**2 / variance)
    assert test.p_value == pytest.approx(chi2.sf(difference**2 / variance, 1))
    assert test.p_value < 0.01 and test.reason is None


def test_log_rank_equals_scikit_survival(cohort):
    groups = risk_groups(cohort)
    outcome = np.array(
        list(zip(groups["event"], groups["time"], strict=True)), dtype=[("event", bool), ("time", float)]
    )
    statistic, p_value = compare_survival(outcome, groups["high"].to_numpy())
    test = log_rank(groups)
    assert (test.statistic, test.p_value) == pytest.approx((statistic, p_value))


@pytest.mark.parametrize(
    ("predictions", "reason"),
    [
        (table("abcd", 0, [1, 1, 1, 1]), "one risk group"),
        (table("abcd", [0, 1, 2, 3], [1, 2, 3, 4]), "one risk group"),  # each case is its fold's median
        (table("abcd", 0, [1, 2, 3, 4], event=[0, 0, 0, 0]), "no events"),
        (table("abcd", 0, [1, 2, 3, 4], [5, 6, 1, 1], [1, 1, 0, 0]), "no event while both groups"),
    ],
)
def test_degenerate_groups_have_no_p_value_but_a_reason(predictions, reason):
    test = log_rank(risk_groups(predictions))
    assert np.isnan(test.p_value) and np.isnan(test.statistic)
    assert reason in test.reason


def test_survival_by_hand():
    # 5 at risk, 1 dies; 3 at risk after a censoring, 2 die; the last one is censored
    curve = survival_curve(np.array([2.0, 3, 4, 4, 9]), np.array([True, False, True, True, False]))
    assert curve["time"].tolist() == [0, 2, 3, 4, 9]
    assert curve["survival"].tolist() == pytest.approx([1, 4 / 5, 4 / 5, 4 / 15, 4 / 15])
    assert curve["censored"].tolist() == [0, 0, 1, 0, 1]
    assert (curve["low"] <= curve["survival"]).all() and (curve["survival"] <= curve["high"]).all()


def test_survival_and_its_interval_equal_scikit_survival(cohort):
    time, event = cohort["time"].to_numpy(), cohort["event"].to_numpy()
    curve = survival_curve(time, event).iloc[1:]
    at, survival, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log")
    assert curve["time"].tolist() == at.tolist()
    inside = survival > 0
    for name, expected in {"survival": survival, "low": low, "high": high}.items():
        np.testing.assert_allclose(curve[name].to_numpy()[inside], expected[inside], atol=1e-9)


def test_non_finite_risks_are_refused():
    with pytest.raises(ValueError, match="diverged"):
        risk_groups(table("ab", 0, [1, np.nan]))
