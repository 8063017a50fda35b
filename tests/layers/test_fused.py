"""The fast way through SurvQ is the plain one, to rounding. Attention on request takes the plain one."""

import copy

import pytest
import torch
from small_models import build, make_batch

from survq.layers import fused as fast
from survq.layers.attention import Attention
from survq.models.losses import nll_survival_loss

SIZES = {
    "ragged": (7, 3, 4, 9),
    "one patch": (1, 1, 5, 2),
    "no slides": (7, 0, 4, 0),
    "several chunks": (70, 1, 33, 64),
}
NO_DROPOUT = {"patch_dropout": 0.0, "pathway_dropout": 0.0}


@pytest.fixture(params=SIZES)
def batch(request):
    return make_batch(SIZES[request.param])


def both(batch, dtype, **hyperparameters):
    """Logits and gradients by the plain way and by the fast one, in training, without dropout."""
    found = []
    model = build("survq", **(NO_DROPOUT | hyperparameters)).to(dtype).train()
    for keep_attention in (True, False):
        one = copy.deepcopy(model)
        wide = copy.copy(batch)
        object.__setattr__(wide, "expression", batch.expression.to(dtype))
        object.__setattr__(wide, "bags", tuple(bag.to(dtype) for bag in batch.bags))
        logits = one(wide, keep_attention=keep_attention).logits
        nll_survival_loss(logits, batch.interval, batch.event).backward()
        found.append((logits.detach(), {name: p.grad for name, p in one.named_parameters()}))
    return found


@pytest.mark.parametrize(
    ("dtype", "logit_error", "gradient_error"), [(torch.float64, 1e-12, 1e-10), (torch.float32, 1e-5, 1e-4)]
)
@pytest.mark.parametrize("queries", [2, 60])  # with few the second layer is absorbed, with many it is not
def test_logits_and_gradients_are_those_of_the_equations(
    batch, dtype, logit_error, gradient_error, queries, monkeypatch
):
    monkeypatch.setitem(fast.PATCHES, "cpu", 16)
    (plain, expected), (quick, gradients) = both(batch, dtype, histology_queries=queries, genomic_queries=2)
    assert torch.allclose(plain, quick, atol=logit_error)
    for name, gradient in gradients.items():
        scale = max(float(expected[name].abs().max()), 1e-3)
        assert float((gradient - expected[name]).abs().max()) <= gradient_error * scale, name


@pytest.mark.parametrize("room", [0, 10**4, 2**31])
def test_what_is_kept_and_what_is_made_again_are_the_same(batch, room, monkeypatch):
    """Also with dropout: a chunk that is made again has the masks that it had."""
    monkeypatch.setitem(fast.PATCHES, "cpu", 16)
    results = []
    for kept in (2**31, room):
        monkeypatch.setattr(fast, "ACTIVATION_BUDGET", kept)
        model = build("survq", patch_dropout=0.4).train()
        torch.manual_seed(5)
        loss = nll_survival_loss(model(batch).logits, batch.interval, batch.event)
        loss.backward()
        results.append((float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], atol=1e-6), name


def test_dropout_drops_and_keeps_the_mean():
    batch = make_batch((400, 400, 400, 400))
    model = build("survq", **(NO_DROPOUT | {"patch_dropout": 0.5})).train()
    torch.manual_seed(0)
    noisy = torch.stack(
        [fast.read_bags(model.encode_patches, model.read_patches, model.Q_h, batch.bags) for _ in range(60)]
    )
    still = fast.read_bags(model.eval().encode_patches, model.read_patches, model.Q_h, batch.bags)
    assert noisy.std(dim=0).mean() > 1e-4
    assert (noisy.mean(dim=0) - still).abs().mean() < 0.1 * still.abs().mean()


def test_it_is_the_way_that_is_taken(monkeypatch):
    calls = []
    monkeypatch.setattr("survq.models.survq.read_bags", lambda *a: calls.append(a) or fast.read_bags(*a))
    model, batch = build("survq").eval(), make_batch()
    assert isinstance(model.read_patches, Attention)
    model(batch, keep_attention=True)
    assert not calls
    model(batch)
    assert len(calls) == 1
