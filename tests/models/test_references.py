"""The reference models that `prepare` fits alone. ABMILPathways learns, so that test_every_model.py holds for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import SPEC, build, make_batch, take

from survq.layers.cox import PENALTIES
from survq.models import MODELS, REFERENCES

FITTED = [name for name, kind in REFERENCES.items() if not kind.learns]


def cases(n: int = 60, seed: int = 0):
    """Cases of which those with a high first gene tend to die early."""
    batch = make_batch((2,) * n, seed=seed)
    noise = torch.arange(n) * 0.618 % 1  # uniform
    time = (15 - 10 * batch.expression[:, 0] + 20 * noise).clamp(0.1, 39.9)
    return replace(batch, interval=(time // 10).long(), time=time, event=torch.arange(n) % 3 > 0)


@pytest.fixture(params=FITTED)
def model(request):
    torch.manual_seed(0)
    model = build(request.param)
    model.prepare([cases()])
    return model.eval()


def test_hazards_are_probabilities_and_finite(model):
    hazards = model(cases(seed=1)).hazards
    assert ((hazards > 0) & (hazards < 1)).all()


def test_no_parameter_is_left_to_learn(model):
    assert not list(model.parameters()) and not type(model).learns


def test_a_batch_equals_its_cases_and_their_order_is_no_matter(model):
    batch = cases(12, seed=1)
    together = model(batch).risk
    assert torch.allclose(torch.cat([model(take(batch, [i])).risk for i in range(12)]), together)
    assert torch.allclose(model(take(batch, list(range(11, -1, -1)))).risk.flip(0), together)


def test_the_fit_does_not_depend_on_batches_and_their_order(model):
    name = next(name for name in FITTED if type(model) is MODELS[name])
    whole, order = cases(), list(np.random.default_rng(0).permutation(60))
    other = build(name)
    other.prepare([take(whole, order[:25]), take(whole, order[25:])])
    for key, value in model.state_dict().items():
        assert torch.allclose(other.state_dict()[key], value, atol=1e-9), key


def test_predicts_the_same_after_saving_and_loading(model, tmp_path):
    name = next(name for name in FITTED if type(model) is MODELS[name])
    batch = cases(9, seed=2)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = build(name).eval()
    assert not torch.equal(loaded(batch).hazards, model(batch).hazards)
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(loaded(batch).hazards, model(batch).hazards)


@pytest.mark.parametrize(("name", "least"), [("gene_cox", 0.6), ("pathway_cox", 0.4)])
def test_cox_finds_the_gene_of_the_risk(name, least):
    model = build(name)
    model.prepare([cases()])
    batch = cases(seed=3)
    assert np.corrcoef(model(batch).risk, batch.expression[:, 0])[0, 1] > least
    x = batch.expression if name == "gene_cox" else model.means(batch)
    assert torch.equal(model(batch).risk.argsort(), model.cox.eta(x).argsort()), "risk is monotone in eta"


def test_kaplan_meier_is_deaths_over_cases_at_risk():
    model = build("kaplan_meier")
    batch = make_batch((1,) * 6)
    interval, event = torch.tensor([0, 0, 1, 1, 1, 3]), torch.tensor([True, False, True, True, False, True])
    model.prepare([replace(batch, interval=interval, event=event)])
    hazards = model(batch).hazards
    assert hazards[0].tolist() == pytest.approx([1 / 6, 2 / 4, 0.5 / 1, 0.5 / 1])
    assert (hazards == hazards[0]).all()


def test_kaplan_meier_can_be_applied_to_everything():
    nothing = replace(SPEC, patch_features=0, genes=0, gene_sets={})
    assert MODELS["kaplan_meier"].not_applicable(nothing) is None
    assert MODELS["pathway_cox"].not_applicable(nothing) == "the cohort has no expression"


def test_a_given_penalty_is_used():
    weak, strong = (build("gene_cox", penalty=penalty) for penalty in (PENALTIES[0], 1e3))
    for model in (weak, strong):
        model.prepare([cases()])
    assert strong.cox.coefficients.norm() < 0.05 * weak.cox.coefficients.norm()
