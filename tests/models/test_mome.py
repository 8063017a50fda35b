import math
from dataclasses import replace

import pytest
import torch
from small_models import build, loss_of, make_batch, take
from torch import nn
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.mome import MixtureLayer, MoME

SIZES = (53, 173, 216, 252, 387, 200)  # of the six groups among the genes of the pathways
OMEGA = 1.7596


def attend(layer, X):
    return math.sqrt(9 / math.log(9) - 1) * X + layer.attention(layer.norm(X)[None])[0]


def rms(norm, X):
    return X / (X**2).mean(dim=-1, keepdim=True).sqrt() * norm.weight


def snn(modules, X):
    norm, (linear, *_) = modules
    return F.elu(rms(norm, X) @ linear.weight.T + linear.bias)


def probabilities(layer: MixtureLayer, x, y):
    means = []
    for (linear, norm, _), tokens in ((layer.router.summarize_x, x), (layer.router.summarize_y, y)):
        means.append(F.gelu(rms(norm, tokens @ linear.weight.T + linear.bias)).mean(dim=0))
    return layer.router.logits(means[0] + means[1]).softmax(dim=0)


def expert(layer: MixtureLayer, number: int, x, y):
    """What an expert makes of one pair of bags."""
    if number == 0:
        return attend(layer.mix, torch.cat([x, y]))[: len(x)]
    if number == 1:
        b = attend(layer.gather, torch.cat([layer.bottlenecks, y]))[:2]
        return attend(layer.spread, torch.cat([x, b]))[: len(x)]
    if number == 2:
        return snn(layer.encode_x, x) + snn(layer.encode_y, y).mean(dim=0)
    return x


def choose(layer: MixtureLayer, number: int) -> None:
    """Make the router prefer an expert, whatever comes."""
    with torch.no_grad():
        layer.router.logits.bias.copy_(torch.full((4,), -9.0))
        layer.router.logits.bias[number] = 9


@torch.no_grad()
@pytest.mark.parametrize("experts", [None, (0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_the_equations(experts):
    """By the routers as they start, and by each expert in each layer. A bag of 30 has more tokens than landmarks."""
    model, batch = build("mome").eval(), make_batch((7, 1, 4, 9, 30))
    for layer, number in zip(model.layers, experts or (), strict=bool(experts)):
        choose(layer, number)
    prediction = model(batch)
    assert prediction.case.tolist() == [0, 1, 2, 3, 4]
    _, bags = model._micro_bags(batch)
    for number, (H, groups) in enumerate(zip(bags, model.encode_groups(batch.expression), strict=True)):
        tokens = {"H": H, "G": groups}
        for position, layer in enumerate(model.layers):
            mine, other = ("H", "G") if position % 2 == 0 else ("G", "H")
            p = probabilities(layer, tokens[mine], tokens[other])
            tokens[mine] = expert(layer, int(p.argmax()), tokens[mine], tokens[other])
        z = attend(model.fuse, torch.cat([model.class_token, tokens["H"], tokens["G"]]))[0]
        assert torch.allclose(prediction.logits[number], model.hazard(z), atol=1e-4)


def test_omega():
    assert math.sqrt(9 / math.log(9) - 1) == pytest.approx(OMEGA, abs=1e-4)


def test_the_gate_is_straight_through():
    """The output is that of the chosen expert; the router's gradient is that of the sum of all, weighted by p."""
    torch.manual_seed(0)
    layer = MixtureLayer(16, 8, 0.0, learns=True)
    layer.apply(lambda module: setattr(module, "p", 0.0) if isinstance(module, nn.Dropout) else None)
    x, y = [torch.randn(5, 16), torch.randn(3, 16)], [torch.randn(4, 16), torch.randn(6, 16)]
    quiet = layer.eval()(x, y)
    out = layer.train()(x, y)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(out, quiet, strict=True))

    wanted = [torch.randn_like(tokens) for tokens in out]
    sum((tokens * w).sum() for tokens, w in zip(out, wanted, strict=True)).backward()
    found = {name: p.grad.clone() for name, p in layer.router.named_parameters()}
    layer.zero_grad()
    loss = 0.0
    for x_bag, y_bag, w in zip(x, y, wanted, strict=True):
        p = probabilities(layer, x_bag, y_bag)
        loss = loss + sum(p[number] * (expert(layer, number, x_bag, y_bag).detach() * w).sum() for number in range(4))
    loss.backward()
    for name, parameter in layer.router.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-4), name


def test_published_routers_are_frozen():
    model, batch = build("mome", published=True).train(), make_batch()
    loss_of(model(batch), batch).backward()
    for layer in model.layers:
        assert not any(p.requires_grad for p in layer.router.parameters())
    assert model.class_token.grad is not None
    with torch.no_grad():
        assert torch.equal(model.eval()(batch).logits, build("mome").eval()(batch).logits)


@pytest.mark.parametrize("published", [False, True])
def test_parameters(published):
    """As the sheet of check figures has them; vectors that were constants are parameters, unused norms are gone."""
    groups = tuple(tuple(range(size)) for size in SIZES)
    model = MoME(InputSpec(1024, 4999, {"six_groups": groups}), published=published)
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    layer = 4_205_852 + 1_024 - 512
    assert count == {
        "encode_patches": 524_800,
        "encode_groups": 2_234_880,
        "layers": 4 * layer,
        "fuse": 1_050_376,
        "hazard": 2_052,
    }
    total = sum(p.numel() for p in model.parameters())
    assert total == 20_635_516 + 512 + 4 * 1_024 - 4 * 512
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == (4 * 528_388 if published else 0)


def test_evaluation_above_a_micro_bag_is_a_matter_of_the_case_alone():
    model, batch = build("mome", micro_bag=10).eval(), make_batch((30, 3, 17, 9))
    prediction = model(batch)
    assert prediction.case.tolist() == [0] * 4 + [1] + [2] * 2 + [3]
    shuffled = replace(batch, bags=tuple(bag[torch.randperm(len(bag))] for bag in batch.bags))
    assert torch.allclose(model(shuffled).hazards, prediction.hazards, atol=1e-5)
    alone = torch.cat([model(take(batch, [number])).hazards for number in range(4)])
    assert torch.allclose(alone, prediction.hazards, atol=1e-5)


def test_tokens_of_groups_are_not_changed_by_a_batch_of_other_routes():
    """Cases that take different experts, side by side and alone."""
    model, batch = build("mome").eval(), make_batch((7, 5, 4, 9))
    with torch.no_grad():
        for layer in model.layers:  # routers that tell cases apart
            layer.router.logits.weight.mul_(200)
    chosen = {tuple(route) for route in routes(model, batch)}
    assert len(chosen) > 1
    alone = torch.cat([model(take(batch, [number])).logits for number in range(4)])
    assert torch.allclose(alone, model(batch).logits, atol=1e-5)


def routes(model: MoME, batch):
    """The experts of each case in the four layers."""
    found = []
    for layer in model.layers:
        layer.router.register_forward_hook(lambda module, inputs, p: found.append(p.argmax(dim=1).tolist()))
    model(batch)
    for layer in model.layers:
        layer.router._forward_hooks.clear()
    return list(zip(*found, strict=True))
