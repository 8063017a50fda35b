import math
from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch, modules_of
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.hsfsurv import HSFSurv, agreement, draw_class

FAMILIES = SPEC.gene_sets["eight_families"]
QUIET = {"dropout": 0.0}


def parts_of(model: HSFSurv, batch):
    """The four vectors of each case, a slice and a patch at a time."""
    modules = [module.eval() for module in modules_of(model.encode_families, FAMILIES)]
    W = model.encode_slices[0].weight
    cases = []
    for bag, x in zip(batch.bags, batch.expression, strict=True):
        P = []
        for s in range(8):
            X = torch.stack([F.relu(W @ patch.float()[2 * s : 2 * s + 2]) for patch in bag])
            a = torch.stack([model.pool_slices(row) for row in X]).softmax(dim=0)
            P.append(sum(weight * row for weight, row in zip(a, X, strict=True)))
        P = torch.stack(P)
        G = torch.stack([module(x[list(genes)]) for module, genes in zip(modules, FAMILIES, strict=True)])
        m = 1 / (1 + (-P * G).exp())
        inputs = {"P_shared": P * m, "G_shared": G * m, "P_own": P * (1 - m), "G_own": G * (1 - m)}
        cases.append({name: model.branches[name](tokens[None])[0] for name, tokens in inputs.items()})
    return cases


@torch.no_grad()
def test_the_equations():
    model, batch = build("hsfsurv").eval(), make_batch()
    logits = model(batch).logits
    for number, v in enumerate(parts_of(model, batch)):
        z = torch.cat([v["P_shared"], v["G_shared"], v["P_own"], v["G_own"]])
        assert torch.allclose(logits[number], model.hazard(model.fuse(z)), atol=1e-5)


@torch.no_grad()
def test_pretraining():
    """Two steps in epochs 1 and 2: the losses of cases that died, and where the memories move."""
    model = build("hsfsurv", **QUIET).train()
    memory = {"P": torch.zeros(4, 16), "G": torch.zeros(4, 16)}
    for epoch, momentum in ((1, 0.5), (2, 0.75)):
        batch = replace(make_batch((7, 1, 4, 9), seed=epoch), event=torch.ones(4, dtype=torch.bool))
        batch = replace(batch, interval=torch.tensor([0, 2, 2, 3]))
        model.start_epoch(epoch)
        losses = model.pretraining_loss(batch)
        expected = {"agreement": 0.0, "contrast": 0.0}
        shared = {"P": [], "G": []}
        for v, c in zip(parts_of(model, batch), batch.interval.tolist(), strict=True):
            u = {name: model.project[name](vector) for name, vector in v.items()}
            p, q = (model.classify[s](torch.cat([u[f"{s}_shared"], u[f"{s}_own"]])).softmax(dim=0) for s in "PG")
            mean = ((p + q) / 2).tolist()
            expected["agreement"] += sum(-x * math.log(x, 4) for x in mean)
            if p.argmax() != q.argmax():
                expected["agreement"] += sum(-float(x.max()) * math.log(float(x.max()), 4) for x in (p, q))
            for side, other in (("P", "G"), ("G", "P")):
                vector = u[f"{side}_shared"] / u[f"{side}_shared"].norm()
                scores = [float(vector @ row / (row.norm() + 1e-12)) / 0.1 for row in memory[other]]
                expected["contrast"] += 0.25 * (math.log(sum(map(math.exp, scores))) - scores[c])
                shared[side].append((c, vector))
        for name, value in expected.items():
            assert float(losses[name]) == pytest.approx(value / 4, abs=1e-5)
        for side, vectors in shared.items():
            for c in (0, 2, 3):
                mean = torch.stack([vector for k, vector in vectors if k == c]).mean(dim=0)
                old = memory[side][c]
                memory[side][c] = mean if epoch == 1 else momentum * old + (1 - momentum) * mean
            assert torch.allclose(getattr(model, f"memory_{side}"), memory[side], atol=1e-6)
    assert (model.memory_P[1] == 0).all()


