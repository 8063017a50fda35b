"""HSFSurv: hybrid supervision at individual and feature levels (Fu et al., Medical Image Analysis 2026).

https://doi.org/10.1016/j.media.2025.103810

In: all patches of a case, and expression in eight families of genes (the collection `eight_families`). Out: the hazard
of each interval. The features of a patch are cut into S = 8 slices, one per family, which share their weights:

    X_s = ReLU(W slice s of the patches) (n, D)      a_s = softmax over patches of gated attention (n)    s = 1 .. S
    P = [a_s^T X_s] (S, D)                           G = SNN(genes of each family) (S, D)
    m = sigmoid(P * G), element by element                                                    decoupling
    P_shared = m * P,  G_shared = m * G,  P_own = (1 - m) * P,  G_own = (1 - m) * G           (S, D) each
    v = Linear(pool(Transformer(.))) of each of the four, with weights of its own             (D) each
    hazards = sigmoid(Linear(MLP([v_P_shared; v_G_shared; v_P_own; v_G_own])))

where pool is gated attention over the tokens. D = 256. Before that, 20 epochs of pretraining with u = Linear(v):

    p = softmax(Linear([u_P_shared; u_P_own])),  q the same of G (intervals)                  pseudo-classes
    agreement = H((p + q) / 2), and where argmax p != argmax q also h(max p) + h(max q)
    contrast = mean of the cross-entropies, at class c, of softmax(x M_G^T / t) and softmax(y M_P^T / t)
    loss = 0.5 contrast + agreement

with h(p) = -p log p to the base of the number of intervals and H its sum over classes; x and y are u_P_shared and
u_G_shared, normalised. M_P and M_G (intervals, D) are memories: row c is the running mean of x or y over cases of class
c, normalised, with momentum min(1 - 0.5^epoch, 0.9). Class c is the interval of death; for a censored case it is drawn
from its interval and the later ones with weights 1, 0.5, 0.25, ...

Differences from the authors' code, as our notes describe it:

- Its contrast multiplies vectors element by element and so takes features for classes, and an index slip spoils the
  negatives of two labels. Here it is InfoNCE of dot products, of one side with the memory of the other. Our notes do
  not give t; it is 0.1.
- The memories move once per batch by the mean over its cases of a class, and take the first such mean whole; there
  they move at each case.
- It takes one case at a time; a batch here is 32 cases, in pretraining as well, and each loss is their mean.
- It pretrains for 20 epochs and keeps the last, though it means to keep the best: we keep the last, too.
- It reports the best value on the test cases over epochs; we report the last epoch.
- Parts that it builds and never uses are left out: 6,435,729 parameters for its 7,168,145 with 8 families of 100 genes,
  267,272 of them for pretraining alone.
- It is tied to 1024 features and 8 families; here the families must divide the features.

Left out: the published form of the contrast, which our notes do not determine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.gated_attention import GatedAttention
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.ragged import ragged_softmax
from survq.layers.token_encoder import TokenEncoder
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers

FAMILIES = "eight_families"
BRANCHES = ("P_shared", "G_shared", "P_own", "G_own")
CONTRAST = 0.5  # the weight of the contrast in pretraining


class HSFSurv(SurvivalModel):
    """What slides and genes share and what is their own, told apart in pretraining by memories of the outcome.

    Hyperparameters:
        width: D of the equations.
        heads: of the transformers.
        dropout: of the families' SNNs, the transformers and the pooling.
        pretraining: epochs of it.
        temperature: t of the contrast.

    It keeps no attention.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = (FAMILIES,)
    native: ClassVar = {"optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 0.0, "epochs": 40}
    space: ClassVar = {
        "dropout": Floats(0.0, 0.5),
        "pretraining": Integers(0, 20),
        "temperature": Floats(0.05, 1.0, log=True),
    }

    memory_P: Tensor
    memory_G: Tensor

    def __init__(
        self,
        spec: InputSpec,
        *,
        width: int = 256,
        heads: int = 8,
        dropout: float = 0.25,
        pretraining: int = 20,
        temperature: float = 0.1,
    ):
        super().__init__()
        families = spec.gene_sets[FAMILIES]
        self.pretraining_epochs, self.temperature = pretraining, temperature
        self.slices, self.momentum = len(families), 0.5
        self.encode_slices = nn.Sequential(nn.Linear(spec.patch_features // self.slices, width, bias=False), nn.ReLU())
        self.pool_slices = GatedAttention(width, width // 2, dropout)
        self.encode_families = PathwayEncoder(families, width, dropout)
        self.branches = nn.ModuleDict(
            {name: nn.Sequential(TokenEncoder(width, heads, dropout), nn.Linear(width, width)) for name in BRANCHES}
        )
        self.fuse = nn.Sequential(nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.hazard = HazardHead(width, spec.intervals)

        self.project = nn.ModuleDict({name: nn.Linear(width, width) for name in BRANCHES})
        self.classify = nn.ModuleDict({side: nn.Linear(2 * width, spec.intervals) for side in "PG"})
        self.register_buffer("memory_P", torch.zeros(spec.intervals, width))
        self.register_buffer("memory_G", torch.zeros(spec.intervals, width))

    @classmethod
    def not_applicable(cls, spec: InputSpec) -> str | None:
        if reason := super().not_applicable(spec):
            return reason
        if spec.patch_features % (families := len(spec.gene_sets[FAMILIES])):
            return f"{families} families of genes do not divide the {spec.patch_features} features of a patch"
        return None

    def start_epoch(self, number: int) -> None:
        self.momentum = min(1 - 0.5**number, 0.9)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        v = self._parts(batch)
        return Prediction(self.hazard(self.fuse(torch.cat([v[name] for name in BRANCHES], dim=1))))

    def pretraining_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        u = {name: self.project[name](v).to(self.hazard.weight.dtype) for name, v in self._parts(batch).items()}
        with torch.autocast(batch.time.device.type, enabled=False):
            p, q = (
                self.classify[side](torch.cat([u[f"{side}_shared"], u[f"{side}_own"]], dim=1)).softmax(dim=1)
                for side in "PG"
            )
            x, y = (F.normalize(u[f"{side}_shared"], dim=1) for side in "PG")
            c = draw_class(batch.interval, batch.event, p.shape[1])
            to_G = F.cross_entropy(x @ F.normalize(self.memory_G, dim=1).T / self.temperature, c)
            to_P = F.cross_entropy(y @ F.normalize(self.memory_P, dim=1).T / self.temperature, c)
            self._remember(self.memory_P, x.detach(), c)
            self._remember(self.memory_G, y.detach(), c)
            return {"agreement": agreement(p, q).mean(), "contrast": CONTRAST * (to_G + to_P) / 2}

    def _parts(self, batch: Batch) -> dict[str, Float[Tensor, "case width"]]:
        """v of the four branches."""
        P, G = self._slice_tokens(batch), self.encode_families(batch.expression)  # (case, slice, width)
        m = torch.sigmoid(P * G)
        parts = {"P_shared": m * P, "G_shared": m * G, "P_own": (1 - m) * P, "G_own": (1 - m) * G}
        return {name: self.branches[name](tokens) for name, tokens in parts.items()}

    def _slice_tokens(self, batch: Batch) -> Float[Tensor, "case slice width"]:
        """P: each slice of the features pools the patches by itself."""
        tokens = []
        for _, patches, sizes in pack(batch.bags):  # every bag, in order: none is empty
            sliced = patches.to(self.hazard.weight.dtype).unflatten(1, (self.slices, -1))
            X = self.encode_slices(sliced)  # (patch, slice, width)
            a = ragged_softmax(self.pool_slices(X), sizes)  # (patch, slice)
            for a_bag, X_bag in zip(a.split(sizes), X.split(sizes), strict=True):
                tokens.append((a_bag.T[:, None, :] @ X_bag.transpose(0, 1)).squeeze(1))
        return torch.stack(tokens)

    @torch.no_grad()
    def _remember(self, memory: Tensor, vectors: Float[Tensor, "case width"], c: Int[Tensor, " case"]) -> None:
        """Rows of classes that the batch lacks stay as they are; the first mean of a class is taken whole."""
        members = F.one_hot(c, len(memory)).to(vectors.dtype)  # (case, class)
        count = members.sum(dim=0)[:, None]
        mean = members.T @ vectors / count.clamp(min=1)
        moved = torch.where(memory.any(dim=1, keepdim=True), memory.lerp(mean, 1 - self.momentum), mean)
        memory.copy_(torch.where(count > 0, moved, memory))


def agreement(p: Float[Tensor, "case interval"], q: Float[Tensor, "case interval"]) -> Float[Tensor, " case"]:
    """The entropy of the mean of both distributions; more where they prefer different classes."""
    smallest = torch.finfo(p.dtype).tiny

    def entropy(probability: Tensor) -> Tensor:
        return -probability * probability.clamp(min=smallest).log() / math.log(p.shape[1])

    (top_p, first), (top_q, second) = p.max(dim=1), q.max(dim=1)
    tops = entropy(top_p) + entropy(top_q)
    return entropy((p + q) / 2).sum(dim=1) + tops * (first != second)


def draw_class(interval: Int[Tensor, " case"], event: Bool[Tensor, " case"], intervals: int) -> Int[Tensor, " case"]:
    """The interval of death; of a censored case its own or a later one, each half as likely as the one before."""
    later = torch.arange(intervals, device=interval.device) - interval[:, None]  # (case, interval)
    drawn = torch.multinomial((0.5**later).where(later >= 0, 0.0), 1).squeeze(1)
    return interval.where(event, drawn)
