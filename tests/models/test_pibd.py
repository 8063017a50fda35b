import math
from dataclasses import replace

import pytest
import torch
from small_models import SPEC, build, loss_of, make_batch, modules_of, take
from torch.nn import functional as F

from survq.data.cohort import Cohort, InputSpec
from survq.data.folds import given_folds
from survq.models.losses import nll_by_case, nll_survival_loss
from survq.models.pibd import PIBD, Bottleneck, Club, SharedLayer
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.loop import train_folds
from survq.training.run import Run

SMALL = {"width": 8, "heads": 2, "sub_bag": 4, "sub_bags": 3}
QUIET = {"code_dropout": 0.0, "layer_dropout": 0.0, "pathway_dropout": 0.0}


def pibd(spec=SPEC, **hyperparameters) -> PIBD:
    model = build("pibd", spec, **{**SMALL, **hyperparameters}).eval()
    with torch.no_grad():  # prototypes that differ by more than their noise
        for modality in (model.histology, model.genomics):
            modality.prototypes *= 3
    return model


# The equations, computed for one case, sub-bag, token and prototype at a time.


def attend(layer: SharedLayer, x, tokens):
    """One step of the layer for one token, which attends to `tokens`, including itself."""
    q, k, v = layer.query_key_value(layer.norm(torch.stack([x, *tokens]))).chunk(3, dim=1)
    parts = []
    for q_h, k_h, v_h in zip(*(t.chunk(layer.heads, dim=1) for t in (q, k, v)), strict=True):
        scores = torch.stack([q_h[0] @ key for key in k_h[1:]]) / math.sqrt(len(q_h[0]))
        parts.append(sum(a * value for a, value in zip(scores.softmax(dim=0), v_h[1:], strict=True)))
    x = x + layer.project(torch.cat(parts))
    return x + layer.mlp(x)


def bottleneck(modality: Bottleneck, X, P, outcome):
    """The selected codes, the patient's mu and sigma, and the proxy loss of one bag."""
    codes = [modality.encode(x) for x in X]
    k = max(1, int(modality.share * len(codes)))
    cosines = [[F.cosine_similarity(code, p, dim=0) for code in codes] for p in P]
    pairs = sorted((-float(c), j, i) for j, row in enumerate(cosines) for i, c in enumerate(row))[:k]
    proxy = 0.0
    if outcome is None:
        votes = [j for _, j, _ in pairs]
        outcome = max(range(len(P)), key=votes.count)
    else:
        nearest = [torch.stack(row).sort(descending=True).values[:k].mean() for row in cosines]
        others = [value for j, value in enumerate(nearest) if j != outcome]
        proxy = sum(others) / len(others) - nearest[outcome]
    mu, sigma = modality.prototypes[outcome].chunk(2)
    return [codes[i] for _, _, i in pairs], mu, F.softplus(sigma), proxy


def reference(model: PIBD, batch, sub_bags, outcomes, noise, spec=SPEC):
    """The logits, and the tokens and proxy losses of each sub-bag of each case. `noise` is that of P_h, P_g and z_0."""
    modules = modules_of(model.encode_pathways, spec.pathways)
    modalities = (model.histology, model.genomics)
    P_h, P_g = (
        [mu + F.softplus(sigma) * n for (mu, sigma), n in zip((p.chunk(2) for p in m.prototypes), e, strict=True)]
        for m, e in zip(modalities, noise, strict=False)
    )
    logits, found = [], []
    for number, bags in enumerate(sub_bags):
        x = batch.expression[number]
        X_g = [module.eval()(x[list(genes)]) for module, genes in zip(modules, spec.pathways, strict=True)]
        of_case, tokens_of_case = [], []
        for bag in bags:
            H, mu_h, sigma_h, proxy_h = bottleneck(model.histology, bag.float(), P_h, outcomes[number])
            G, mu_g, sigma_g, proxy_g = bottleneck(model.genomics, X_g, P_g, outcomes[number])
            w_h, w_g = model.expert_logits.softmax(dim=0)
            t_h, t_g = w_h / sigma_h, w_g / sigma_g
            z_0 = (mu_h * t_h + mu_g * t_g) / (t_h + t_g) + noise[2][0] / (t_h + t_g)
            z_h = torch.stack([attend(model.disentangle, h, H) for h in H]).mean(dim=0)
            z_g = torch.stack([attend(model.disentangle, g, G) for g in G]).mean(dim=0)
            z = attend(model.disentangle, z_0, [z_0, *H, *G])
            of_case.append(model.hazard(torch.cat([z_h, z_g, z])))
            tokens_of_case.append((z_h, z_g, z, proxy_h + proxy_g))
        logits.append(torch.stack(of_case).mean(dim=0))
        found.append(tokens_of_case)
    return torch.stack(logits), found


