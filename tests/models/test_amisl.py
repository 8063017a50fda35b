from dataclasses import replace

import torch
from small_models import build, make_batch, take
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.amisl import AMISL


def amisl(**hyperparameters) -> AMISL:
    """With centres that make clusters of any size, some of them empty in small bags."""
    model = build("amisl", **{"clusters": 4, **hyperparameters}).eval()
    model.centres.normal_(generator=torch.Generator().manual_seed(1))
    return model


def cluster_of(model: AMISL, x) -> int:
    return min(range(len(model.centres)), key=lambda k: float((x - model.centres[k]).norm()))


def read(model: AMISL, bag):
    """The logits of one case, a patch and a cluster at a time."""
    of_cluster: dict[int, list] = {}
    for x in bag.float():
        k = cluster_of(model, x)
        first, second = model.encode[k][0], model.encode[k][3]
        of_cluster.setdefault(k, []).append(F.relu(second(F.relu(first(x)))))
    H = [F.relu(model.embed[0](sum(P) / len(P))) for P in of_cluster.values()]
    attention = model.attention
    scores = [attention.w(torch.tanh(attention.V[0](h)) * torch.sigmoid(attention.U[0](h))) for h in H]
    a = torch.cat(scores).softmax(dim=0)
    z = sum(weight * h for weight, h in zip(a, H, strict=True))
    return model.hazard(F.relu(model.refine[0](z)))


@torch.no_grad()
def test_the_equations():
    model, batch = amisl(), make_batch((7, 1, 2, 30))
    assert len({cluster_of(model, x.float()) for x in batch.bags[2]}) < 4  # some cluster is empty
    for bag, logits in zip(batch.bags, model(batch).logits, strict=True):
        assert torch.allclose(logits, read(model, bag), atol=1e-6)


def test_parameters():
    """As the sheet counts them."""
    model = AMISL(InputSpec(1024, 0, {}))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    attention = count.pop("embed") + count.pop("attention")
    assert count == {"encode": 7_874_560, "refine": 131_328, "hazard": 1_028}
    assert attention == 525_569
    assert sum(p.numel() for p in model.parameters()) == 8_532_485


@torch.no_grad()
def test_clusters_without_patches_take_no_attention():
    """In the authors' code they are zeros that do."""
    model, batch = amisl(), make_batch((1,))
    expected = model(batch).logits
    k = cluster_of(model, batch.bags[0][0].float())
    for other in set(range(4)) - {k}:
        for parameter in model.encode[other].parameters():
            parameter.fill_(100.0)
    assert torch.equal(model(batch).logits, expected)
    model.encode[k][0].weight.mul_(-1)
    assert not torch.equal(model(batch).logits, expected)


def test_clusters_are_those_of_the_training_patches_and_are_saved():
    """Three groups far apart: a patch of one goes through the network of one."""
    model = build("amisl", clusters=3)
    batch = make_batch((60, 50, 40))
    shift = torch.zeros(3, 16).half()
    shift[1, 0], shift[2, 1] = 40, 40
    grouped = replace(batch, bags=tuple(bag + shift[number] for number, bag in enumerate(batch.bags)))
    torch.manual_seed(0)
    model.prepare([take(grouped, [0, 1]), take(grouped, [2])])
    found = [{cluster_of(model, x.float()) for x in bag} for bag in grouped.bags]
    assert sorted(found, key=min) == [{0}, {1}, {2}]
    assert torch.equal(model.state_dict()["centres"], model.centres)
    assert not model.centres.requires_grad


def test_copies_of_a_bag_change_nothing():
    model, batch = amisl(), make_batch((5, 3))
    many = replace(batch, bags=tuple(bag.repeat(30, 1) for bag in batch.bags))
    assert torch.allclose(model(many).logits, model(batch).logits, atol=1e-6)
