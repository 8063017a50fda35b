"""What is special about the reference models. test_every_model.py holds for them, too."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter, KaplanMeierFitter
from small_models import SPEC, build, make_batch, take

from survq.data.cohort import InputSpec
from survq.layers.cox import PENALTIES
from survq.models import MODELS, REFERENCES

FITTED = [name for name, kind in REFERENCES.items() if not kind.learns]


def cases(n: int = 60, seed: int = 0):
    """Cases of which those with a high first gene tend to die early."""
    batch = make_batch((2,) * n, seed=seed)
    noise = torch.arange(n) * 0.618 % 1  # uniform
    time = (15 - 10 * batch.expression[:, 0] + 20 * noise).clamp(0.1, 39.9)
    return replace(batch, interval=(time // 10).long(), time=time, event=torch.arange(n) % 3 > 0)


@pytest.mark.parametrize("name", FITTED)
def test_the_fit_depends_on_the_cases_alone(name):
    """Not on batches, their order, or a seed."""
    whole, order = cases(), list(np.random.default_rng(0).permutation(60))
    one, other = build(name), build(name, seed=1)
    one.prepare([whole])
    other.prepare([take(whole, order[:25]), take(whole, order[25:])])
    assert not list(one.parameters())
    for key, value in one.state_dict().items():
        assert torch.allclose(other.state_dict()[key], value, atol=1e-9), key


@pytest.mark.parametrize(("name", "least"), [("gene_cox", 0.6), ("pathway_cox", 0.4)])
def test_cox_finds_the_gene_of_the_risk(name, least):
    model = build(name)
    model.prepare([cases()])
    batch = cases(seed=3)
    assert np.corrcoef(model(batch).risk, batch.expression[:, 0])[0, 1] > least
    x = batch.expression if name == "gene_cox" else model.means(batch)
    assert torch.equal(model(batch).risk.argsort(), model.cox.eta(x).argsort()), "risk is monotone in eta"


def test_clinical_cox_has_the_coefficients_of_lifelines():
    batch = cases()
    batch = replace(batch, time=batch.time.ceil())  # ties
    model = build("clinical_cox")
    model.prepare([batch])
    x = batch.clinical.double().numpy()
    direct = CoxPHFitter(penalizer=0.01 * x.var(axis=0) / x.var(axis=0, ddof=1))
    table = pd.DataFrame(x / x.std(axis=0)).assign(time=batch.time, event=batch.event)
    precise = {"precision": 1e-14, "r_precision": 1e-14, "step_size": 1.0}
    direct.fit(table, "time", "event", fit_options=precise)
    assert model.cox.coefficients * x.std(axis=0) == pytest.approx(direct.params_.to_numpy(), abs=1e-7)


@torch.no_grad()
def test_clinical_survq_adds_a_linear_term_to_survq():
    """It begins with the coefficients of clinical Cox, and SurvQ's weights are those of the same seed."""
    batch = cases(9, seed=2)
    model, survq, cox = (build(name).eval() for name in ("clinical_survq", "survq", "clinical_cox"))
    for one in (model, cox):
        one.prepare([cases()])
    term = batch.clinical @ cox.cox.coefficients.float()
    assert torch.allclose(model(batch).logits, survq(batch).logits + term[:, None], atol=1e-6)


def test_covariates_do_not_replace_slides_and_genes():
    kind = MODELS["clinical_survq"]
    assert kind.not_applicable(replace(SPEC, patch_features=0, genes=0)) == "the cohort has no slides and no expression"
    assert kind.not_applicable(replace(SPEC, patch_features=0)) is None
    assert kind.not_applicable(replace(SPEC, clinical=())) == "the cohort has no clinical covariates"


@pytest.mark.parametrize("name", FITTED)
def test_an_interval_that_no_training_case_reached_has_a_hazard_inside_0_and_1(name):
    batch = cases()
    model = build(name)
    model.prepare([replace(batch, interval=batch.interval.clamp(max=2))])
    hazards = model(batch).hazards
    assert ((hazards > 0) & (hazards < 1)).all()


def test_a_given_penalty_is_used():
    weak, strong = (build("gene_cox", penalty=penalty) for penalty in (min(PENALTIES), 1e3))
    for model in (weak, strong):
        model.prepare([cases()])
    assert strong.cox.coefficients.norm() < 0.05 * weak.cox.coefficients.norm()


def kaplan_meier(interval, event):
    model, batch = build("kaplan_meier"), make_batch((1,) * len(interval))
    model.prepare([replace(batch, interval=torch.tensor(interval), event=torch.tensor(event))])
    return model(batch)


def test_kaplan_meier_is_deaths_over_cases_at_risk():
    hazards = kaplan_meier([0, 0, 1, 1, 1, 3], [True, False, True, True, False, True]).hazards
    assert hazards[0].tolist() == pytest.approx([1 / 6, 2 / 4, 0.5 / 1, 0.5 / 1])
    assert (hazards == hazards[0]).all()


def test_kaplan_meier_is_that_of_lifelines():
    """Where all of an interval happens at one time: cases censored at a time are at risk at it there, too."""
    random = np.random.default_rng(0)
    interval, event = random.integers(0, 4, 80), random.random(80) < 0.5
    curve = KaplanMeierFitter().fit(interval + 1, event).survival_function_at_times([1, 2, 3, 4])
    assert kaplan_meier(interval, event).survival[0].tolist() == pytest.approx(curve.tolist())


def test_kaplan_meier_can_be_applied_to_everything():
    nothing = replace(SPEC, patch_features=0, genes=0, gene_sets={})
    assert MODELS["kaplan_meier"].not_applicable(nothing) is None
    assert MODELS["pathway_cox"].not_applicable(nothing) == "the cohort has no expression"


@torch.no_grad()
def test_abmil_pathways_is_its_two_branches_beside_each_other(pathway_sizes):
    model, batch = build("abmil_pathways").eval(), make_batch()
    z_g = model.encode_pathways(batch.expression).mean(dim=1)
    for number, bag in enumerate(batch.bags):
        H = model.embed(bag.float())
        z = torch.cat([model.attention(H).softmax(dim=0) @ H, z_g[number]])
        assert torch.allclose(model(batch).logits[number], model.hazard(z), atol=1e-6)
    sets = {"pathways": tuple(tuple(range(size)) for size in pathway_sizes)}
    full = MODELS["abmil_pathways"](InputSpec(1024, 4999, sets))
    assert sum(parameter.numel() for parameter in full.parameters()) == 24_752_901
