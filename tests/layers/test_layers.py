import math

import pytest
import torch
from small_models import modules_of
from torch import nn
from torch.nn import functional as F

from survq.layers.attention import Attention, ResidualAttention
from survq.layers.bags import pack
from survq.layers.pathway_encoder import PathwayEncoder


def identity(attention: Attention) -> Attention:
    for linear in (attention.query, attention.key, attention.value):
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
    return attention.double()


def test_attention_by_hand():
    """Two queries, three tokens, identity projections; then self-attention with one token more."""
    attention = identity(Attention(2))
    X = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    read, weights = attention(torch.eye(2, dtype=torch.float64), X)
    assert weights[0].tolist() == pytest.approx([0.40111209, 0.19777581, 0.40111209], abs=1e-8)
    assert weights[1].tolist() == pytest.approx([0.19777581, 0.40111209, 0.40111209], abs=1e-8)
    assert read.flatten().tolist() == pytest.approx([0.80222419, 0.59888791, 0.59888791, 0.80222419], abs=1e-8)

    M = torch.cat([read, torch.tensor([[2.0, 0.0]], dtype=torch.float64)])
    fused, _ = attention(M, M)
    expected = [1.26942303, 0.39348305, 1.17794592, 0.44361847, 1.68727613, 0.16696719]
    assert fused.flatten().tolist() == pytest.approx(expected, abs=1e-8)
    assert fused.mean(dim=0).tolist() == pytest.approx([1.37821503, 0.33468957], abs=1e-8)


def test_attention_equals_torch():
    torch.manual_seed(0)
    attention, Q, X = Attention(8), torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    present = torch.rand(3, 6) > 0.4
    present[:, 0] = True
    expected = F.scaled_dot_product_attention(
        attention.query(Q), attention.key(X), attention.value(X), attn_mask=present[:, None, :]
    )
    read, weights = attention(Q, X, present)
    assert torch.allclose(read, expected, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 5), atol=1e-6)
    assert (weights.transpose(1, 2)[~present] == 0).all()


def test_a_zero_query_gives_mean_pooling():
    torch.manual_seed(0)
    attention, X = Attention(8), torch.randn(11, 8)
    nn.init.zeros_(attention.query.weight)
    nn.init.zeros_(attention.query.bias)
    read, weights = attention(torch.randn(1, 8), X)
    assert torch.allclose(read[0], attention.value(X).mean(dim=0), atol=1e-6)
    assert torch.allclose(weights, torch.full((1, 11), 1 / 11))


@pytest.mark.parametrize("kind", [Attention, ResidualAttention])
def test_ragged_bags_equal_single_bags(kind):
    torch.manual_seed(0)
    attention, Q, sizes = kind(8), torch.randn(3, 8), [4, 1, 7]
    X = torch.randn(sum(sizes), 8)
    together = attention.over_bags(Q, X, sizes)
    for (read, weights), bag in zip(together, X.split(sizes), strict=True):
        alone, its_weights = attention(Q[None], bag[None])
        assert torch.allclose(read, alone[0], atol=1e-6)
        assert torch.allclose(weights, its_weights[0], atol=1e-6)


