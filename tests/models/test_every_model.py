"""What holds for every model of MODELS. A new model meets these tests by being listed there."""

import copy
from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch, take

from survq.models import MODELS


@pytest.fixture(params=sorted(MODELS))
def model(request):
    """Every model in turn, prepared, in evaluation mode."""
    model = build(request.param)
    model.prepare([make_batch()])
    return model.eval()


@pytest.fixture
def batch():
    return make_batch()


def missing(model, modality: str):
    """A batch in which some cases lack a modality; skips models that cannot speak of such cases."""
    if modality in model.needs:
        pytest.skip(f"{type(model).__name__} needs {modality}")
    if modality == "histology":
        return make_batch((7, 0, 4, 0))
    return make_batch(has_expression=[True, False, False, True])


def name_of(model) -> str:
    return next(name for name, kind in MODELS.items() if type(model) is kind)


def test_is_built_by_its_name_and_refuses_unknown_hyperparameters(model):
    name = name_of(model)
    assert name == name.lower()
    with pytest.raises(TypeError, match="nonsense"):
        build(name, nonsense=1)


@pytest.mark.parametrize("intervals", [2, 4, 7])
@pytest.mark.parametrize("name", MODELS)
def test_a_hazard_for_each_case_and_interval(name, intervals):
    prediction = build(name, replace(SPEC, intervals=intervals)).eval()(make_batch())
    assert prediction.logits.shape == (4, intervals)
    assert ((prediction.hazards > 0) & (prediction.hazards < 1)).all()
    assert (prediction.survival.diff(dim=1) <= 0).all()
    assert ((prediction.survival >= 0) & (prediction.survival <= 1)).all()
    assert ((prediction.risk >= -intervals) & (prediction.risk <= 0)).all()


def test_cases_differ(model, batch):
    """A model that ignores its input passes many of the tests below."""
    logits = model(batch).logits
    assert (logits[0] - logits[1]).abs().max() > 1e-5
    other = replace(batch, bags=tuple(-bag for bag in batch.bags), expression=-batch.expression)
    assert (model(other).logits - logits).abs().max() > 1e-5


def test_the_order_of_patches_does_not_matter(model, batch):
    shuffled = replace(batch, bags=tuple(bag[torch.randperm(len(bag))] for bag in batch.bags))
    assert torch.allclose(model(shuffled).logits, model(batch).logits, atol=1e-6)


def test_a_case_does_not_feel_its_batch(model):
    """A batch of 32 gives each case what a batch of 1 gives it, small bags packed or not."""
    batch = make_batch([1 + number * 5 % 23 for number in range(32)])
    together = model(batch).logits
    alone = torch.cat([model(take(batch, [number])).logits for number in range(32)])
    assert torch.allclose(together, alone, atol=1e-6)
    backwards = model(take(batch, list(range(31, -1, -1)))).logits
    assert torch.allclose(together, backwards.flip(0), atol=1e-6)


@pytest.mark.parametrize("modality", ["histology", "genomics"])
def test_a_missing_modality_is_no_nan_and_disturbs_nobody(model, modality):
    batch = missing(model, modality)
    logits = model(batch).logits
    assert logits.isfinite().all()
    alone = torch.cat([model(take(batch, [number])).logits for number in range(len(batch))])
    assert torch.allclose(logits, alone, atol=1e-6)

    loss_of(model.train()(batch), batch).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_whole_batch_without_a_modality(model):
    for modality, batch in (
        ("histology", make_batch((0, 0, 0))),
        ("genomics", make_batch((3, 2, 1), has_expression=[False] * 3)),
    ):
        if modality not in model.needs:
            assert model(batch).logits.isfinite().all()


def test_what_stands_where_expression_is_missing_does_not_matter(model):
    batch = missing(model, "genomics")
    filled = replace(batch, expression=torch.where(batch.has_expression[:, None], batch.expression, 1e3))
    assert torch.allclose(model(filled).logits, model(batch).logits, atol=1e-6)


def test_every_parameter_gets_a_gradient(model, batch):
    loss_of(model.train()(batch), batch).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_evaluation_has_no_chance_in_it(model, batch):
    first = model(batch).logits
    torch.manual_seed(987)
    assert torch.equal(model(batch).logits, first)


def test_training_is_a_matter_of_the_seed(model, batch):
    model.train()
    torch.manual_seed(1)
    first = model(batch).logits
    torch.manual_seed(1)
    assert torch.equal(model(batch).logits, first)


def test_weights_are_a_matter_of_the_seed(model):
    name = name_of(model)
    same, other = build(name, seed=0), build(name, seed=1)
    again = build(name, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(same.parameters(), other.parameters(), strict=True))


def test_saved_and_loaded_it_says_the_same(model, batch, tmp_path):
    """Also where the model keeps state that is no parameter."""
    expected = model(batch).logits
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    name = name_of(model)
    loaded = build(name, seed=5).eval()
    assert not torch.equal(loaded(batch).logits, expected)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(loaded(batch).logits, expected)


def test_attention_is_kept_on_request_and_changes_nothing(model, batch):
    plain, kept = model(batch), model(batch, keep_attention=True)
    assert torch.allclose(plain.logits, kept.logits, atol=1e-6)  # it may take another way to the same
    assert plain.attention is None


def test_a_forward_pass_leaves_the_batch_as_it_was(model, batch):
    before = copy.deepcopy(batch)
    loss_of(model.train()(batch), batch).backward()
    assert all(torch.equal(a, b) for a, b in zip(before.bags, batch.bags, strict=True))
    assert torch.equal(before.expression, batch.expression)


def test_a_few_cases_can_be_learnt_by_heart(model, batch):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    before = float(loss_of(model(batch), batch).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(model(batch), batch).backward()
        optimizer.step()
    assert float(loss_of(model(batch), batch).detach()) < 0.5 * before


def test_half_floats_train_under_autocast_as_on_a_gpu(model, batch):
    """What the loop does there: features as they are stored, products in bf16."""
    model.train()
    halves = replace(batch, bags=tuple(bag.half() for bag in batch.bags))
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(halves)
    assert prediction.logits.dtype == torch.float32  # half of its digits would tie near risks
    loss = loss_of(prediction, halves)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model.eval()(halves).risk.float()
    with torch.no_grad():
        assert torch.allclose(low, model(batch).risk.float(), atol=0.05)