def sub_bags_of(model: PIBD, batch) -> list[list[torch.Tensor]]:
    found: list[list[torch.Tensor]] = [[] for _ in range(len(batch))]
    for case, bags in model._sub_bags(batch):
        for number, bag in zip(case.tolist(), bags, strict=True):
            found[number].append(bag)
    return found


@torch.no_grad()
def test_the_equations():
    """Bags of one patch, of less than one sub-bag, of one, of several, and of more than the maximum."""
    model, batch = pibd(), make_batch((3, 1, 4, 7, 9, 30))
    noise = (*model._noise(16).split(8), model._noise(1))
    noise = (noise[0], noise[0], noise[2])  # every draw has the same seed
    expected, _ = reference(model, batch, sub_bags_of(model, batch), [None] * 6, noise)
    assert torch.allclose(model(batch).logits, expected, atol=1e-5)


@torch.no_grad()
def test_the_penalty(monkeypatch):
    """Term by term, with 1, 1, 2 and 3 sub-bags per case."""
    model, batch = pibd(**QUIET).train(), make_batch((3, 7, 9, 30))
    torch.manual_seed(3)
    fixed = torch.randn(8, 8) / 50**0.5
    monkeypatch.setattr(model, "_noise", lambda rows: fixed[: min(rows, 8)] if rows == 8 else fixed[:1])
    torch.manual_seed(1)
    prediction = model(batch)
    torch.manual_seed(1)
    outcomes = [0, 5, 2, 7]  # died in 0 and 2, censored in 1 and 3
    expected, found = reference(model, batch, sub_bags_of(model, batch), outcomes, (fixed, fixed, fixed))
    assert torch.allclose(prediction.logits, expected, atol=1e-5)

    proxy = sum(sum(proxy for *_, proxy in bags) / len(bags) for bags in found) / 4
    prototypes = 0.0
    for modality in (model.histology, model.genomics):
        mu, sigma = modality.prototypes.chunk(2, dim=1)
        sigma = F.softplus(sigma)
        one_by_one = [modality.classify(mu + sigma * fixed)[j] for j in range(8)]
        labels = [(j % 4, j < 4) for j in range(8)]
        prototypes += 0.1 * sum(
            nll_survival_loss(logits[None], torch.tensor([interval]), torch.tensor([event]), alpha=0.5)
            for logits, (interval, event) in zip(one_by_one, labels, strict=True)
        )
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mu, sigma), normal(0.0, 1.0))
        prototypes += 0.01 * kl.sum(dim=1).mean()

    def club(regression, pairs, weights):
        f = [regression.regress(x) for x, _ in pairs]
        log_q = torch.stack([torch.stack([-((y - f_i) ** 2).sum() / 2 for _, y in pairs]) for f_i in f])
        bound = (weights * log_q.diagonal()).sum() - weights @ log_q @ weights
        return bound - 2 * (weights * log_q.diagonal()).sum()

    every = [token for bags in found for token in bags]
    weights = torch.tensor([1 / len(bags) / 4 for bags in found for _ in bags])
    both = club(model.patches_tell_pathways, [(h, g) for h, g, _, _ in every], weights)
    both += club(model.both_tell_global, [(torch.cat([h, g]), z) for h, g, z, _ in every], weights)
    expected = {"proxy": proxy, "prototypes": prototypes / 32, "CLUB": 0.1 * both / 32}
    assert {name: float(term) for name, term in prediction.penalties.items()} == {
        name: pytest.approx(float(term), abs=1e-5) for name, term in expected.items()
    }


def test_parameters(pathway_sizes):
    """The numbers of the sheet of check figures."""
    model = PIBD(InputSpec(1024, 4999, {"pathways": tuple(tuple(range(size)) for size in pathway_sizes)}))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    club = count.pop("patches_tell_pathways") + count.pop("both_tell_global")
    assert count == {
        "encode_pathways": 24_356_608,
        "histology": 923_908,
        "genomics": 530_692,
        "disentangle": 395_776,
        "hazard": 197_892,
    }
    assert (club, model.expert_logits.numel()) == (656_896, 2)
    assert sum(p.numel() for p in model.parameters()) == 27_061_774

    batch = make_batch((600, 70), spec=replace(SPEC, patch_features=1024, genes=4999))
    assert model.eval()(batch).logits.isfinite().all()

    # the survival loss alone has no gradient to the regressions and the prototypes' classifiers
    prediction = model.train()(batch)
    nll_survival_loss(prediction.logits, batch.interval, batch.event).backward()
    assert sum(p.numel() for p in model.parameters() if p.grad is None) == 658_952


