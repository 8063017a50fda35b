import math

import pytest
import torch
from torch.nn import functional as F

from survq.layers.token_encoder import TokenEncoder


def layer_by_hand(layer, X):
    """norm(X + attention), norm(X + FFN) for the tokens of one case."""
    attention, width = layer.self_attn, X.shape[1]
    q, k, v = (X @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    heads = []
    for q_h, k_h, v_h in zip(*(t.chunk(attention.num_heads, dim=1) for t in (q, k, v)), strict=True):
        heads.append((q_h @ k_h.T / math.sqrt(width / attention.num_heads)).softmax(dim=1) @ v_h)
    X = layer.norm1(X + attention.out_proj(torch.cat(heads, dim=1)))
    return layer.norm2(X + layer.linear2(F.relu(layer.linear1(X))))


@torch.no_grad()
def test_the_equations():
    torch.manual_seed(0)
    encoder, tokens = TokenEncoder(16, heads=4).eval(), torch.randn(3, 6, 16)
    for x, found in zip(tokens, encoder(tokens), strict=True):
        for layer in encoder.layers:
            x = layer_by_hand(layer, x)
        a = torch.stack([encoder.pool(row) for row in x]).softmax(dim=0)
        assert torch.allclose(found, a @ x, atol=1e-5)


def test_parameters_as_in_the_sheet():
    encoder = TokenEncoder(256)
    assert sum(p.numel() for p in encoder.layers.parameters()) == 1_054_208
    assert sum(p.numel() for p in encoder.pool.parameters()) == 131_841
    first, second = (next(layer.parameters()) for layer in encoder.layers)
    assert not torch.equal(first, second)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        TokenEncoder(16, heads=3)
