from dataclasses import replace

import pytest
import torch
from small_models import build, make_batch
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.abmil import ABMIL


def read(model: ABMIL, bag):
    """Logits and weights of one case, a patch at a time."""
    (W_e, b_e), attention = (model.embed[0].weight, model.embed[0].bias), model.attention
    H = [F.relu(W_e @ x + b_e) for x in bag.float()]
    scores = [attention.w(torch.tanh(attention.V[0](h)) * torch.sigmoid(attention.U[0](h))).item() for h in H]
    powers = torch.tensor(scores).exp()
    a = powers / powers.sum()
    z = sum(weight * h for weight, h in zip(a, H, strict=True))
    return model.hazard(F.relu(model.refine[0](z))), a


@torch.no_grad()
def test_the_equations():
    model, batch = build("abmil").eval(), make_batch()
    prediction = model(batch, keep_attention=True)
    for number, bag in enumerate(batch.bags):
        logits, a = read(model, bag)
        assert torch.allclose(prediction.logits[number], logits, atol=1e-6)
        assert prediction.attention.histology[number].shape == (1, len(bag))
        assert torch.allclose(prediction.attention.histology[number][0], a, atol=1e-6)


def test_parameters():
    """As the sheet counts them."""
    model = ABMIL(InputSpec(1024, 0, {}))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count == {"embed": 262_400, "attention": 131_841, "refine": 65_792, "hazard": 1_028}
    assert sum(count.values()) == 461_061


@torch.no_grad()
def test_copies_of_a_patch_share_its_weight():
    """So nothing in the model grows with the size of a bag."""
    model, batch = build("abmil").eval(), make_batch((3, 3))
    many = replace(batch, bags=tuple(bag.repeat(40, 1) for bag in batch.bags))
    assert torch.allclose(model(many).logits, model(batch).logits, atol=1e-6)


@torch.no_grad()
def test_attention_can_find_one_patch_among_many():
    model, batch = build("abmil", dropout=0.0).eval(), make_batch((500,))
    attention = model.attention
    attention.w.weight.fill_(0.0)
    attention.w.weight[0, 0] = 300.0
    attention.V[0].weight[0] = torch.linspace(-1, 1, 16)
    a = model(batch, keep_attention=True).attention.histology[0][0]
    assert float(a.max()) > 0.5
    alone = replace(batch, bags=(batch.bags[0][a.argmax()][None],))
    assert (model(batch).risk - model(alone).risk).abs() < 0.2


def test_dropout_reaches_embedding_attention_and_head():
    model = build("abmil", dropout=0.3)
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.3] * 4
    batch = make_batch()
    assert not torch.equal(model.train()(batch).logits, model.eval()(batch).logits)
    with pytest.raises(ValueError, match="dropout"):
        build("abmil", dropout=1.5)
