"""Gated attention and sums over ragged bags, against loops over bags and rows."""

import pytest
import torch
from torch import nn

from survq.layers.gated_attention import GatedAttention
from survq.layers.ragged import ragged_mean, ragged_softmax, ragged_sum, ragged_weighted_sum
from survq.layers.snn import SNNBlock

SIZES = [4, 1, 0, 7]


@pytest.fixture
def X():
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def attention():
    torch.manual_seed(0)
    return GatedAttention(6, 5).eval()


def test_ragged_sums_and_means(X):
    parts = [X[:4], X[4:5], X[5:5], X[5:]]
    for bag, part in enumerate(parts):
        assert torch.allclose(ragged_sum(X, SIZES)[bag], sum(part, torch.zeros(6)), atol=1e-6)
        mean = sum(part, torch.zeros(6)) / max(1, len(part))
        assert torch.allclose(ragged_mean(X, SIZES)[bag], mean, atol=1e-6)
    assert torch.allclose(ragged_sum(X[:, 0], SIZES), ragged_sum(X, SIZES)[:, 0], atol=1e-6)


def test_ragged_softmax(X):
    weights = ragged_softmax(X, SIZES)
    for start, stop in ((0, 4), (4, 5), (5, 12)):
        powers = X[start:stop].exp()
        assert torch.allclose(weights[start:stop], powers / powers.sum(dim=0), atol=1e-6)


def test_ragged_weighted_sum(X):
    weights = torch.rand(12, 3)
    pooled = ragged_weighted_sum(weights, X, SIZES)
    assert pooled.shape == (4, 3, 6)
    for bag, (start, stop) in enumerate(((0, 4), (4, 5), (5, 5), (5, 12))):
        for query in range(3):
            expected = sum((weights[row, query] * X[row] for row in range(start, stop)), torch.zeros(6))
            assert torch.allclose(pooled[bag, query], expected, atol=1e-6)


def plain(attention, X):
    """Weights and pooled rows of one bag."""
    V, U = attention.V[0], attention.U[0]
    scores = torch.stack([attention.w(torch.tanh(V(x)) * torch.sigmoid(U(x)))[0] for x in X])
    a = scores.exp() / scores.exp().sum()
    return sum(weight * x for weight, x in zip(a, X, strict=True)), a


@torch.no_grad()
def test_gated_attention_over_ragged_bags(attention, X):
    pooled, weights = attention.over_bags(X, SIZES)
    assert torch.equal(pooled[2], torch.zeros(6))
    for bag, (start, stop) in {0: (0, 4), 1: (4, 5), 3: (5, 12)}.items():
        expected, a = plain(attention, X[start:stop])
        assert torch.allclose(pooled[bag], expected, atol=1e-6)
        assert torch.allclose(weights[start:stop], a, atol=1e-6)


@torch.no_grad()
def test_gated_attention_over_tokens_that_are_present(attention, X):
    tokens = X.view(3, 4, 6)
    present = torch.tensor([[True] * 4, [False, True, False, True], [False, False, True, False]])
    pooled, weights = attention.over_tokens(tokens, present)
    for case in range(3):
        expected, a = plain(attention, tokens[case][present[case]])
        assert torch.allclose(pooled[case], expected, atol=1e-6)
        assert torch.allclose(weights[case][present[case]], a, atol=1e-6)
        assert (weights[case][~present[case]] == 0).all()
    everything, _ = attention.over_tokens(tokens)
    assert torch.allclose(everything[0], pooled[0], atol=1e-6)


def test_parameters_and_dropout_of_gated_attention():
    """As the sheet counts them."""
    assert sum(p.numel() for p in GatedAttention(256, 256).parameters()) == 131_841
    assert sum(p.numel() for p in GatedAttention(512, 256).parameters()) == 262_913
    torch.manual_seed(0)
    attention, X = GatedAttention(8, 4000, dropout=0.25), torch.randn(1, 8)
    dropped = [(branch(X) == 0).float().mean() for branch in (attention.V, attention.U)]
    assert [float(share) for share in dropped] == pytest.approx([0.25, 0.25], abs=0.03)


def test_snn_block():
    torch.manual_seed(0)
    block, x = SNNBlock(5, 4).eval(), torch.randn(3, 5)
    assert torch.allclose(block(x), nn.functional.elu(x @ block[0].weight.T + block[0].bias), atol=1e-6)
    assert not torch.equal(block.train()(x), block.eval()(x))
    assert block[2].p == 0.25
