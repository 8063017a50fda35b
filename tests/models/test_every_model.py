"""Properties of every model in MODELS. A new model is tested once it is listed there."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch, seen, small_of, take
from torch.utils._python_dispatch import TorchDispatchMode

from survq.data.batch import Batch, CaseTable, Preprocessing
from survq.data.clinical import ClinicalScale
from survq.data.expression import ExpressionScale
from survq.data.folds import TimeIntervals
from survq.models import MODELS
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.fold import FittedFold
from survq.training.fold_file import fold_content, read_fold

BY_CASE = ("expression", "has_expression", "clinical", "time", "event", "interval")
"""The columns of a batch."""

DRAWN_BY_POSITION = {"pibd"}
"""Models whose sub-bags depend on the order of patches in evaluation. In training this is allowed for any model."""


def prepared(name: str, seed: int = 0):
    """A small model, prepared, in evaluation mode."""
    model = build(name, seed=seed)
    model.prepare([make_batch()])
    return model.eval()


@pytest.fixture(params=list(MODELS))
def model(request):
    """Each model."""
    return prepared(request.param)


@pytest.fixture
def batch():
    return make_batch()


WAIT = {
    "amisl": "the number of patches in each cluster",
    "ccl": "which cases are in its banks",
    "mome": "which expert each micro-bag takes",
    "motcat": "whether all plans have converged",
    "survq": "whether the levels of softmax were high enough",
    "clinical_survq": "the same",
}
"""Models that wait for a GPU in a step, and for what."""


def predict(model, batch: Batch, **options):
    return model(seen(model, batch), **options)


def hazards(model, batch: Batch):
    return predict(model, batch).hazards


def training_loss(model, batch: Batch):
    """The losses of training and, if the model has it, of pretraining."""
    batch = seen(model, batch)
    loss = loss_of(model(batch), batch)
    return loss + sum(model.pretraining_loss(batch).values()) if model.pretraining_epochs else loss


def backward(loss) -> None:
    """Gradients; none for a model that is fitted without them."""
    if loss.requires_grad:
        loss.backward()


def missing(model, modality: str):
    """A batch in which some cases lack a modality. Skips models that need the modality."""
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


@pytest.mark.parametrize("name", MODELS)
def test_declares_what_it_reads_and_what_to_search(name):
    kind = MODELS[name]
    assert kind.needs <= kind.reads <= {"histology", "genomics", "clinical"}
    assert set(kind.gene_sets) <= set(SPEC.gene_sets)
    assert bool(kind.space) == kind.learns and set(kind.space) <= set(hyperparameters_of(name))
    assert TrainConfig.native(name).model == name


@pytest.mark.parametrize("name", MODELS)
def test_states_why_it_is_not_applicable_to_a_cohort(name):
    kind = MODELS[name]
    assert kind.not_applicable(SPEC) is None
    lacking = {
        "histology": [(replace(SPEC, patch_features=0), "no slides")],
        "genomics": [(replace(SPEC, genes=0, gene_sets={}), "no expression")],
        "clinical": [(replace(SPEC, clinical=()), "no clinical covariates")],
    }
    for collection in kind.gene_sets:
        others = {other: sets for other, sets in SPEC.gene_sets.items() if other != collection}
        lacking["genomics"].append((replace(SPEC, gene_sets=others), f"no gene of the {collection}"))
    for modality, specs in lacking.items():
        for spec, reason in specs:
            if modality in kind.needs:
                assert kind.not_applicable(spec) == f"the cohort has {reason}"
            else:
                assert kind.not_applicable(spec) is None
                assert hazards(build(name, spec).eval(), make_batch(spec=spec)).isfinite().all()


@pytest.mark.parametrize("intervals", [2, 4, 7])
@pytest.mark.parametrize("name", MODELS)
def test_predicts_a_hazard_per_case_and_interval(name, intervals):
    prediction = predict(build(name, replace(SPEC, intervals=intervals)).eval(), make_batch())
    assert prediction.hazards.shape == (4, intervals)
    assert ((prediction.hazards > 0) & (prediction.hazards < 1)).all()
    assert (prediction.survival.diff(dim=1) <= 0).all()
    assert ((prediction.survival >= 0) & (prediction.survival <= 1)).all()
    assert ((prediction.risk >= -intervals) & (prediction.risk <= 0)).all()


def test_predictions_of_cases_differ(model, batch):
    """A model that ignores its input passes many of the tests below."""
    first = hazards(model, batch)
    assert ((first[0] - first[1]).abs().max() > 1e-5) == bool(model.reads)
    for modality in model.reads:
        if modality == "histology":
            other = replace(batch, bags=tuple(-bag for bag in batch.bags))
        elif modality == "genomics":
            other = replace(batch, expression=-batch.expression)
        else:
            other = replace(batch, clinical=-batch.clinical)
        assert (hazards(model, other) - first).abs().max() > 1e-6, modality


@pytest.mark.parametrize("sizes", [(7, 1, 4, 9), (600, 5000)], ids=["small", "large"])
def test_patch_order_does_not_matter(model, sizes, request):
    """Also for bags larger than the parts in which models read them."""
    if max(sizes) > 100 and name_of(model) in DRAWN_BY_POSITION:
        request.applymarker(pytest.mark.xfail(strict=True, reason="its sub-bags are drawn by position"))
    batch = make_batch(sizes)
    with torch.no_grad():
        expected = hazards(model, batch)
        for seed in range(2):
            random = torch.Generator().manual_seed(seed)
            shuffled = tuple(bag[torch.randperm(len(bag), generator=random)] for bag in batch.bags)
            assert torch.allclose(hazards(model, replace(batch, bags=shuffled)), expected, atol=1e-5)


@torch.no_grad()
def test_batch_invariance(model):
    """Hazards in a batch of 32 equal those in batches of 1, whether small bags are packed or not."""
    batch = make_batch([1 + number * 5 % 23 for number in range(32)])
    together = hazards(model, batch)
    alone = torch.cat([hazards(model, take(batch, [number])) for number in range(32)])
    assert torch.allclose(together, alone, atol=1e-6)
    backwards = hazards(model, take(batch, list(range(31, -1, -1))))
    assert torch.allclose(together, backwards.flip(0), atol=1e-6)


@torch.no_grad()
def test_hazards_do_not_depend_on_the_size_of_other_bags(model):
    """Longer and shorter bags, and empty ones if the model does not need histology."""
    neighbours = (1, 5000, 2) if "histology" in model.needs else (1, 5000, 0)
    batch = make_batch((20, *neighbours))
    alone = hazards(model, take(batch, [0]))
    for beside in ([1], [2], [3], [1, 2, 3]):
        assert torch.allclose(hazards(model, take(batch, [0, *beside]))[:1], alone, atol=1e-6)
        assert torch.allclose(hazards(model, take(batch, [*beside, 0]))[-1:], alone, atol=1e-6)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else (made,):
            if isinstance(one, torch.Tensor):
                self.elements = max(self.elements, one.numel())
        return made


def test_bags_of_one_patch_and_of_30000(model):
    """Memory is linear in the number of patches."""
    batch = make_batch((1, 30_000))
    with Largest() as largest:
        loss = training_loss(model.train(), batch)
        backward(loss)
    assert torch.isfinite(loss)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert largest.elements <= 30_000 * 2048
    with torch.no_grad():
        assert hazards(model.eval(), batch).isfinite().all()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WAIT])
def test_no_number_of_a_step_is_needed_before_it_ends(name, monkeypatch):
    """Tensors of the device "meta" have no numbers. On a GPU, Python would wait for one."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)
    batch, model = make_batch(), prepared(name).train().to("meta")
    columns = {column: getattr(batch, column).to("meta") for column in BY_CASE}
    backward(training_loss(model, replace(batch, bags=tuple(bag.to("meta") for bag in batch.bags), **columns)))


