"""Scaling of expression: values computed by hand; nothing is fitted on held-out cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from survq.data.expression import filled, minmax, minmax_as_survpath, training_means, zscore

TRAINING = np.array([[0.0, 2, -4], [6, 1, 0]])
HELD_OUT = np.array([[8.0, 0, -5]])


def test_minmax_by_hand():
    scale = minmax(TRAINING)
    np.testing.assert_allclose(scale(TRAINING), [[-0.2, 0.2, -1], [1, 0, -0.2]], atol=1e-7)
    np.testing.assert_allclose(scale(HELD_OUT), [[1.4, -0.2, -1.2]], atol=1e-7)


def test_minmax_as_survpath_by_hand():
    scale = minmax_as_survpath(TRAINING)
    np.testing.assert_allclose(scale(TRAINING), [[0, 0.2, -1], [1, 0, 0]], atol=1e-7)
    np.testing.assert_allclose(scale(HELD_OUT), [[1.4, 0, -1.2]], atol=1e-7)


def test_zscore_by_hand():
    scale = zscore(TRAINING)
    np.testing.assert_allclose(scale(TRAINING), [[-1, 1, -1], [1, -1, 1]], atol=1e-7)
    np.testing.assert_allclose(scale(HELD_OUT), [[5 / 3, -3, -1.5]], rtol=1e-6)


def test_a_gene_constant_in_training_becomes_zero():
    training = np.array([[1.0, 5], [1, 7]], dtype=np.float32)
    assert (zscore(training)(np.array([[9.0, 6]], dtype=np.float32))[:, 0] == 0).all()
    assert (minmax(np.full((2, 2), 3.0))(np.full((1, 2), 8.0)) == 0).all()


@pytest.mark.parametrize("scaling", [minmax, zscore])
@given(values=arrays(np.float32, (5, 4), elements=st.floats(-20, 20, width=32)))
def test_training_values_are_in_range_and_finite(scaling, values):
    scaled = scaling(values)(values)
    assert scaled.dtype == np.float32
    assert np.isfinite(scaled).all()
    if scaling is minmax:
        assert np.abs(scaled).max() <= 1 + 1e-5


def test_unknown_values_by_hand():
    nan = np.nan
    training = np.array([[1, nan, nan], [3, 5, nan]], np.float32)
    means = training_means(training)
    np.testing.assert_array_equal(means, np.array([2, 5, 3], np.float32))  # of an unknown gene: the mean of 1, 3 and 5
    np.testing.assert_array_equal(filled(training, means), np.array([[1, 5, 3], [3, 5, 3]], np.float32))
    whole = np.ones((2, 3), np.float32)
    assert filled(whole, means) is whole
