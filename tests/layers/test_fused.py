"""The fused histology branch equals the plain one up to rounding. With `keep_attention` the plain one is used."""

import copy

import pytest
import torch
from small_models import build, make_batch

from survq.layers import fused
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
    """Logits and gradients of the plain and of the fused branch, in training mode without dropout."""
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
def test_logits_and_gradients_equal_the_plain_branch(batch, dtype, logit_error, gradient_error, queries, monkeypatch):
    monkeypatch.setitem(fused.PATCHES, "cpu", 16)
    (plain, expected), (fast, gradients) = both(batch, dtype, histology_queries=queries, genomic_queries=2)
    assert torch.allclose(plain, fast, atol=logit_error)
    for name, gradient in gradients.items():
        scale = max(float(expected[name].abs().max()), 1e-3)
        assert float((gradient - expected[name]).abs().max()) <= gradient_error * scale, name


@pytest.mark.parametrize("budget", [0, 10**4, 2**31])
def test_recomputed_chunks_equal_kept_chunks(batch, budget, monkeypatch):
    """Also with dropout: a recomputed chunk has the same masks."""
    monkeypatch.setitem(fused.PATCHES, "cpu", 16)
    results = []
    for activation_budget in (2**31, budget):
        monkeypatch.setattr(fused, "ACTIVATION_BUDGET", activation_budget)
        model = build("survq", patch_dropout=0.4).train()
        torch.manual_seed(5)
        loss = nll_survival_loss(model(batch).logits, batch.interval, batch.event)
        loss.backward()
        results.append((float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.allclose(gradient, results[1][1][name], atol=1e-6), name


def test_dropout_adds_noise_and_preserves_the_mean():
    batch = make_batch((400, 400, 400, 400))
    model = build("survq", **(NO_DROPOUT | {"patch_dropout": 0.5})).train()
    torch.manual_seed(0)
    noisy = torch.stack(
        [fused.read_bags(model.encode_patches, model.read_patches, model.Q_h, batch.bags) for _ in range(60)]
    )
    without_dropout = fused.read_bags(model.eval().encode_patches, model.read_patches, model.Q_h, batch.bags)
    assert noisy.std(dim=0).mean() > 1e-4
    assert (noisy.mean(dim=0) - without_dropout).abs().mean() < 0.1 * without_dropout.abs().mean()


def test_the_fused_branch_is_used_by_default(monkeypatch):
    calls = []
    monkeypatch.setattr("survq.models.survq.read_bags", lambda *a: calls.append(a) or fused.read_bags(*a))
    model, batch = build("survq").eval(), make_batch()
    assert isinstance(model.read_patches, Attention)
    model(batch, keep_attention=True)
    assert not calls
    model(batch)
    assert len(calls) == 1
