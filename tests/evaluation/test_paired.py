import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from survq.evaluation.paired import EQUAL, corrected_t_test, holm


def cdf_of_t4(t: float) -> float:
    """Student's t with four degrees of freedom, in closed form."""
    share = t**2 / (1 + t**2 / 4)
    return 0.5 + 3 / 8 * t / math.sqrt(1 + t**2 / 4) * (1 - share / 12)


def test_a_worked_example():
    """s^2 = 0.00025, and 0.00025 (1 / 5 + 20 / 80) has the square root 0.010607; t = 0.03 / 0.010607 = 2.828."""
    test = corrected_t_test(np.array([0.02, 0.04, 0.03, 0.01, 0.05]), held_out=20.0, training=80.0)
    error = math.sqrt(0.00025 * 0.45)
    assert (test.difference, test.folds, test.reason) == (pytest.approx(0.03), 5, "")
    assert (
        test.p_value == pytest.approx(2 * (1 - cdf_of_t4(0.03 / error)), abs=1e-12) == pytest.approx(0.04742, abs=1e-5)
    )
    assert test.better == pytest.approx(1 - cdf_of_t4((EQUAL - 0.03) / error), abs=1e-12)
    assert test.worse == pytest.approx(cdf_of_t4((-EQUAL - 0.03) / error), abs=1e-12)
    assert test.better + test.equal + test.worse == pytest.approx(1)


def test_without_held_out_cases_it_is_the_plain_t_test():
    values = np.random.default_rng(0).normal(0.01, 0.03, 10)
    assert corrected_t_test(values, 0.0, 80.0).p_value == pytest.approx(ttest_1samp(values, 0).pvalue)


def test_equal_methods_are_rejected_as_often_as_stated():
    """25 differences that share a fifth of their variance, as those of five repeats of five folds."""
    random = np.random.default_rng(1)
    shared, own = random.normal(size=(2000, 1)), random.normal(size=(2000, 25))
    drawn = 0.02 * (math.sqrt(0.2) * shared + math.sqrt(0.8) * own)
    corrected = np.mean([corrected_t_test(values, 20.0, 80.0).p_value < 0.05 for values in drawn])
    assert 0.03 < corrected < 0.07
    assert (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() > 0.3, "the plain test on repeated folds"


def test_exchanging_the_methods_exchanges_the_probabilities():
    values = np.random.default_rng(2).normal(0.01, 0.03, 5)
    one, other = corrected_t_test(values, 20.0, 80.0), corrected_t_test(-values, 20.0, 80.0)
    assert (one.difference, one.better) == (-other.difference, pytest.approx(other.worse))
    assert one.p_value == pytest.approx(other.p_value)


@pytest.mark.parametrize(("value", "p", "equal"), [(0.0, 1.0, 1.0), (0.005, 0.0, 1.0), (0.05, 0.0, 0.0)])
def test_the_same_difference_in_all_folds_is_certain(value, p, equal):
    test = corrected_t_test(np.full(5, value), 20.0, 80.0)
    assert (test.p_value, test.equal) == (p, equal)


@pytest.mark.parametrize("values", [[], [math.nan], [0.1], [0.1, math.nan]])
def test_one_fold_is_no_test(values):
    test = corrected_t_test(np.array(values), 20.0, 80.0)
    assert math.isnan(test.p_value) and math.isnan(test.equal)
    assert test.reason == "fewer than two folds" and test.folds == np.isfinite(values).sum()


def test_holm_is_as_in_his_example():
    """0.01 x 4, then the largest so far and 0.03 x 2, 0.02 x 3, 0.04 x 1."""
    assert holm([0.01, 0.04, 0.03, 0.02]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    first, missing, last = holm([0.01, math.nan, 0.02])
    assert (first, last) == (0.02, 0.02) and math.isnan(missing)
