from dataclasses import replace
from itertools import permutations

import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.ccl import CCL, Interaction, contrast, k_means

SIZES = (53, 173, 216, 252, 387, 200)  # of the six groups among the genes of the pathways
GROUPS = SPEC.gene_sets["six_groups"]
QUIET = {"dropout": 0.0}


def interact(module: Interaction, a, b):
    """With the outer product made."""
    a, b = module.first(a), module.second(b)
    outer = a[:, None] * b
    gate_a, gate_b = module.gate_first(outer)[:, 0].sigmoid(), module.gate_second(outer.T)[:, 0].sigmoid()
    return gate_a * a + gate_b * b


def centres_of(model: CCL, bag):
    """k-means from the patches that suit M best, all ways tried; then the centres in the best of all orders."""
    M, X = model.memory, bag.float()
    ways = permutations(range(len(X)), len(M)) if len(X) >= len(M) else [tuple(i % len(X) for i in range(len(M)))]
    best = min(ways, key=lambda way: float(sum(((M[i] - X[j]) ** 2).sum() for i, j in enumerate(way))))
    C = X[list(best)]
    for _ in range(20):
        nearest = [min(range(len(C)), key=lambda i: float(((x - C[i]) ** 2).sum())) for x in X]
        C = torch.stack(
            [
                torch.stack([x for x, n in zip(X, nearest, strict=True) if n == i]).mean(dim=0) if i in nearest else c
                for i, c in enumerate(C)
            ]
        )

    def difference(order) -> float:
        return float(sum((M[i] - C[j]).abs().sum() for i, j in enumerate(order)))

    order = min(permutations(range(len(C))), key=difference)
    return C[list(order)]


