import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survq.models import Prediction
from survq.models.losses import nll_by_case, nll_survival_loss

ALPHAS = (0.0, 0.15, 0.4, 0.5)
# logits, interval, event, loss for each alpha, risk; double precision, from independent code that clamps probabilities
GOLDEN = [
    ([0, 0, 0, 0], 0, True, (0.69314718,) * 4, -0.9375),
    ([0, 0, 0, 0], 2, False, (2.07944154, 1.76752531, 1.24766493, 1.03972077), -0.9375),
    ([-2, -1, 0.5, 1.5], 1, True, (1.44018970,) * 4, -1.81216350),
    ([-2, -1, 0.5, 1.5], 3, False, (3.11567996, 2.64832797, 1.86940798, 1.55783998), -1.81216350),
    ([3, -3, 2, -2], 3, True, (7.35103073,) * 4, -0.10273098),
    # clamped code says 16.43135734, its gradient gone
    ([40, -40, 1, 2], 2, True, (40.31326169,) * 4, 0.0),
]


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


def one(logits, interval, event, alpha=0.0):
    return float(nll_by_case(doubles([logits]), torch.tensor([interval]), torch.tensor([event]), alpha))


@pytest.mark.parametrize("row", GOLDEN)
def test_golden(row):
    logits, interval, event, losses, risk = row
    assert [one(logits, interval, event, alpha) for alpha in ALPHAS] == pytest.approx(losses, abs=5e-9)
    assert float(Prediction(doubles([logits])).risk) == pytest.approx(risk, abs=5e-9)


@pytest.mark.parametrize(
    ("alpha", "mean"), [(0.0, 5.18514107), (0.15, 5.05526304), (0.4, 4.83879964), (0.5, 4.75221428)]
)
def test_the_loss_is_the_mean_over_cases(alpha, mean):
    """The means were taken with the clamped value of the last case."""
    logits, intervals, events = (list(column) for column in zip(*(row[:3] for row in GOLDEN), strict=True))
    loss = nll_survival_loss(doubles(logits), torch.tensor(intervals), torch.tensor(events), alpha)
    assert float(loss) == pytest.approx(mean + (40.31326169 - 16.43135734) / 6, abs=1e-8)


@pytest.mark.parametrize(
    ("interval", "event", "loss"),
    [(0, True, 2.302585), (1, True, 1.714798), (1, False, 0.328504), (3, False, 1.196005)],
)
def test_by_hand(interval, event, loss):
    """Hazards of 0.1, 0.2, 0.3 and 0.4."""
    hazards = np.array([0.1, 0.2, 0.3, 0.4])
    assert one(np.log(hazards / (1 - hazards)).tolist(), interval, event) == pytest.approx(loss, abs=5e-7)


def test_survival_by_hand():
    survival = Prediction(doubles([[-2, -1, 0.5, 1.5]])).survival
    assert survival[0].tolist() == pytest.approx([0.88079708, 0.64391426, 0.24310382, 0.04434834], abs=5e-9)


def test_of_one_case_a_death_costs_its_hazard_a_censoring_only_the_time_lived():
    """The paper's c = 1 is a censored case: event False. At a high hazard a death is cheap and a censoring dear."""
    assert one([5, 5, 5, 5], 0, True) < 0.01 < 5 < one([5, 5, 5, 5], 0, False)
    assert one([-5, -5, -5, -5], 0, False) < 0.01 < 5 < one([-5, -5, -5, -5], 0, True)


logits_of_a_case = st.lists(st.floats(-50, 50), min_size=2, max_size=8)
moderate_logits = st.lists(st.floats(-10, 10), min_size=2, max_size=8)  # no probability so small that sums lose it


@settings(max_examples=200, deadline=None)
@given(logits_of_a_case)
def test_all_that_can_happen_to_a_case_has_probability_one(logits):
    """It dies in one of the intervals, or it outlives the last."""
    deaths = [math.exp(-one(logits, interval, True)) for interval in range(len(logits))]
    outlives = math.exp(-one(logits, len(logits) - 1, False))
    assert sum(deaths) + outlives == pytest.approx(1, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(moderate_logits, st.data())
def test_agrees_with_the_formula(logits, data):
    """The paper's formula, its c = 1 - event."""
    interval, event = data.draw(st.integers(0, len(logits) - 1)), data.draw(st.booleans())
    hazard = 1 / (1 + np.exp(-np.array(logits)))
    survival = np.cumprod(1 - hazard)
    c, before = 1 - event, survival[interval - 1] if interval else 1.0
    expected = -c * np.log(survival[interval]) - (1 - c) * (np.log(before) + np.log(hazard[interval]))
    assert one(logits, interval, event) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(moderate_logits, st.data())
def test_what_makes_a_loss_smaller(logits, data):
    """A higher hazard before its interval is bad for any case, in it good for a death alone, after it all the same."""
    interval, more = data.draw(st.integers(0, len(logits) - 1)), data.draw(st.floats(0.1, 5))
    for k in range(len(logits)):
        raised = [logit + more * (k == position) for position, logit in enumerate(logits)]
        for event in (True, False):
            difference = one(raised, interval, event) - one(logits, interval, event)
            expected = 0 if k > interval else -1 if event and k == interval else 1
            assert np.sign(difference) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), min_size=1, max_size=6), st.data())
def test_finite_in_single_precision(rows, data):
    logits = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    interval = torch.tensor([data.draw(st.integers(0, 3)) for _ in rows])
    event = torch.tensor([data.draw(st.booleans()) for _ in rows])
    losses = nll_by_case(logits, interval, event)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert (losses >= 0).all()
    assert logits.grad.isfinite().all()


def test_a_hopeless_case_still_has_a_gradient():
    """Where clamped probabilities would leave it at rest."""
    logits = torch.tensor([[40.0, -40.0, 1.0, 2.0]], requires_grad=True)
    nll_survival_loss(logits, torch.tensor([2]), torch.tensor([True])).backward()
    assert float(logits.grad[0, 0]) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_gradients(alpha):
    torch.manual_seed(0)
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    interval, event = torch.tensor([0, 1, 2, 3, 3, 0]), torch.tensor([True, False, True, True, False, False])
    assert torch.autograd.gradcheck(lambda x: nll_survival_loss(x, interval, event, alpha), (logits,))
