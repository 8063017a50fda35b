"""ELU and AlphaDropout in one step, against PyTorch's two."""

import math

import pytest
import torch
from torch.nn import functional as F

from survq.layers.alpha_dropout import elu_alpha_dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.6])
def test_each_value_is_one_of_the_two_that_pytorch_gives(p):
    x = torch.randn(300, 301, dtype=torch.float64)
    torch.manual_seed(0)
    ours, theirs = elu_alpha_dropout(x, p, training=True), F.alpha_dropout(F.elu(x), p, training=True)
    dropped = theirs.mode().values[0]
    ours_dropped, theirs_dropped = (torch.isclose(y, dropped, rtol=1e-4, atol=1e-4) for y in (ours, theirs))
    for share in (ours_dropped, theirs_dropped):
        assert share.double().mean() == pytest.approx(p, abs=4 * (p * (1 - p) / x.numel()) ** 0.5)
    both = ~ours_dropped & ~theirs_dropped
    assert torch.allclose(ours[both], theirs[both], atol=1e-4)  # p is rounded


def test_mean_and_variance_are_kept():
    x = torch.tensor([2.0] + 4 * [-math.log(2)]).repeat(200_000)  # elu(x) is 2 or -1/2, with mean 0 and variance 1
    y = elu_alpha_dropout(x, 0.25, training=True)
    assert float(y.mean()) == pytest.approx(0, abs=0.005)
    assert float(y.var()) == pytest.approx(1, abs=0.01)


def test_the_gradient_is_that_of_the_values():
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)

    def same_draws(x):
        torch.manual_seed(1)
        return elu_alpha_dropout(x, 0.3, training=True)

    assert torch.autograd.gradcheck(same_draws, x)


def test_nothing_is_dropped_at_evaluation_or_with_p_0():
    x = torch.randn(50)
    assert torch.equal(elu_alpha_dropout(x, 0.3, training=False), F.elu(x))
    assert torch.equal(elu_alpha_dropout(x, 0.0, training=True), F.elu(x))


def test_neighbours_are_dropped_independently():
    """Four of them share a random word."""
    dropped = (elu_alpha_dropout(torch.ones(400_000), 0.25, training=True) < 0).double().view(-1, 4)
    assert torch.allclose(torch.corrcoef(dropped.T), torch.eye(4, dtype=torch.float64), atol=0.02)
    assert dropped.mean(dim=0).tolist() == pytest.approx([0.25] * 4, abs=0.01)
