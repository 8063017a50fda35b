from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, make_batch, modules_of, take

from survq.data.cohort import InputSpec
from survq.layers.micro_bags import micro_bags
from survq.models.motcat import MOTCat, cost

SIZES = (53, 173, 216, 252, 387, 200)  # of the six groups among the genes of the pathways
GROUPS = SPEC.gene_sets["six_groups"]


def transport(C, reg, m=0.5):
    """The plan of one problem with uniform masses, by plain iteration (KL to the product of the marginals)."""
    a, b = torch.full((len(C),), 1 / len(C)).double(), torch.full((C.shape[1],), 1 / C.shape[1]).double()
    K = a[:, None] * b * (-C / reg).exp()
    u, v = torch.ones_like(a), torch.ones_like(b)
    for _ in range(500):
        u = (a / (K @ v)) ** (m / (m + reg))
        v = (b / (K.T @ u)) ** (m / (m + reg))
    return u[:, None] * K * v


@torch.no_grad()
@pytest.mark.parametrize("regularization", [0.05, 0.1])
def test_the_equations(regularization):
    """A case and a micro-bag at a time; 1, 1, 2, 3 and 6 micro-bags."""
    model, batch = build("motcat", micro_bag=4, regularization=regularization).eval(), make_batch((1, 3, 4, 9, 21))
    prediction = model(batch)
    modules = [module.eval() for module in modules_of(model.encode_groups, GROUPS)]
    rows, case = [], []
    for number, (bag, x) in enumerate(zip(batch.bags, batch.expression, strict=True)):
        G = torch.stack([module(x[list(genes)]) for module, genes in zip(modules, GROUPS, strict=True)])
        for part in micro_bags(bag, batch.case_ids[number], 4, training=False):
            H = model.encode_patches(bag[part].float())
            G_0, H_0 = (X.double() - X.double().min(dim=1, keepdim=True).values for X in (G, H))
            C = torch.stack([torch.stack([((g - h) ** 2).sum() for h in H_0]) for g in G_0])
            T = transport(C / C.max(), regularization)
            h, g = model.histology((T.float() @ H)[None]), model.genomics(G[None])
            rows.append(model.hazard(model.fuse(torch.cat([h, g], dim=1)))[0])
            case.append(number)
    assert prediction.case.tolist() == case
    assert torch.allclose(prediction.logits, torch.stack(rows), atol=1e-5)
    hazards = torch.stack([torch.stack(rows).sigmoid()[prediction.case == number].mean(dim=0) for number in range(5)])
    assert torch.allclose(prediction.hazards, hazards, atol=1e-5)


def test_golden_cost():
    x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]), torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    assert cost(x, y).tolist() == [[[1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]]


def test_parameters():
    """As the sheet of check figures has them."""
    groups = tuple(tuple(range(size)) for size in SIZES)
    model = MOTCat(InputSpec(1024, 4999, {"six_groups": groups}))
    assert sum(p.numel() for p in model.parameters()) == 3_688_454
    batch = make_batch((300, 5), spec=InputSpec(1024, 4999, {}))
    assert model.eval()(batch).case.tolist() == [0, 0, 1]


def test_evaluation_above_a_micro_bag_is_a_matter_of_the_case_alone():
    """Neither of the order of its patches, nor of the batch, nor of the random state; but it is of the case's id."""
    model, batch = build("motcat", micro_bag=4).eval(), make_batch((30, 3, 17, 9))
    hazards = model(batch).hazards
    shuffled = replace(batch, bags=tuple(bag[torch.randperm(len(bag))] for bag in batch.bags))
    assert torch.allclose(model(shuffled).hazards, hazards, atol=1e-6)
    alone = torch.cat([model(take(batch, [number])).hazards for number in range(4)])
    assert torch.allclose(alone, hazards, atol=1e-6)
    other = model(replace(batch, case_ids=("X", *batch.case_ids[1:]))).hazards
    assert not torch.allclose(other[0], hazards[0], atol=1e-6)
    assert torch.allclose(other[1:], hazards[1:], atol=1e-6)


def test_in_training_micro_bags_are_drawn_afresh():
    model, batch = build("motcat", micro_bag=4, dropout=0.0).train(), make_batch((30, 3))
    first, second = model(batch).logits, model(batch).logits
    assert not torch.allclose(first[:-1], second[:-1], atol=1e-6)
    assert torch.allclose(first[-1], second[-1], atol=1e-6)  # one micro-bag, in another order


def test_no_gradient_passes_through_the_plan():
    model, batch = build("motcat", dropout=0.0), make_batch()
    G = model.encode_groups(batch.expression)
    plans = model._plans(G, model._micro_bags(batch))
    assert not any(T.requires_grad for T in plans)


def test_patches_that_are_all_alike():
    """Also where all costs are 0, as for groups and patches of zeros."""
    model, batch = build("motcat").eval(), make_batch((9, 2))
    alike = replace(batch, bags=tuple(torch.zeros_like(bag) for bag in batch.bags))
    assert model(alike).logits.isfinite().all()
    C = cost(torch.zeros(6, 16), torch.zeros(1, 9, 16))
    assert (C == 0).all()
    plans = model._plans(torch.zeros(1, 6, 16), [(torch.zeros(1, 9, 16), torch.ones(1, 9, dtype=torch.bool))])
    assert torch.allclose(plans[0], torch.full((1, 6, 9), 1 / 54))
