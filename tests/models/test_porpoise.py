import torch
from small_models import build, make_batch
from torch.nn import functional as F

from survq.data.cohort import InputSpec
from survq.models.porpoise import BilinearFusion, Porpoise


def fused(fusion: BilinearFusion, h_1, h_2):
    """z of one case."""
    o = []
    for m, h in enumerate((h_1, h_2)):
        gate = torch.sigmoid(fusion.Z[m](torch.cat([h_1, h_2])))
        o.append([*F.relu(fusion.W_3[m](gate * F.relu(fusion.W_1[m](h)))), torch.tensor(1.0)])
    B = torch.stack([a * b for a in o[0] for b in o[1]])
    return F.relu(fusion.W_z(torch.cat([F.relu(fusion.W_B(B)), h_1, h_2])))


@torch.no_grad()
def test_the_equations():
    model, batch = build("porpoise").eval(), make_batch()
    prediction = model(batch, keep_attention=True)
    attention = model.attention
    for number, bag in enumerate(batch.bags):
        P = [F.relu(model.embed[1](x)) for x in bag.float()]
        scores = [attention.w(torch.tanh(attention.V[0](p)) * torch.sigmoid(attention.U[0](p))) for p in P]
        a = torch.cat(scores).softmax(dim=0)
        h_1 = F.relu(model.refine[0](sum(weight * p for weight, p in zip(a, P, strict=True))))
        h_2 = batch.expression[number]
        for block in model.encode_genes:
            h_2 = F.elu(block[0](h_2))
        logits = model.hazard(fused(model.fuse, h_1, h_2))
        assert torch.allclose(prediction.logits[number], logits, atol=1e-6)
        assert torch.allclose(prediction.attention.histology[number], a[None], atol=1e-6)


def test_parameters():
    """As the sheet counts them, gates (2 x 16,416) included."""
    model = Porpoise(InputSpec(1024, 4999, {}))
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    histology = count.pop("embed") + count.pop("attention")
    assert histology == 787_713
    assert count == {"refine": 131_328, "encode_genes": 1_345_792, "fuse": 527_296, "hazard": 1_028}
    assert sum(p.numel() for p in model.parameters()) == 2_793_157
    assert sum(p.numel() for p in model.fuse.Z.parameters()) == 32_832


@torch.no_grad()
def test_the_constant_lets_each_modality_through_alone():
    """With o_2 = 0 the outer product still holds o_1, in the column of the constant."""
    torch.manual_seed(0)
    fusion, h_1, h_2 = BilinearFusion(8, 3, 0.0), torch.randn(2, 8), torch.randn(2, 8)
    for parameter in fusion.W_3[1].parameters():
        parameter.fill_(-1e3)  # o_2 is 0
    fusion.W_z.weight[:, 8:] = 0  # no skip
    changed = fusion(h_1 + 1, h_2) - fusion(h_1, h_2)
    assert changed.abs().max() > 1e-4
    for parameter in fusion.W_3[0].parameters():
        parameter.fill_(-1e3)
    assert torch.equal(fusion(h_1 + 1, h_2), fusion(h_1, h_2))


@torch.no_grad()
def test_a_gate_can_close():
    """Z far below 0: the modality reaches z by the skip connection alone."""
    torch.manual_seed(0)
    fusion, h_1, h_2 = BilinearFusion(8, 3, 0.0), torch.randn(2, 8), torch.randn(2, 8)
    fusion.W_z.weight[:, 8:16] = 0
    fusion.Z[0].weight.zero_()
    fusion.Z[0].bias.fill_(-1e4)
    fusion.Z[1].weight[:, :8] = 0  # the gate of the other reads h_1 no more
    assert torch.equal(fusion(h_1 + 1, h_2), fusion(h_1, h_2))


def test_dropout():
    """Of the input, of every hidden layer of the histology, of o_1, o_2 and of their product."""
    model, batch = build("porpoise"), make_batch()
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.1, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert not torch.equal(model.train()(batch).logits, model.eval()(batch).logits)
    quiet = build("porpoise", input_dropout=0.0, dropout=0.0)
    assert torch.equal(quiet.train()(batch).logits, quiet.eval()(batch).logits)
