"""MoME: mixture of multimodal experts (Xiong et al., MICCAI 2024, arXiv:2406.09696).

In: all patches of a case, and expression in six functional groups of genes (the collection `six_groups`). Out: the
hazard of each interval. Four layers let one modality read the other, each by the expert that a router picks:

    H = ReLU(Linear(patches)) (n, D)        G = SNN(genes of each group) (6, D)
    H <- Layer_1(H, G),  G <- Layer_2(G, H),  H <- Layer_3(H, G),  G <- Layer_4(G, H)
    z = first row of Attend([class token; H; G])                                          (D)
    hazards = sigmoid(Linear(z))

    Layer(x, y) = E_k(x, y),  k = argmax p,  p = softmax(Linear(mean r_1(x) + mean r_2(y))),  r = GELU(RMSNorm(Linear))
    E_0 = rows x of Attend([x; y])                                                        mixes all tokens
    E_1 = rows x of Attend([x; first rows of Attend([b; y])])                             by two bottleneck tokens b
    E_2 = SNN(RMSNorm(x)) + mean SNN(RMSNorm(y))                                          adds one vector
    E_3 = x                                                                               leaves x as it is
    Attend(x) = w x + Nystrom(norm(x)),  w = sqrt(9 / ln 9 - 1)

where norm is RMSNorm in E_0 and LayerNorm elsewhere. D = 512. A slide of n patches is read in n // 4096 + 1 micro-bags
at random; loss and risk of a case are means over them.

Differences from the authors' code, as our notes describe it:

- Its routers never learn: the expert of the largest p is taken, and p leaves no trace in the output. Here the gate is
  straight-through: in the forward pass the output is that of E_k, in the backward pass sum_j p_j E_j, so that routers
  learn from what the other experts would have made. `published=True` freezes the routers.
- Its class token and bottlenecks are random constants that are neither trained nor saved; here they are parameters
  (+ 512 + 4 x 1,024), and a norm of E_1 that it never uses is left out (- 4 x 512): 20,638,076 parameters for its
  20,635,516.
- Its attention fills up with zero tokens, which take most of the attention where tokens are few, as for the groups of
  genes. Here nothing is filled up; up to 256 tokens attend to each other exactly. See `NystromAttention`.
- It reads mutations, copy numbers and expression of the genes; here it reads expression.
- The micro-bags are random in evaluation, too. Here they then depend on the case and the content of its patches alone,
  so that they are always the same.
- It reports the best epoch of the held-out cases, we the last.

Left out: its soft gate, which would add all experts unweighted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.hazard_head import HazardHead
from survq.layers.micro_bags import micro_bags
from survq.layers.nystrom import NystromAttention
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.ragged import ragged_mean
from survq.layers.snn import SNNBlock
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers

OMEGA = math.sqrt(9 / math.log(9) - 1)  # of the residual
BOTTLENECKS = 2

Bags = Sequence[Float[Tensor, "_ width"]]  # the tokens of each micro-bag
Expert = Callable[[Bags, Bags], Bags]


class MoME(SurvivalModel):
    """The modalities read each other in turn, by the expert that suits the case.

    Hyperparameters:
        width: D of the equations.
        heads: of the attention; it has width / 2 landmarks.
        micro_bag: patches of a micro-bag at most.
        dropout: of the patches and the SNNs.
        published: freezes the routers as they were initialised, which is what the published model amounts to.

    It keeps no attention.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("six_groups",)
    native: ClassVar = {
        "optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 1e-5, "epochs": 20, "sampling": "balanced",
        "expression_scale": "zscore",
    }  # fmt: skip
    space: ClassVar = {"micro_bag": Integers(512, 8192, log=True), "dropout": Floats(0.0, 0.5)}

    def __init__(
        self,
        spec: InputSpec,
        *,
        width: int = 512,
        heads: int = 8,
        micro_bag: int = 4096,
        dropout: float = 0.25,
        published: bool = False,
    ):
        super().__init__()
        self.micro_bag = micro_bag
        self.encode_patches = nn.Sequential(nn.Linear(spec.patch_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.encode_groups = PathwayEncoder(spec.gene_sets["six_groups"], width, dropout)
        self.layers = nn.ModuleList(MixtureLayer(width, heads, dropout, learns=not published) for _ in range(4))
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.fuse = Attend(nn.LayerNorm(width), width, heads)
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        groups = self.encode_groups(batch.expression)  # (case, group, width)
        case, H = self._micro_bags(batch)
        G: Bags = [groups[position] for position in case]
        first, second, third, fourth = self.layers
        H = first(H, G)
        G = second(G, H)
        H = third(H, G)
        G = fourth(G, H)
        fused = self.fuse([torch.cat([self.class_token, h, g]) for h, g in zip(H, G, strict=True)])
        z = torch.stack([tokens[0] for tokens in fused])  # (micro-bag, width)
        return Prediction(self.hazard(z), torch.tensor(case))

    def _micro_bags(self, batch: Batch) -> tuple[list[int], Bags]:
        """Whose the micro-bags are, and H of each."""
        case, bags = [], []
        for members, patches, sizes in pack(batch.bags):  # every bag, in order: none is empty
            H = self.encode_patches(patches.to(self.hazard.weight.dtype))  # (patch, width)
            for position, H_case in zip(members, H.split(sizes), strict=True):
                bag, case_id = batch.bags[position], batch.case_ids[position]
                for part in micro_bags(bag, case_id, self.micro_bag, training=self.training):
                    case.append(position)
                    bags.append(H_case[part])
        return case, bags


class MixtureLayer(nn.Module):
    """What x makes of y, by one of four experts for each micro-bag."""

    def __init__(self, width: int, heads: int, dropout: float, learns: bool):
        super().__init__()
        self.mix = Attend(nn.RMSNorm(width), width, heads)
        self.bottlenecks = nn.Parameter(torch.randn(BOTTLENECKS, width))
        self.gather = Attend(nn.LayerNorm(width), width, heads)
        self.spread = Attend(nn.LayerNorm(width), width, heads)
        self.encode_x = nn.Sequential(nn.RMSNorm(width), SNNBlock(width, width, dropout))
        self.encode_y = nn.Sequential(nn.RMSNorm(width), SNNBlock(width, width, dropout))

        self.router = Router(width).requires_grad_(learns)
        self.learns = learns

    @property
    def experts(self) -> tuple[Expert, ...]:
        """E_0 to E_3."""
        return self._all, self._bottleneck, self._sum, _identity

    def forward(self, x: Bags, y: Bags) -> Bags:
        p = self.router(x, y)  # (micro-bag, expert)
        chosen = p.argmax(dim=1).tolist()
        out = list(x)
        made_by: list[list[Tensor]] = [[] for _ in x]  # what each expert makes of a micro-bag
        straight_through = self.training and self.learns
        for number, expert in enumerate(self.experts):
            for bag, made in self._made(expert, x, y, [bag for bag, choice in enumerate(chosen) if choice == number]):
                out[bag] = made
                made_by[bag].append(made.detach())
            if straight_through:
                others = [bag for bag, choice in enumerate(chosen) if choice != number]
                with torch.no_grad():
                    for bag, made in self._made(expert, x, y, others):
                        made_by[bag].append(made)
        if not straight_through:
            return out
        gate = p - p.detach()  # 0, yet its gradient is that of p
        return [
            tokens + (g.to(tokens.dtype) @ torch.stack(made).to(tokens.dtype).flatten(1)).view_as(tokens)
            for tokens, g, made in zip(out, gate, made_by, strict=True)
        ]

    @staticmethod
    def _made(expert: Expert, x: Bags, y: Bags, chosen: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Some of the micro-bags, and what an expert makes of each."""
        if chosen:
            yield from zip(chosen, expert([x[bag] for bag in chosen], [y[bag] for bag in chosen]), strict=True)

    def _all(self, x: Bags, y: Bags) -> Bags:
        mixed = self.mix([torch.cat(pair) for pair in zip(x, y, strict=True)])
        return [tokens[: len(of_x)] for tokens, of_x in zip(mixed, x, strict=True)]

    def _bottleneck(self, x: Bags, y: Bags) -> Bags:
        gathered = self.gather([torch.cat([self.bottlenecks, of_y]) for of_y in y])
        spread = self.spread([torch.cat([of_x, b[:BOTTLENECKS]]) for of_x, b in zip(x, gathered, strict=True)])
        return [tokens[: len(of_x)] for tokens, of_x in zip(spread, x, strict=True)]

    def _sum(self, x: Bags, y: Bags) -> Bags:
        sizes = [len(bag) for bag in x]
        means = ragged_mean(self.encode_y(torch.cat(list(y))), [len(bag) for bag in y])
        pairs = zip(self.encode_x(torch.cat(list(x))).split(sizes), means, strict=True)
        return [tokens + mean for tokens, mean in pairs]


class Router(nn.Module):
    """p of the four experts. In full precision also under autocast: experts of near p would change places."""

    def __init__(self, width: int):
        super().__init__()

        def summary() -> nn.Sequential:
            return nn.Sequential(nn.Linear(width, width), nn.RMSNorm(width), nn.GELU())

        self.summarize_x, self.summarize_y = summary(), summary()
        self.logits = nn.Linear(width, 4)

    def forward(self, x: Bags, y: Bags) -> Float[Tensor, "micro_bag expert"]:
        with torch.autocast(self.logits.weight.device.type, enabled=False):
            return self.logits(self._mean(self.summarize_x, x) + self._mean(self.summarize_y, y)).softmax(dim=1)

    def _mean(self, summarize: nn.Module, bags: Bags) -> Float[Tensor, "micro_bag width"]:
        tokens = torch.cat(list(bags)).to(self.logits.weight.dtype)
        return ragged_mean(summarize(tokens), [len(bag) for bag in bags])


class Attend(nn.Module):
    """w x + Nystrom(norm(x)), for each micro-bag."""

    def __init__(self, norm: nn.Module, width: int, heads: int):
        super().__init__()
        self.norm = norm
        self.attention = NystromAttention(width, heads)

    def forward(self, bags: Bags) -> Bags:
        sizes = [len(bag) for bag in bags]
        X = torch.cat(list(bags))
        return (OMEGA * X + self.attention.over_bags(self.norm(X), sizes)).split(sizes)


def _identity(x: Bags, y: Bags) -> Bags:
    return x