def test_momentum_grows():
    model = build("hsfsurv")
    found = []
    for epoch in (1, 2, 3, 4, 20):
        model.start_epoch(epoch)
        found.append(model.momentum)
    assert found == [0.5, 0.75, 0.875, 0.9, 0.9]


def test_pretraining_lowers_its_loss():
    torch.manual_seed(0)
    model, batch = build("hsfsurv").train(), make_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    totals = []
    for epoch in range(1, 13):
        model.start_epoch(epoch)
        optimizer.zero_grad()
        loss = sum(model.pretraining_loss(batch).values())
        loss.backward()
        optimizer.step()
        totals.append(float(loss.detach()))
    assert totals[-1] < 0.8 * totals[1]


def test_agreement():
    """0 where both are sure of one class; 1, to the base of the classes, where both know nothing."""
    sure, other, nothing = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 1, 0, 0]]), torch.full((1, 4), 0.25)
    assert agreement(sure, sure).tolist() == [0]
    assert agreement(nothing, nothing).tolist() == pytest.approx([1])
    assert agreement(sure, other).tolist() == pytest.approx([0.5])  # half a class each; being sure costs nothing
    p, q = torch.tensor([[0.6, 0.4, 0, 0]]), torch.tensor([[0.3, 0.7, 0, 0]])
    tops = -0.6 * math.log(0.6, 4) - 0.7 * math.log(0.7, 4)
    assert agreement(p, q).tolist() == pytest.approx([-0.45 * math.log(0.45, 4) - 0.55 * math.log(0.55, 4) + tops])


def test_classes_of_censored_cases():
    torch.manual_seed(0)
    interval = torch.tensor([1]).repeat(20_000)
    drawn = draw_class(interval, torch.zeros(20_000, dtype=torch.bool), 4)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0, 4 / 7, 2 / 7, 1 / 7], abs=0.02)
    assert torch.equal(draw_class(interval, torch.ones(20_000, dtype=torch.bool), 4), interval)
    assert draw_class(torch.tensor([3]), torch.tensor([False]), 4).tolist() == [3]


def test_parameters():
    """As the sheet of check figures has them, less what is never used; eight families of 100 genes."""
    families = tuple(tuple(range(100)) for _ in range(8))
    model = HSFSurv(InputSpec(1024, 4999, {"eight_families": families}))
    count = sum(p.numel() for p in model.parameters())
    assert count == 6_435_729 == 7_168_145 - 262_400 - 206_848 - 263_168
    pretraining = sum(p.numel() for part in (model.project, model.classify) for p in part.parameters())
    assert pretraining == 999_688 - 262_400 - 206_848 - 263_168


def test_every_parameter_matters():
    """In training or in pretraining; but the biases of the pooling, which shift all scores alike."""
    model, batch = build("hsfsurv", **QUIET).double().train(), make_batch()
    batch = replace(batch, expression=batch.expression.double())
    model.memory_P.normal_()
    model.memory_G.normal_()
    loss = loss_of(model(batch), batch) + sum(model.pretraining_loss(batch).values())
    loss.backward()
    weak = {name for name, p in model.named_parameters() if float(p.grad.abs().max()) < 1e-12}
    assert weak == {"pool_slices.w.bias", *(f"branches.{name}.0.pool.w.bias" for name in model.branches)}


def test_not_applicable_where_families_do_not_divide_the_features():
    assert HSFSurv.not_applicable(SPEC) is None
    reason = HSFSurv.not_applicable(replace(SPEC, patch_features=12))
    assert reason == "8 families of genes do not divide the 12 features of a patch"
    assert "no slides" in HSFSurv.not_applicable(replace(SPEC, patch_features=0))
    assert "eight_families" in HSFSurv.not_applicable(replace(SPEC, gene_sets={}))