@torch.no_grad()
def test_golden_loss_of_the_prototypes():
    """All logits 0, alpha 0.5, summed over the 8 outcomes; the divergence of N(0, 1) prototypes is 0."""
    interval, event = torch.arange(8) % 4, torch.arange(8) < 4
    assert float(nll_by_case(torch.zeros(8, 4), interval, event, 0.5).sum()) == pytest.approx(10.39720771)

    model = pibd()
    for modality in (model.histology, model.genomics):
        for parameter in modality.classify.parameters():
            parameter.zero_()
        modality.prototypes[:, :8] = 0
        modality.prototypes[:, 8:] = math.log(math.e - 1)
    loss = model._prototype_loss(model.histology, model.histology.draw(model._noise(8)))
    assert float(loss) == pytest.approx(0.1 * 10.39720771, abs=1e-6)


@torch.no_grad()
def test_labels_are_used_in_training_only():
    model, batch = pibd(), make_batch((7, 1, 4, 9))
    other = replace(batch, event=~batch.event, interval=batch.interval.flip(0), time=batch.time.flip(0))
    seen, unseen = model(batch), model(other)
    assert torch.equal(seen.logits, unseen.logits)
    assert seen.penalties == unseen.penalties == {}

    found = []
    for labelled in (batch, other):
        torch.manual_seed(0)
        found.append(model.train()(labelled))
    assert not torch.equal(found[0].logits, found[1].logits)
    assert float(found[0].penalties["proxy"]) != float(found[1].penalties["proxy"])


@pytest.mark.parametrize(("patches", "count", "size"), [(1, 1, 1), (4, 1, 4), (7, 1, 4), (8, 2, 4), (99, 3, 4)])
def test_sub_bags(patches, count, size):
    """As many disjoint sub-bags as fit, at most 3, of patches in the bag."""
    batch = make_batch((2, patches))
    bag = batch.bags[1].float()
    sub_bags = sub_bags_of(pibd(), batch)[1]
    assert [len(sub_bag) for sub_bag in sub_bags] == [size] * count
    rows = [(bag == patch).all(dim=1).nonzero().item() for sub_bag in sub_bags for patch in sub_bag]
    assert len(set(rows)) == count * size


def test_sub_bags_are_random_in_training_and_fixed_in_evaluation():
    model, batch = pibd(), make_batch((20, 20))
    assert torch.equal(torch.stack(sub_bags_of(model, batch)[1]), torch.stack(sub_bags_of(model, batch)[1]))
    model.train()
    assert not torch.equal(torch.stack(sub_bags_of(model, batch)[1]), torch.stack(sub_bags_of(model, batch)[1]))


def test_evaluation_is_batch_invariant():
    """Including the sub-bags, which differ between cases."""
    model, batch = pibd(), make_batch([1 + number * 7 % 41 for number in range(32)])
    together = model(batch).logits
    alone = torch.cat([model(take(batch, [number])).logits for number in range(32)])
    assert torch.allclose(together, alone, atol=1e-6)
    backwards = model(take(batch, list(range(31, -1, -1)))).logits
    assert torch.allclose(together, backwards.flip(0), atol=1e-6)

    same_bag = replace(batch, bags=(batch.bags[5],) * 32)  # 36 patches
    first, second, *_ = sub_bags_of(model, same_bag)
    assert not torch.equal(torch.stack(first), torch.stack(second))


def test_evaluation_does_not_change_the_random_state():
    model, batch = pibd(), make_batch((20, 3))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = model(batch).logits
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(model(batch).logits, first)


def test_patch_order_does_not_matter_in_a_single_sub_bag():
    model, batch = pibd(sub_bag=20), make_batch((7, 1, 4, 20))
    shuffled = replace(batch, bags=tuple(bag[torch.randperm(len(bag))] for bag in batch.bags))
    assert torch.allclose(model(shuffled).logits, model(batch).logits, atol=1e-6)


def test_equal_sub_bags_equal_a_single_one():
    model, one = pibd(), make_batch((1,))
    few, many = (replace(one, bags=(one.bags[0].expand(patches, -1),)) for patches in (4, 30))
    assert torch.allclose(model(many).logits, model(few).logits, atol=1e-6)


