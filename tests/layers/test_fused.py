"""The fused histology branch equals the plain one up to rounding. With `keep_attention` the plain one is used."""

import copy
import math

import pytest
import torch
from small_models import build, make_batch

from survq.layers import chunks, fused
from survq.layers.attention import Attention
from survq.layers.chunks import Sizes
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


@pytest.fixture
def in_bf16(monkeypatch):
    """As on a CPU with matrix units for bf16, and for layers of any size; in small chunks."""
    monkeypatch.setattr(fused, "precision", lambda weight: torch.bfloat16)
    monkeypatch.setitem(fused.PATCHES, "cpu bf16", Sizes(16, 8, 4))


def relative_error(found, expected) -> float:
    return float((found.detach().double() - expected.detach()).norm() / expected.detach().norm())


def counted(monkeypatch, name: str) -> list[int]:
    """A list that grows by 1 with each call of a function of the fused branch."""
    calls, function = [], getattr(fused, name)
    monkeypatch.setattr(fused, name, lambda *arguments: calls.append(1) or function(*arguments))
    return calls


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
    monkeypatch.setitem(fused.PATCHES, "cpu", Sizes(16))
    (plain, expected), (fast, gradients) = both(batch, dtype, histology_queries=queries, genomic_queries=2)
    assert torch.allclose(plain, fast, atol=logit_error)
    for name, gradient in gradients.items():
        scale = max(float(expected[name].abs().max()), 1e-3)
        assert float((gradient - expected[name]).abs().max()) <= gradient_error * scale, name


@pytest.mark.parametrize("queries", [5, 60])
def test_bf16_is_near_the_plain_branch_in_double_precision(batch, queries, in_bf16):
    hyperparameters = NO_DROPOUT | {"histology_queries": queries}
    model = build("survq", **hyperparameters).train()
    tokens = fused.read_bags(model.encode_patches, model.read_patches, model.Q_h, batch.bags)
    tokens.square().sum().backward()
    exact = build("survq", **hyperparameters).double().train()
    bags = [bag.bfloat16().double() for bag in batch.bags]
    expected = torch.stack(
        [exact.read_patches(exact.Q_h, exact.encode_patches(bag))[0] if len(bag) else 0 * exact.Q_h for bag in bags]
    )
    expected.square().sum().backward()
    assert relative_error(tokens, expected) < 1e-2
    for module in ("encode_patches", "read_patches"):
        theirs = dict(getattr(exact, module).named_parameters())
        for name, parameter in getattr(model, module).named_parameters():
            if name != "key.bias":  # its gradient is 0
                assert relative_error(parameter.grad, theirs[name].grad) < 4e-2, name
    assert relative_error(model.Q_h.grad, exact.Q_h.grad) < 4e-2


@pytest.mark.parametrize("where", ["in the first chunk", "in a later chunk", "in a small bag"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_far_above_those_of_the_first_patches(where, dtype, monkeypatch):
    """exp(S - level) would overflow: all is computed again with the highest scores."""
    monkeypatch.setattr(fused, "PATCHES", dict.fromkeys(fused.PATCHES, Sizes(128, 64, 16)))
    again = counted(monkeypatch, "_highest_scores")
    q, W_1, b_1 = torch.tensor([[60.0, 1.0]]), torch.eye(2), torch.zeros(2)
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.0, 4.0])
    bags = {"in the first chunk": [x], "in a later chunk": [x, x], "in a small bag": [x[:100], x[:10]]}[where]
    bags[0][{"in the first chunk": 70, "in a later chunk": 270, "in a small bag": 70}[where] :, 0] = 1.0
    parameters = [tensor.clone().requires_grad_() for tensor in (q, W_1, b_1)]
    P = fused._pool(bags, 0.0, dtype, *parameters)
    (P * P).sum().backward()
    assert again == [1]

    exact = [tensor.double().requires_grad_() for tensor in (q, W_1, b_1)]
    expected = []
    for bag in bags:
        H = torch.relu(bag.to(dtype).double() @ exact[1].T + exact[2])
        expected.append(torch.softmax(exact[0] @ H.T, 1) @ H)
    (torch.stack(expected) ** 2).sum().backward()
    assert relative_error(P, torch.stack(expected)) < (1e-5 if dtype == torch.float32 else 0.05)
    for found, wanted in zip(parameters, exact, strict=True):
        assert found.grad.isfinite().all()
        assert relative_error(found.grad, wanted.grad) < 1e-4 or dtype == torch.bfloat16  # q = 60 multiplies rounding


def test_ordinary_scores_are_computed_once(batch, monkeypatch):
    again = counted(monkeypatch, "_highest_scores")
    build("survq").train()(batch)
    assert not again


@pytest.mark.parametrize("weight", ["0.weight", "0.bias", "3.weight"])
def test_a_weight_that_is_not_a_number_shows_in_bf16(weight, in_bf16):
    """Although relu on bits turns NaN into 0."""
    for bad in (math.nan, -math.nan, math.inf):
        model, batch = build("survq"), make_batch()
        model.get_parameter(f"encode_patches.{weight}").data.fill_(bad)
        assert not model(batch).logits.isfinite().any()


def test_without_gradient_the_result_is_the_same(batch, in_bf16):
    model = build("survq", **NO_DROPOUT).train()
    with torch.no_grad():
        predicted = model(batch).logits
    assert torch.allclose(model(batch).logits, predicted, atol=1e-2)


@pytest.mark.parametrize("budget", [0, 10**4, 2**31])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_chunks_equal_kept_chunks(batch, budget, dtype, monkeypatch):
    """Also with dropout: a recomputed chunk has the same masks."""
    monkeypatch.setattr(fused, "PATCHES", dict.fromkeys(fused.PATCHES, Sizes(16, 8, 4)))
    monkeypatch.setattr(fused, "precision", lambda weight: dtype)
    results = []
    for activation_budget in (2**31, budget):
        monkeypatch.setattr(chunks, "ACTIVATION_BUDGET", activation_budget)
        model = build("survq", patch_dropout=0.4).train()
        torch.manual_seed(5)
        loss = nll_survival_loss(model(batch).logits, batch.interval, batch.event)
        loss.backward()
        results.append((float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}))
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        # in bf16 the last bit depends on where in memory a chunk lies; other masks would change a gradient by its size
        tolerance = 1e-6 if dtype == torch.float32 else 1e-6 + 0.02 * float(gradient.abs().max())
        assert torch.allclose(gradient, results[1][1][name], atol=tolerance), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_adds_noise_and_preserves_the_mean(dtype, monkeypatch):
    monkeypatch.setattr(fused, "precision", lambda weight: dtype)
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
