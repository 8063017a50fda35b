from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch, modules_of
from torch import nn

from survq.data.cohort import InputSpec
from survq.models.mcat import MCAT

SIZES = (53, 173, 216, 252, 387, 200)  # of the six groups among the genes of the pathways
GROUPS = SPEC.gene_sets["six_groups"]


@torch.no_grad()
def test_the_equations():
    """A case at a time; the co-attention as torch has it, with keys and values of all patches."""
    model, batch = build("mcat").eval(), make_batch()
    reference = nn.MultiheadAttention(16, 1)
    attention = model.co_attention
    projections = (attention.query, attention.key, attention.value)
    reference.in_proj_weight.copy_(torch.cat([linear.weight for linear in projections]))
    reference.in_proj_bias.copy_(torch.cat([linear.bias for linear in projections]))
    reference.out_proj.load_state_dict(model.co_attention_output.state_dict())

    prediction = model(batch, keep_attention=True)
    modules = [module.eval() for module in modules_of(model.encode_groups, GROUPS)]
    for number, (bag, x) in enumerate(zip(batch.bags, batch.expression, strict=True)):
        H = model.encode_patches(bag.float())
        G = torch.stack([module(x[list(genes)]) for module, genes in zip(modules, GROUPS, strict=True)])
        H_G, A = reference(G, H, H)
        assert torch.allclose(prediction.attention.histology[number], A, atol=1e-6)
        h, g = model.histology(H_G[None]), model.genomics(G[None])
        logits = model.hazard(model.fuse(torch.cat([h, g], dim=1)))
        assert torch.allclose(prediction.logits[number], logits[0], atol=1e-5)


@pytest.mark.parametrize(("sizes", "parameters"), [(SIZES, 3_951_622), (None, 27_584_006)], ids=["groups", "pathways"])
def test_parameters(sizes, parameters, pathway_sizes):
    """As the sheet of check figures has them, also with pathways in the place of groups."""
    groups = tuple(tuple(range(size)) for size in sizes or pathway_sizes)
    model = MCAT(InputSpec(1024, 4999, {"six_groups": groups}))
    assert sum(p.numel() for p in model.parameters()) == parameters
    if sizes:
        count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
        assert count["co_attention"] + count["co_attention_output"] == 263_168
        assert (count["encode_patches"], count["encode_groups"], count["hazard"]) == (262_400, 724_224, 1_028)


def test_every_parameter_matters():
    """But the biases of keys and of the pooling, which shift all scores alike."""
    model, batch = build("mcat", dropout=0.0).double(), make_batch()
    batch = replace(batch, expression=batch.expression.double())
    loss_of(model(batch), batch).backward()
    weak = {name for name, p in model.named_parameters() if float(p.grad.abs().max()) < 1e-12}
    assert weak == {"co_attention.key.bias", "histology.0.pool.w.bias", "genomics.0.pool.w.bias"}


def test_it_attends_to_all_that_is_there():
    kept = build("mcat").eval()(make_batch((7, 1, 5000)), keep_attention=True).attention
    assert [tuple(A.shape) for A in kept.histology] == [(6, 7), (6, 1), (6, 5000)]
    assert all(torch.allclose(A.sum(dim=1), torch.ones(6)) for A in kept.histology)


def test_dropout_is_in_training_alone():
    batch, quiet, model = make_batch(), build("mcat", dropout=0.0), build("mcat")
    assert torch.allclose(quiet.train()(batch).logits, quiet.eval()(batch).logits, atol=1e-6)
    assert not torch.allclose(model.train()(batch).logits, model.eval()(batch).logits)