@pytest.mark.parametrize("modality", ["histology", "genomics"])
def test_a_missing_modality_gives_no_nan_and_does_not_change_other_cases(model, modality):
    batch = missing(model, modality)
    together = hazards(model, batch)
    assert together.isfinite().all()
    alone = torch.cat([hazards(model, take(batch, [number])) for number in range(len(batch))])
    assert torch.allclose(together, alone, atol=1e-6)

    backward(training_loss(model.train(), batch))
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_a_whole_batch_without_a_modality(model):
    for modality, batch in (
        ("histology", make_batch((0, 0, 0))),
        ("genomics", make_batch((3, 2, 1), has_expression=[False] * 3)),
    ):
        if modality not in model.needs:
            assert hazards(model, batch).isfinite().all()


def test_values_in_place_of_missing_expression_do_not_matter(model):
    batch = missing(model, "genomics")
    filled = replace(batch, expression=torch.where(batch.has_expression[:, None], batch.expression, 1e3))
    assert torch.allclose(hazards(model, filled), hazards(model, batch), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name, batch):
    """A model with a router may not use all paths for one seed, but it uses all in a few seeds."""
    without = None
    for seed in range(40):
        model = prepared(name, seed).train()
        backward(training_loss(model, batch))
        missed = {key for key, p in model.named_parameters() if p.requires_grad and p.grad is None}
        without = missed if without is None else without & missed
        if not without:
            return
    assert not without