@torch.no_grad()
def test_pairs_select_codes_and_vote():
    """Three codes, one of which is near two prototypes and therefore selected twice."""
    modality = Bottleneck(2, 2, 2, share=1.0, dropout=0.0).eval()
    modality.encode = torch.nn.Identity()
    P = torch.tensor([[1.0, 0.0], [0.9, 0.3], [0.0, 1.0], [-1.0, 0.0]])
    X = torch.tensor([[[2.0, 0.2], [0.0, -1.0], [0.1, 5.0]]])
    read = modality(X, P, None)
    assert sorted(read.tokens[0].tolist()) == [pytest.approx(x) for x in ([0.1, 5.0], [2.0, 0.2], [2.0, 0.2])]
    assert torch.equal(read.mu[0], modality.prototypes[0, :2])  # one vote each for 0, 1 and 2: the first wins
    assert float(read.proxy) == 0

    read = modality(X, P, torch.tensor([2]))
    cosine = F.cosine_similarity(X[0][None], P[:, None], dim=2)  # (outcome, instance)
    others = cosine[[0, 1, 3]].mean()
    assert float(read.proxy) == pytest.approx(float(others - cosine[2].mean()), abs=1e-6)
    assert torch.equal(read.mu[0], modality.prototypes[2, :2])


@torch.no_grad()
def test_noise_is_the_mean_of_draws():
    model = pibd(width=200, samples=50).train()
    torch.manual_seed(0)
    noise = model._noise(500)
    assert float(noise.std()) == pytest.approx(1 / math.sqrt(50), rel=0.02)
    assert torch.equal(model.eval()._noise(4), model._noise(4))


@torch.no_grad()
def test_the_product_of_experts():
    model, batch = pibd(samples=10**12), make_batch((3,))  # without noise
    h = model.histology(torch.randn(5, 4, 16), torch.randn(8, 8), torch.tensor([0, 1, 2, 3, 4]))
    g = model.genomics(torch.randn(5, 6, 8), torch.randn(8, 8), torch.tensor([4, 3, 2, 1, 0]))
    alike = replace(g, sigma=h.sigma)
    assert torch.allclose(model._product_of_experts(h, alike), (h.mu + g.mu) / 2, atol=1e-5)
    model.expert_logits.copy_(torch.tensor([30.0, -30.0]))
    assert torch.allclose(model._product_of_experts(h, g), h.mu, atol=1e-5)
    assert model(batch).logits.isfinite().all()


@torch.no_grad()
def test_the_bound_of_information():
    """0 if x does not predict y, also for a batch of one; larger if it does."""
    torch.manual_seed(0)
    club, x = Club(6, 6), torch.randn(400, 6)
    club.regress = torch.nn.Identity()  # predicts y = x

    def bound(y):
        weight = torch.full((len(y),), 1 / len(y))
        return float(club(x[: len(y)], y, weight) - (weight[:, None] * (y - x[: len(y)]) ** 2).sum())

    assert bound(x[:1]) == pytest.approx(0, abs=1e-5)
    assert bound(torch.randn(400, 6)) == pytest.approx(0, abs=0.6)
    assert bound(x) == pytest.approx(float(x.var(dim=0, correction=0).sum()), rel=1e-4)


def test_every_parameter_matters():
    """Except the bias of the keys, which shifts all scores of a query equally."""
    model, batch = pibd(**QUIET).double().train(), make_batch((7, 1, 4, 9))
    batch = replace(batch, expression=batch.expression.double())
    prediction = model(batch)
    loss_of(prediction, batch).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if name == "disentangle.query_key_value.bias":
            query, keys, values = gradient.chunk(3)
            assert float(keys.abs().max()) < 1e-12
            gradient = torch.cat([query, values])
        assert float(gradient.abs().max()) > 1e-9, name


def test_half_precision():
    """Under autocast, selection and losses are in full precision; the rest may be in half precision."""
    model, batch = pibd(**QUIET), make_batch((7, 1, 4, 9))
    whole = model(batch).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch).logits
        prediction = model.train()(batch)
    assert torch.allclose(half, whole, atol=0.1)
    assert all(term.dtype == torch.float32 for term in prediction.penalties.values())
    loss_of(prediction, batch).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 8"):
        pibd(heads=3)


def test_learns(tmp_path):
    """In three epochs of 600 cases, in sub-bags of 32 patches, by the common training loop; the true risk has 0.85."""
    cohort = Cohort.load(write_simulated(tmp_path, "test").parent, "SIM")
    config = TrainConfig("pibd", {"width": 32, "sub_bag": 32}, learning_rate=2e-3, epochs=3)
    run = Run("SIM", config, tuple(given_folds(cohort.splits, list(cohort.cases.index))))
    outcome = train_folds(run, cohort, cohort.bags(), device=torch.device("cpu"))
    assert outcome.state == "finished"
    assert outcome.epochs[-1].training_loss[0] < outcome.epochs[0].training_loss[0]
    assert outcome.epochs[-1].c_index[0] > 0.6
