import math
from dataclasses import replace

import torch
from small_models import SPEC, build, make_batch, modules_of
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.survpath import SurvPath


def softmax_over(query, keys, values):
    scores = torch.stack([query @ key for key in keys]) / math.sqrt(len(query))
    return sum(a * value for a, value in zip(scores.softmax(dim=0), values, strict=True))


def read(model: SurvPath, x, bag):
    """The logits of one case, a token at a time."""
    modules = [module.eval() for module in modules_of(model.encode_pathways, SPEC.pathways)]
    P = [module(x[list(genes)]) for module, genes in zip(modules, SPEC.pathways, strict=True)]
    H = [model.encode_patches(patch.float()) for patch in bag]
    Q, K, V = zip(*(model.query_key_value(model.norm(token)).chunk(3) for token in [*P, *H]), strict=True)
    m = len(P)
    read_tokens = [softmax_over(q, K, V) for q in Q[:m]] + [softmax_over(q, K[:m], V[:m]) for q in Q[m:]]
    norm, first, _, _, second, norm_after = model.feed_forward
    tokens = [norm_after(second(F.gelu(first(norm(token))))) for token in read_tokens]
    z = torch.cat([sum(tokens[:m]) / m, sum(tokens[m:]) / len(H)])
    return model.hazard(z)


@torch.no_grad()
def test_the_equations():
    model, batch = build("survpath").eval(), make_batch()
    for x, bag, logits in zip(batch.expression, batch.bags, model(batch).logits, strict=True):
        assert torch.allclose(logits, read(model, x, bag), atol=1e-5)


def test_parameters(pathway_sizes):
    """As the sheet counts them."""
    sets = tuple(tuple(range(size)) for size in pathway_sizes)
    model = SurvPath(InputSpec(1024, 4999, {"pathways": sets}))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    attention = count.pop("norm") + count.pop("query_key_value")
    assert attention == 98_816
    assert count == {
        "encode_patches": 262_400,
        "encode_pathways": 24_356_608,
        "feed_forward": 33_280 + 256,
        "hazard": 16_708,
    }
    assert sum(p.numel() for p in model.parameters()) == 24_768_068


@torch.no_grad()
def test_attention_of_pathways_is_a_share_of_patches_and_pathways():
    model, batch = build("survpath").eval(), make_batch()
    maps = model(batch, keep_attention=True).attention
    assert maps.genomics.shape == (4, 6, 6)
    for number, bag in enumerate(batch.bags):
        patches, pathways = maps.histology[number], maps.genomics[number]
        assert patches.shape == (6, len(bag))
        assert torch.allclose(patches.sum(dim=1) + pathways.sum(dim=1), torch.ones(6), atol=1e-6)


@torch.no_grad()
def test_a_batch_has_genes_of_its_own_for_each_case():
    """In the authors' code all cases have those of the first."""
    model, batch = build("survpath").eval(), make_batch((3, 3))
    same_bag = replace(batch, bags=(batch.bags[0],) * 2)
    assert (model(same_bag).logits[0] - model(same_bag).logits[1]).abs().max() > 1e-4


@torch.no_grad()
def test_patches_and_pathways_share_one_softmax():
    """With keys that are all alike, a pathway reads every patch and every pathway to the same part."""
    model, batch = build("survpath").eval(), make_batch((4,))
    model.query_key_value.weight[8:16] = 0  # keys
    one = model(batch, keep_attention=True).attention
    two = model(replace(batch, bags=(batch.bags[0].repeat(2, 1),)), keep_attention=True).attention
    assert torch.allclose(one.histology[0], torch.full((6, 4), 1 / 10))
    assert torch.allclose(two.histology[0], torch.full((6, 8), 1 / 14))
