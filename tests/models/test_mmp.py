import math
from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, make_batch, modules_of, seen, take
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.mmp import MMP, fit_mixture

POINTS = torch.tensor([[0, 0], [1, 0], [0, 2], [3, 3]], dtype=torch.float64)
PROTOTYPES = torch.tensor([[0, 0], [2, 2]], dtype=torch.float64)
GOLDEN = {
    1: (
        [0.56052437, 0.43947563],
        [0.26219589, 0.29763977, 1.94102415, 2.27505749],
        [0.49138811, 0.80432987, 1.58584487, 0.89080621],
    ),
    3: (
        [0.60130608, 0.39869392],
        [0.27404916, 0.34473015, 2.09487162, 2.4063029],
        [0.4761612, 0.84781613, 1.46860798, 0.69440808],
    ),
}


@pytest.mark.parametrize("steps", GOLDEN)
def test_golden_mixture(steps):
    """Two prototypes, four points; from independent code."""
    for found, expected in zip(fit_mixture(POINTS, PROTOTYPES, steps), GOLDEN[steps], strict=True):
        assert found.flatten().tolist() == pytest.approx(expected, abs=5e-9)


def plain_mixture(X, prototypes):
    """One step, a patch and a prototype at a time."""
    C, d = len(prototypes), X.shape[1]
    responsibilities = []
    for x in X:
        likelihood = [math.exp(-float(((x - c) ** 2).sum()) / 2) / C for c in prototypes]
        responsibilities.append([value / sum(likelihood) for value in likelihood])
    rows, total = [], len(X) + C
    for k, c in enumerate(prototypes):
        r = [row[k] for row in responsibilities]
        n = sum(r) + 1
        mu = [(sum(a * float(x[j]) for a, x in zip(r, X, strict=True)) + float(c[j])) / n for j in range(d)]
        second = [
            (sum(a * float(x[j]) ** 2 for a, x in zip(r, X, strict=True)) + 1 + float(c[j]) ** 2) / n for j in range(d)
        ]
        rows.append([n / total, *mu, *(s - m**2 for s, m in zip(second, mu, strict=True))])
    return torch.tensor(rows)


def prepared(**hyperparameters) -> MMP:
    model = build("mmp", **{"prototypes": 3, **hyperparameters}).eval()
    torch.manual_seed(0)
    model.prepare([make_batch((9, 20, 4), seed=7)])
    return model


def test_condensed_bags_are_the_mixture():
    model, bag = prepared(), make_batch((11,)).bags[0]
    condensed = model.condense(bag)
    assert condensed.shape == (3, 33) and condensed.dtype == torch.float32
    assert torch.allclose(condensed, plain_mixture(bag.double(), model.centres.double()), atol=1e-4)
    assert float(condensed[:, 0].sum()) == pytest.approx(1)
    assert (condensed[:, 17:] > 0).all()


def read(model: MMP, x, mixture):
    """The logits of one case, a token at a time."""
    sets = SPEC.gene_sets["hallmarks"]
    modules = [module.eval() for module in modules_of(model.encode_genes, sets)]
    tokens = [module(x[list(genes)]) for module, genes in zip(modules, sets, strict=True)]
    tokens += [model.encode_prototypes(row) for row in mixture]
    tokens = [torch.cat([token, e]) for token, e in zip(tokens, model.E, strict=True)]
    Q, K, V = zip(*(model.query_key_value(model.norm(token)).chunk(3) for token in tokens), strict=True)
    T = []
    for j, q in enumerate(Q):
        scores = torch.stack([q @ k for k in K]) / math.sqrt(len(q))
        if model.double_softmax and j >= len(sets):
            scores = torch.cat([scores[: len(sets)].softmax(dim=0), scores[len(sets) :]])
        t = sum(a * v for a, v in zip(scores.softmax(dim=0), V, strict=True))
        ffn = model.feed_forward
        h = F.layer_norm(t, t.shape) * ffn.scale[j] + ffn.shift[j]
        h = F.gelu(h @ ffn.weight_1[j] + ffn.bias_1[j, 0]) @ ffn.weight_2[j] + ffn.bias_2[j, 0]
        T.append(model.norm_after(h))
    z = torch.cat([sum(T[: len(sets)]) / len(sets), sum(T[len(sets) :]) / len(mixture)])
    return model.hazard.weight @ z


@torch.no_grad()
@pytest.mark.parametrize("double_softmax", [False, True])
def test_the_equations(double_softmax):
    model = prepared(double_softmax=double_softmax)
    model.feed_forward.scale.uniform_(0.5, 2)
    model.feed_forward.shift.normal_()
    batch = seen(model, make_batch())
    for x, mixture, logits in zip(batch.expression, batch.bags, model(batch).logits, strict=True):
        assert torch.allclose(logits, read(model, x, mixture), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("double_softmax", "expected"), [(False, (0.644, 0.087, 0.237, 0.032)), (True, (0.364, 0.170, 0.410, 0.056))]
)
def test_golden_double_softmax(double_softmax, expected, monkeypatch):
    """Scores 2 and 0 for the gene sets, 1 and -1 for the prototypes."""
    spec = replace(SPEC, gene_sets={"hallmarks": ((0,), (1,))})
    model = build("mmp", spec, prototypes=2, width=4, embedding=0, double_softmax=double_softmax).eval()
    half = 2
    scores = torch.tensor([2.0, 0.0, 1.0, -1.0]) * math.sqrt(half)
    Q, K = torch.tensor([1.0, 0.0]).expand(4, 2), torch.stack([scores, torch.zeros(4)], dim=1)
    projected = torch.cat([Q, K, torch.zeros(4, 2)], dim=1)[None]
    monkeypatch.setattr(model.query_key_value, "forward", lambda tokens: projected)
    (A,) = model(seen(model, take(make_batch(), [0])), keep_attention=True).attention.fusion
    assert A[0, 2].tolist() == pytest.approx(expected, abs=6e-4)
    assert A[0, 0].tolist() == pytest.approx((0.644, 0.087, 0.237, 0.032), abs=6e-4)  # gene sets are as they should be


@pytest.mark.parametrize(("sets", "genes", "total"), [(50, 7_110, 8_551_072), (331, 9_745, 39_609_600)])
def test_parameters(sets, genes, total):
    """As the sheet counts them, less the 288 that nothing uses."""
    sizes = [genes // sets + (number < genes % sets) for number in range(sets)]
    spec = InputSpec(1024, 4999, {"hallmarks": tuple(tuple(range(size)) for size in sizes)})
    model = MMP(spec)
    assert sum(p.numel() for p in model.parameters()) == total
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    assert count["encode_prototypes"] == 524_800
    assert count["feed_forward"] == (sets + 16) * 42_048
    assert model.condense(torch.zeros(5, 1024).half()).numel() == 32_784


def test_prototypes_are_fitted_to_the_training_cases_and_saved():
    first, other = prepared(), build("mmp", prototypes=3)
    torch.manual_seed(0)
    other.prepare([make_batch((9, 20, 4), seed=8)])
    assert not torch.equal(first.centres, other.centres)
    assert torch.equal(first.state_dict()["centres"], first.centres)


@torch.no_grad()
def test_each_token_has_a_network_of_its_own():
    """So the order of prototypes matters: all cases have them in one."""
    model = prepared()
    batch = seen(model, make_batch())
    turned = replace(batch, bags=tuple(bag.flip(0) for bag in batch.bags))
    assert (model(turned).logits - model(batch).logits).abs().max() > 1e-4
