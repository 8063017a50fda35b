import math

import pytest
import torch
from small_models import build, make_batch
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.snn import SNN

SIZES = InputSpec(patch_features=0, genes=4999, gene_sets={})


@torch.no_grad()
def test_the_equations():
    model, batch = build("snn", width=7).eval(), make_batch()
    (first, _, _), (second, _, _) = model.encode
    for x, logits in zip(batch.expression, model(batch).logits, strict=True):
        h_1 = F.elu(first.weight @ x + first.bias)
        h_2 = F.elu(second.weight @ h_1 + second.bias)
        assert torch.allclose(logits, model.hazard.weight @ h_2 + model.hazard.bias, atol=1e-6)


def test_parameters():
    """As the sheet counts them."""
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in SNN(SIZES).named_children()}
    assert count == {"encode": 1_345_792, "hazard": 1_028}


def test_it_starts_as_self_normalization_asks():
    """Weights from N(0, 1 / fan-in), biases 0: then units of unit variance stay so."""
    torch.manual_seed(0)
    model = SNN(SIZES)
    for linear, fan_in in ((model.encode[0][0], 4999), (model.encode[1][0], 256), (model.hazard, 256)):
        assert (linear.bias == 0).all()
        assert float(linear.weight.detach().std()) == pytest.approx(1 / math.sqrt(fan_in), rel=0.05)
        assert float(linear.weight.detach().abs().max()) > 2.5 / math.sqrt(fan_in)  # not uniform
    with torch.no_grad():
        assert float(model.encode[0][0](torch.randn(50, 4999)).std()) == pytest.approx(1, rel=0.05)


def test_alpha_dropout_in_training_alone():
    """A dropped unit has one constant value below all others; the rate is the share of them."""
    model, batch = build("snn", width=2000, dropout=0.25).train(), make_batch()
    with torch.no_grad():
        h = model.encode(batch.expression)
        assert float((h - h.min()).abs().lt(1e-5).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(model.eval()(batch).logits, model(batch).logits)