def tokens_of(model: CCL, C, x):
    """P, G and T of a case, from its centres and its expression."""
    groups = [
        model.encode_group(block(x[list(genes)])) for block, genes in zip(model.encode_groups, GROUPS, strict=True)
    ]
    summed = (
        sum(weight * token for weight, token in zip(linear.weight[0], tokens, strict=True)) + linear.bias
        for linear, tokens in ((model.to_P, [model.encode_centres(c) for c in C]), (model.to_G, groups))
    )
    P, G = (F.relu((z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt()) for z in summed)
    return (
        P,
        G,
        torch.stack(
            [interact(model.common, P, G), interact(model.synergy, P, G), model.of_genes(G), model.of_patches(P)]
        ),
    )


@torch.no_grad()
def test_the_equations():
    model, batch = build("ccl", clusters=3).eval(), make_batch((7, 3, 6))
    logits = model(batch).logits
    for number, (bag, x) in enumerate(zip(batch.bags, batch.expression, strict=True)):
        C = centres_of(model, bag)
        assert torch.allclose(model._centres(bag), C, atol=1e-5)
        _, _, T = tokens_of(model, C, x)
        X = torch.cat([model.class_token, T])
        for norm, attention in model.mix:
            X = X + attention(norm(X)[None])[0]
        assert torch.allclose(logits[number], model.hazard(model.norm(X[0])), atol=1e-5)


@torch.no_grad()
def test_the_penalties():
    """Case by case over two batches: what a case is held against is what came before it, of whatever batch."""
    model = build("ccl", **QUIET).train()
    seen: list = []  # (interval, tokens), the newest last
    for seed in (0, 1):
        batch = replace(make_batch((7, 1, 4, 9, 6, 6), seed=seed), interval=torch.tensor([0, 1, 1, 3, 0, 0]))
        C = [model._centres(bag) for bag in batch.bags]
        penalties = model(batch).penalties
        intra, inter = 0.0, 0.0
        for number in range(6):
            P, G, T = tokens_of(model, C[number], batch.expression[number])
            for k, wanted in enumerate([(1, 1), (0, 0), (1, 0), (0, 1)]):
                for modality, m in zip((G, P), wanted, strict=True):
                    cos = F.cosine_similarity(T[k], modality, dim=0)
                    intra += ((1 - m) * cos.abs() - m * cos) / 8
            intra += 1
            y, died = int(batch.interval[number]), bool(batch.event[number])
            others = [(k, tokens) for k, tokens in seen]
            seen.append((y, T))
            if died:
                positive, negative = [t for k, t in others if k == y], [t for k, t in others if k != y]
            else:
                positive, negative = [t for k, t in seen if k >= y], [t for k, t in seen if k < y]
            if positive and negative:
                p, n = (torch.stack([(T * t / 2).exp() for t in ts]).mean() for ts in (positive, negative))
                inter += -(p / (p + n)).log()
        assert float(penalties["intra"]) == pytest.approx(float(intra) / 6, abs=1e-5)
        assert float(penalties["inter"]) == pytest.approx(float(inter) / 6, abs=1e-5)
    assert float(inter) > 0


@torch.no_grad()
def test_memory_and_banks_move_in_training_alone():
    model, batch = build("ccl").eval(), make_batch((7, 1, 4, 9))
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(batch)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    expected = before["memory"]
    for bag in batch.bags:
        expected = 0.9 * expected + 0.1 * model._centres(bag)
    model.train()(batch)
    assert torch.allclose(model.memory, expected, atol=1e-6)
    assert model.banked.tolist() == [1, 1, 1, 1]
    for _ in range(12):
        model(batch)
    assert model.banked.tolist() == [10] * 4
    assert before.keys() <= model.state_dict().keys()  # saved with the weights


def test_gradients_pass_a_bank_that_moves():
    model, batch = build("ccl").train(), make_batch((7, 1, 4, 9, 6, 6))
    for _ in range(3):
        loss_of(model(batch), batch).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_parameters():
    """As the sheet of check figures has them, less a module that is never used."""
    groups = tuple(tuple(range(size)) for size in SIZES)
    model = CCL(InputSpec(1024, 4999, {"six_groups": groups}))
    assert sum(p.numel() for p in model.parameters()) == 1_584_678 == 1_606_694 - 22_016


def test_every_parameter_matters():
    """But the biases of the weighted sums, which the norm takes away."""
    model, batch = build("ccl", **QUIET).double().train(), make_batch()
    batch = replace(batch, expression=batch.expression.double())
    loss_of(model(batch), batch).backward()
    weak = {name for name, p in model.named_parameters() if float(p.grad.abs().max()) < 1e-9}
    assert weak == {"to_G.bias", "to_P.bias"}


def test_k_means():
    """Finds clusters that are apart; stops after the iterations it is given; keeps a centre that is nearest to none."""
    torch.manual_seed(0)
    true = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    X = (true[:, None] + 0.1 * torch.randn(3, 50, 2)).flatten(0, 1)
    found = k_means(X, X[[0, 60, 110]])
    assert torch.allclose(found, true, atol=0.1)
    assert torch.allclose(found, X.view(3, 50, 2).mean(dim=1), atol=1e-5)
    lost = torch.tensor([[0.0, 0.0], [1e3, 1e3], [0.0, 9.0]])
    assert torch.equal(k_means(X, lost)[1], lost[1])
    slow = torch.linspace(0, 1, 200)[:, None] ** 3
    assert not torch.allclose(k_means(slow, slow[:4], 1), k_means(slow, slow[:4], 2))


def test_contrast_does_not_overflow():
    T = torch.full((4, 3), 30.0)
    assert float(contrast(T, T[None], -T[None])) == pytest.approx(0, abs=1e-6)
    assert float(contrast(T, -T[None], T[None])) == pytest.approx(900, rel=1e-6)
    assert float(contrast(T, T[None], T[None])) == pytest.approx(torch.tensor(2.0).log().item())


@pytest.mark.parametrize("patches", [1, 2, 5, 6, 7])
def test_cases_of_few_patches(patches):
    model, batch = build("ccl").eval(), make_batch((patches,))
    C = model._centres(batch.bags[0])
    assert C.isfinite().all()
    assert len(C.unique(dim=0)) >= {1: 1, 2: 2, 5: 3, 6: 6, 7: 6}[patches]  # none starts from a patch needlessly often
    assert model(batch).logits.isfinite().all()