@pytest.mark.parametrize("heads", [1, 4])
def test_residual_attention_equals_torch(heads):
    """Q + MultiheadAttention(norm(Q), norm(X)), with some tokens absent."""
    torch.manual_seed(0)
    layer, Q, X = ResidualAttention(8, heads), torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    for norm in (layer.norm_query, layer.norm_token):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    present = torch.rand(3, 6) > 0.4
    present[:, 0] = True
    oracle = nn.MultiheadAttention(8, heads, batch_first=True)
    linears = (layer.attention.query, layer.attention.key, layer.attention.value)
    oracle.load_state_dict(
        {
            "in_proj_weight": torch.cat([linear.weight for linear in linears]),
            "in_proj_bias": torch.cat([linear.bias for linear in linears]),
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    X_normed = layer.norm_token(X)
    expected, expected_weights = oracle(layer.norm_query(Q), X_normed, X_normed, key_padding_mask=~present)
    mixed, weights = layer(Q, X, present)
    assert torch.allclose(mixed, Q + expected, atol=1e-5)
    assert torch.allclose(weights, expected_weights, atol=1e-6)


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_must_divide_the_width(heads):
    with pytest.raises(ValueError, match=f"{heads} heads do not divide a width of 8"):
        ResidualAttention(8, heads)


def test_gradients_of_attention():
    torch.manual_seed(0)
    attention = Attention(3).double()
    Q, X = (torch.randn(size, 3, dtype=torch.float64, requires_grad=True) for size in (2, 4))
    assert torch.autograd.gradcheck(lambda Q, X: attention(Q, X)[0], (Q, X))


PATHWAYS = ((4, 1, 0), (3,), (5, 6), (6, 7, 8), (9, 1), (2,), (8, 0, 3, 5))


def test_batched_pathways_equal_single_pathways():
    torch.manual_seed(0)
    encoder, expression = PathwayEncoder(PATHWAYS, width=8).eval(), torch.randn(5, 10)
    one_by_one = [
        module.eval()(expression[:, list(genes)])
        for module, genes in zip(modules_of(encoder, PATHWAYS), PATHWAYS, strict=True)
    ]
    assert torch.allclose(encoder(expression), torch.stack(one_by_one, dim=1), atol=1e-6)


def test_331_batched_pathways_equal_single_pathways(pathway_sizes):
    torch.manual_seed(0)
    genes = torch.randperm(4999)
    pathways = [genes[torch.randperm(4999)[:size]].tolist() for size in pathway_sizes]
    order = torch.randperm(len(pathways)).tolist()
    pathways = [pathways[number] for number in order]  # sizes not sorted
    encoder, expression = PathwayEncoder(pathways, width=4).eval(), torch.rand(3, 4999)
    modules = modules_of(encoder, pathways)
    one_by_one = [module.eval()(expression[:, genes]) for module, genes in zip(modules, pathways, strict=True)]
    assert torch.allclose(encoder(expression), torch.stack(one_by_one, dim=1), atol=1e-6)


def test_each_pathway_is_initialised_like_a_separate_module():
    """nn.Linear draws weights and biases from +- 1 / sqrt(its number of inputs)."""
    torch.manual_seed(0)
    pathways = [tuple(range(size)) for size in (100, 1, 16, 4, 1, 16)]
    width = 64
    for module, genes in zip(modules_of(PathwayEncoder(pathways, width), pathways), pathways, strict=True):
        for linear, fan_in in ((module[0], len(genes)), (module[3], width)):
            bound = 1 / math.sqrt(fan_in)
            for values in (linear.weight, linear.bias):
                assert values.abs().max() <= bound
                assert values.abs().max() > 0.85 * bound
                assert float(values.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.35)


def test_pathway_dropout_is_active_only_in_training():
    torch.manual_seed(0)
    encoder, expression = PathwayEncoder(PATHWAYS, width=64, dropout=0.5), torch.randn(200, 10)
    noisy, plain = encoder(expression), encoder.eval()(expression)
    assert not torch.allclose(noisy, plain)
    # alpha dropout sets values to a constant below all others; count them
    floor = noisy.min()
    assert float((noisy - floor).abs().lt(1e-5).float().mean()) == pytest.approx(0.5, abs=0.02)
    without = PathwayEncoder(PATHWAYS, width=64, dropout=0.0)
    assert torch.equal(without(expression), without.eval()(expression))


def test_gradients_of_the_pathway_encoder():
    torch.manual_seed(0)
    encoder = PathwayEncoder(((0, 1), (2,), (1, 2)), width=3).double().eval()
    expression = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encoder, (expression,))


def test_a_pathway_depends_only_on_its_genes():
    torch.manual_seed(0)
    encoder = PathwayEncoder(PATHWAYS, width=8).eval()
    expression = torch.randn(1, 10, requires_grad=True)
    for number, genes in enumerate(PATHWAYS):
        (gradient,) = torch.autograd.grad(encoder(expression)[0, number].sum(), expression)
        assert set(gradient[0].nonzero().flatten().tolist()) == set(genes)


def test_pack_concatenates_small_bags_and_keeps_large_ones_single():
    sizes = [3, 0, 5, 12, 4, 4, 4, 0, 1]
    bags = [torch.arange(size)[:, None] + 100 * number for number, size in enumerate(sizes)]
    packed = list(pack(bags, patches=10))
    assert [members for members, _, _ in packed] == [[0, 2], [3], [4, 5], [6, 8]]
    for members, patches, its_sizes in packed:
        assert its_sizes == [sizes[member] for member in members]
        for bag, member in zip(patches.split(its_sizes), members, strict=True):
            assert torch.equal(bag, bags[member])


def test_pack_does_not_copy_a_large_bag():
    bag = torch.zeros(12, 1)
    ((_, patches, _),) = pack([torch.zeros(0, 1), bag], patches=10)
    assert patches.data_ptr() == bag.data_ptr()


def test_pack_of_nothing():
    assert list(pack([])) == []
    assert list(pack([torch.zeros(0, 1)])) == []


@pytest.mark.parametrize(("dtype", "error"), [(torch.double, 1e-12), (torch.float, 2e-5)])
@pytest.mark.parametrize("spread", [1.0, 10.0, 60.0])
def test_attention_pooled_over_subsets_is_that_of_each_subset_alone(spread, dtype, error):
    """Also where the scores within a subset lie hundreds below those of other tokens."""
    torch.manual_seed(0)
    layer, M = ResidualAttention(8, heads=2).to(dtype), torch.randn(3, 6, 8, dtype=dtype)
    with torch.no_grad():
        layer.attention.key.weight *= spread
        subsets = torch.rand(10, 6) > 0.5
        subsets[:, :2] = True
        present = torch.ones(3, 6, dtype=torch.bool)
        present[1, 2:4], present[2, 0] = False, False
        for chosen in (None, present):
            pooled = layer.pooled_over(M, subsets, chosen)
            for position, own in enumerate(subsets):
                alone = layer.pooled(M[:, own], None if chosen is None else chosen[:, own])
                assert torch.allclose(pooled[:, position], alone, atol=error)