def test_evaluation_is_deterministic_and_keeps_the_random_state(model, batch):
    first = hazards(model, batch)
    torch.manual_seed(987)
    before = torch.get_rng_state()
    assert torch.equal(hazards(model, batch), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_depends_on_the_seed_alone(model, batch):
    """The loss and all gradients, to the bit."""
    found = []
    for _ in range(2):
        copied = copy.deepcopy(model).train()
        torch.manual_seed(1)
        loss = training_loss(copied, batch)
        backward(loss)
        found.append([loss.detach(), *(p.grad for p in copied.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_and_prepared_state_depend_on_the_seed_alone(model):
    name = name_of(model)
    first, again, other = (prepared(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first) == model.learns


def test_predicts_the_same_after_saving_and_loading(model, batch, tmp_path):
    """Including models with state that is not a parameter."""
    torch.manual_seed(3)
    backward(training_loss(model.train(), batch))  # memories may change
    expected = hazards(model.eval(), batch)
    name = name_of(model)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = build(name, seed=5).eval()
    assert not torch.equal(hazards(loaded, batch), expected)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(hazards(loaded, batch), expected)


def test_a_fitted_fold_predicts_the_same_after_saving_and_loading(model, batch, tmp_path):
    name = name_of(model)
    genes = tuple(f"G{number}" for number in range(SPEC.genes))
    spread = np.zeros(SPEC.genes, np.float32)
    fitted = FittedFold(
        config=TrainConfig(name, small_of(name)),
        repeat=0,
        index=0,
        spec=SPEC,
        preprocessing=Preprocessing(
            genes=genes,
            scale=ExpressionScale(0.0, 1.0),
            lowest=spread - 1,
            highest=spread + 1,
            clinical=ClinicalScale(SPEC.clinical, np.array([60.0, 0.5, 2.0]), np.array([10.0, 0.5, 1.0])),
            intervals=TimeIntervals((0.0, 10.0, 20.0, 30.0, 61.0)),
        ),
        gene_set_names={},
        encoder="uni",
        trained_on=frozenset(),
        model=model,
    )
    (tmp_path / fitted.file).write_bytes(fold_content(fitted))
    loaded, _ = read_fold(tmp_path / fitted.file)
    table = CaseTable(
        row={case: number for number, case in enumerate(batch.case_ids)},
        **{key: getattr(batch, key) for key in BY_CASE},
    )
    bags = dict(zip(batch.case_ids, batch.bags, strict=True))
    before, after = (one.predict_cases(table, bags, batch.case_ids) for one in (fitted, loaded))
    assert before.equals(after)
    assert np.isfinite(after["risk"]).all()


def test_attention_is_kept_on_request_and_changes_nothing(model, batch):
    plain, kept = predict(model, batch), predict(model, batch, keep_attention=True)
    assert torch.allclose(plain.logits, kept.logits, atol=1e-6)  # it may be computed in another way
    assert plain.attention is None


def test_a_forward_pass_does_not_change_the_batch(model, batch):
    batch = seen(model, batch)
    before = copy.deepcopy(batch)
    backward(loss_of(model.train()(batch), batch))
    assert all(torch.equal(a, b) for a, b in zip(before.bags, batch.bags, strict=True))
    assert torch.equal(before.expression, batch.expression)


def test_overfits_a_small_batch(model, batch):
    if not model.learns:
        pytest.skip("it is fitted without gradients")
    torch.manual_seed(0)
    batch = seen(model, batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    before = float(loss_of(model(batch), batch).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss_of(model(batch), batch).backward()
        optimizer.step()
    assert float(loss_of(model(batch), batch).detach()) < 0.5 * before


def test_half_floats_train_under_autocast_as_on_a_gpu(model, batch):
    """As in the training loop: features as stored, matrix products in bf16."""
    halves = seen(model, replace(batch, bags=tuple(bag.half() for bag in batch.bags)))
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(halves)
        loss = loss_of(prediction, halves)
        if model.pretraining_epochs:
            loss = loss + sum(model.pretraining_loss(halves).values())
    assert prediction.logits.dtype in (torch.float32, torch.float64)  # half precision would tie similar risks
    backward(loss)
    assert torch.isfinite(loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model.eval()(halves).risk.float()
    with torch.no_grad():
        assert torch.allclose(low, predict(model, batch).risk.float(), atol=0.05)
