import pytest
import torch
from small_models import SPEC, build, make_batch, take

from survq.data.cohort import InputSpec
from survq.models.mlp import MLP

SIZES = InputSpec(patch_features=0, genes=4999, gene_sets={})


@torch.no_grad()
def test_the_equations():
    model, batch = build("mlp", hidden=7).eval(), make_batch()
    (W_1, b_1), (W_2, b_2) = ((layer.weight, layer.bias) for layer in (model.encode[0], model.encode[3]))
    for x, logits in zip(batch.expression, model(batch).logits, strict=True):
        h_1 = (W_1 @ x + b_1).clamp(min=0)
        h_2 = (W_2 @ h_1 + b_2).clamp(min=0)
        assert torch.allclose(logits, model.hazard.weight @ h_2 + model.hazard.bias, atol=1e-6)


@pytest.mark.parametrize(("hidden", "encode", "head"), [(32, 161_056, 132), (256, 1_345_792, 1_028)])
def test_parameters(hidden, encode, head):
    """As the sheet counts them; 32 is the default."""
    model = MLP(SIZES, hidden=hidden)
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count == {"encode": encode, "hazard": head}
    assert sum(p.numel() for p in MLP(SIZES).parameters()) == 161_188


def test_dropout_follows_both_layers_in_training_alone():
    model, batch = build("mlp", hidden=4000, dropout=0.25).train(), take(make_batch(), [0])
    with torch.no_grad():
        for layer in (model.encode[0], model.encode[3]):
            layer.weight.fill_(0.01)
            layer.bias.fill_(1.0)  # no unit is 0 by its activation
        h_1 = model.encode[:3](batch.expression)
        h_2 = model.encode[3:](torch.ones_like(h_1))
        for h in (h_1, h_2):
            assert float((h == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
        assert (model.eval().encode(batch.expression) > 0).all()


def test_it_reads_genes_alone():
    model, batch = build("mlp").eval(), make_batch()
    assert torch.equal(model(batch).logits, model(make_batch((0, 2, 0, 5), seed=0)).logits)
    assert MLP.not_applicable(SIZES) is None
    assert MLP.not_applicable(InputSpec(16, 0, SPEC.gene_sets)) == "the cohort has no expression"
