import math

import pytest
import torch

from survq.layers.nystrom import NystromAttention, _by_landmarks, means_of_runs, pseudo_inverse


def plain(layer: NystromAttention, X):
    """softmax(Q K^T) V + conv(V), a head, a query and a neighbour at a time."""
    width, heads = X.shape[1], layer.heads
    q, k, v = (X @ W.T for W in layer.query_key_value.weight.chunk(3))
    out = []
    for head, (q_h, k_h, v_h) in enumerate(zip(*(t.chunk(heads, dim=1) for t in (q, k, v)), strict=True)):
        kernel = layer.convolve.weight[head, 0, :, 0]
        rows = []
        for i, query in enumerate(q_h):
            weights = torch.stack([query @ key / math.sqrt(width / heads) for key in k_h]).softmax(dim=0)
            row = sum(w * value for w, value in zip(weights, v_h, strict=True))
            for offset, factor in zip(range(-16, 17), kernel, strict=True):
                if 0 <= i + offset < len(X):
                    row = row + factor * v_h[i + offset]
            rows.append(row)
        out.append(torch.stack(rows))
    return layer.output[0](torch.cat(out, dim=1))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return NystromAttention(16, heads=4).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_up_to_as_many_tokens_as_landmarks_it_is_attention(layer, tokens):
    X = torch.randn(2, tokens, 16, dtype=torch.double)
    expected = torch.stack([plain(layer, x) for x in X])
    assert torch.allclose(layer(X), expected, atol=1e-10)


@torch.no_grad()
def test_ragged_bags(layer):
    """Of fewer tokens than landmarks, of as many and of more, in one call."""
    sizes = (3, 1, 20, 8, 9, 7000, 30, 5000)
    bags = torch.randn(sum(sizes), 16, dtype=torch.double).split(sizes)
    together = layer.over_bags(torch.cat(bags), sizes).split(sizes)
    for bag, found in zip(bags, together, strict=True):
        assert torch.allclose(found, layer(bag[None])[0], atol=1e-8)


@torch.no_grad()
def test_the_formula(layer):
    """21 tokens, 8 landmarks: five runs of three tokens, then three of two."""
    X = torch.randn(1, 21, 16, dtype=torch.double)
    q, k, v = (x.unflatten(1, (4, 4)).transpose(0, 1) for x in (X[0] @ layer.query_key_value.weight.T).chunk(3, dim=1))
    q = q / 2
    runs = [range(3 * i, 3 * i + 3) for i in range(5)] + [range(15 + 2 * i, 17 + 2 * i) for i in range(3)]
    q_l, k_l = (torch.stack([x[:, list(run)].mean(dim=1) for run in runs], dim=1) for x in (q, k))
    left, middle, right = ((a @ b.mT).softmax(dim=-1) for a, b in ((q, k_l), (q_l, k_l), (q_l, k)))
    read = left @ pseudo_inverse(middle) @ right @ v + layer.convolve(v)
    expected = layer.output(read.transpose(0, 1).flatten(1))
    assert torch.allclose(layer(X)[0], expected, atol=1e-10)
    assert torch.allclose(means_of_runs(q.transpose(0, 1), 8), q_l.transpose(0, 1))


@torch.no_grad()
def test_landmarks_that_are_all_tokens_make_no_difference(layer):
    X = torch.randn(1, 8, 16, dtype=torch.double)
    q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in layer.query_key_value(X).chunk(3, dim=-1))
    landmarks = torch.stack([q, k], dim=2).permute(0, 3, 2, 1, 4)
    read = _by_landmarks(q, k, v, landmarks, torch.ones(1, 1, 1, 8, dtype=torch.bool))
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(read, exact, atol=0.02)  # six iterations, and no more


def test_pseudo_inverse():
    torch.manual_seed(0)
    A = (3 * torch.randn(2, 6, 6, dtype=torch.double)).softmax(dim=-1)
    Z = pseudo_inverse(A)
    assert torch.allclose(A @ Z @ A, A, atol=0.02)
    assert torch.allclose(pseudo_inverse(A[:1]), Z[:1])


def test_memory_is_linear_and_every_parameter_matters():
    torch.manual_seed(0)
    layer = NystromAttention(16, heads=2)
    X = torch.randn(1, 30_000, 16)  # 30,000 tokens squared are 3.6 GB
    layer(X).square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in layer.parameters())


def test_under_autocast():
    torch.manual_seed(0)
    layer, X = NystromAttention(16, heads=2).eval(), torch.randn(1, 40, 16)
    with torch.no_grad():
        whole = layer(X)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.allclose(layer(X).float(), whole, atol=0.05)


def test_parameters_as_in_the_sheet():
    assert sum(p.numel() for p in NystromAttention(512).parameters()) == 1_049_352
    assert sum(p.numel() for p in NystromAttention(256).parameters()) == 262_664


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        NystromAttention(16, heads=3)
