"""CCL: cohort-individual cooperative learning (Zhou et al., IEEE TMI 2025, arXiv:2404.02394).

In: all patches of a case, and expression in six functional groups of genes (the collection `six_groups`). Out: the
hazard of each interval. Each modality becomes one token, both are decomposed into four, and these are mixed:

    C = k-means of the patches into 6 centres, in the order of a running memory M             (6, features)
    P = ReLU(norm(sum_i w_i block(C_i)))             G = ReLU(norm(sum_i w_i block(block_i(genes of group i))))    (D)
    T_1 = interact(P, G)  common                     T_2 = interact(P, G)  synergy
    T_3 = ReLU(LayerNorm(Linear(G)))  of genes       T_4 = ReLU(LayerNorm(Linear(P)))  of patches                  (D)
    interact(P, G) = sigmoid(O w_1) * P' + sigmoid(O^T w_2) * G',  O = P' G'^T (D, D),  P' = ReLU(LayerNorm(Linear(P)))
    X = [class token; T],  X <- X + Nystrom(LayerNorm(X))  twice,  hazards = sigmoid(Linear(LayerNorm(first row of X)))

where block is Linear, SELU, AlphaDropout, and norm scales D numbers to mean 0 and variance 1. D = 256. Beside the
survival loss, with m_kj 1 where T_k should resemble token j of (G, P): the common one both, synergy none, the others
their own,

    intra = 1 + mean over k, j of (1 - m_kj) |cos(T_k, j)| - m_kj cos(T_k, j)
    inter = -log(p / (p + n)), p and n the means of exp(T * B / 2), element by element, over positive and negative B

B are the T of other cases, from a bank of the last 10 cases of each interval. Of a case that died, those of its own
interval are positive (itself excluded), all others negative. Of a censored case those of its own interval and of later
ones are positive (itself included) and those of earlier ones negative; of the first interval there is no such term.

Before a case is clustered, its patches nearest to the rows of M are the centres to start from. Its centres are matched
to the rows of M by the least sum of absolute differences; in training they then move M, by a tenth of the way.

Differences from the authors' code, as our notes describe it:

- M and the banks are neither saved nor restored there; here they are buffers.
- Its k-means runs until nothing changes; here 20 iterations are the most. A cluster that loses its patches becomes the
  zero vector there, and stays where it was here. Centres start from different patches here, wherever a case has six.
- It takes one case at a time. In a batch here all cases read the M of before the batch; it then moves by one after the
  other, and each case's terms are computed after those before it have gone to the banks.
- Five tokens attend to each other exactly: its attention fills up with zero tokens to 128. See `NystromAttention`.
- It reads mutations, copy numbers and expression of the genes; here it reads expression.
- It reports the best epoch of the held-out cases, we the last.
- A module for positions that it builds and never uses is left out: 1,584,678 parameters for its 1,606,694.

Left out: nothing is condensed once per fold (see `SurvivalModel.condense`), because the start of k-means moves with M.
The variant with pathways is this model on a data folder whose collection `six_groups` holds pathways.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.hazard_head import HazardHead
from survq.layers.nystrom import NystromAttention
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats

TOKENS = 4  # common, synergy, of genes, of patches
REMEMBERED = 10  # cases of each interval in the bank
MOMENTUM = 0.1  # by which M moves to the centres of a case
ITERATIONS = 20  # of k-means
RESEMBLES = ((1, 1), (0, 0), (1, 0), (0, 1))  # m: rows are the four tokens, columns are G and P


class CCL(SurvivalModel):
    """Common, synergistic and specific knowledge of two modalities, held against that of other cases.

    Hyperparameters:
        width: D of the equations.
        heads: of the attention.
        clusters: centres of a case's patches.
        dropout: of the blocks of both modalities.
        cohort_weight: weight of intra and inter.

    It keeps no attention.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("six_groups",)
    native: ClassVar = {
        "optimizer": "sgd", "learning_rate": 1e-3, "weight_decay": 1e-5, "epochs": 30, "batch_size": 1,
        "expression_scale": "zscore",
    }  # fmt: skip
    space: ClassVar = {"dropout": Floats(0.0, 0.5), "cohort_weight": Floats(0.01, 10.0, log=True)}

    memory: Tensor
    bank: Tensor
    banked: Tensor

    def __init__(
        self,
        spec: InputSpec,
        *,
        width: int = 256,
        heads: int = 8,
        clusters: int = 6,
        dropout: float = 0.15,
        cohort_weight: float = 1.0,
    ):
        super().__init__()
        self.groups, self.cohort_weight = spec.gene_sets["six_groups"], cohort_weight
        self.encode_groups = nn.ModuleList(_block(len(genes), width, dropout) for genes in self.groups)
        self.encode_group = _block(width, width, dropout)  # after that, the same for all
        self.encode_centres = _block(spec.patch_features, width, dropout)
        self.to_G, self.to_P = nn.Linear(len(self.groups), 1), nn.Linear(clusters, 1)
        self.common, self.synergy = Interaction(width), Interaction(width)
        self.of_genes, self.of_patches = _normed(width), _normed(width)
        self.class_token = nn.Parameter(torch.randn(1, width))
        self.mix = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), NystromAttention(width, heads)) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.hazard = HazardHead(width, spec.intervals)
        self.register_buffer("memory", torch.randn(clusters, spec.patch_features))
        self.register_buffer("bank", torch.zeros(spec.intervals, REMEMBERED, TOKENS, width))  # the newest first
        self.register_buffer("banked", torch.zeros(spec.intervals, dtype=torch.long))  # how many of them are filled

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        C = torch.stack([self._centres(bag) for bag in batch.bags])  # (case, cluster, feature)
        if self.training:
            for centres in C:
                self.memory.lerp_(centres, MOMENTUM)
        P = _one_token(self.encode_centres(C), self.to_P)  # (case, width)
        groups = zip(self.encode_groups, self.groups, strict=True)
        of_groups = torch.stack([block(batch.expression[:, list(genes)]) for block, genes in groups], dim=1)
        G = _one_token(self.encode_group(of_groups), self.to_G)

        T = torch.stack([self.common(P, G), self.synergy(P, G), self.of_genes(G), self.of_patches(P)], dim=1)
        X = torch.cat([self.class_token.expand(len(T), 1, -1), T], dim=1)  # (case, 1 + 4, width)
        for layer in self.mix:
            X = X + layer(X)
        logits = self.hazard(self.norm(X[:, 0]))
        if not self.training:
            return Prediction(logits)
        full = self.memory.dtype
        return Prediction(logits, penalties=self._penalties(T.to(full), G.to(full), P.to(full), batch))

    @torch.no_grad()
    def _centres(self, bag: Float[Tensor, "patch feature"]) -> Float[Tensor, "cluster feature"]:
        """The centres of a case's patches, in the order of the rows of M."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        M = self.memory
        X = bag.to(M.dtype)
        with torch.autocast(X.device.type, enabled=False):  # half the digits would make ties
            # rows of M start from different patches; where a case has fewer, from each as often as need be at most
            starts = X if len(X) >= len(M) else X.repeat(-(-len(M) // len(X)), 1)
            _, nearest = linear_sum_assignment((starts.square().sum(dim=1) - 2 * M @ starts.T).cpu().numpy())
            centres = k_means(X, starts[torch.from_numpy(nearest).to(X.device)])
            _, match = linear_sum_assignment(torch.cdist(M, centres, p=1).cpu().numpy())
            return centres[torch.from_numpy(match).to(X.device)]

    def _penalties(
        self,
        T: Float[Tensor, "case token width"],
        G: Float[Tensor, "case width"],
        P: Float[Tensor, "case width"],
        batch: Batch,
    ) -> dict[str, Tensor]:
        """The terms of the cohort loss. The cases of the batch go to the banks."""
        cosine = F.cosine_similarity(T[:, :, None], torch.stack([G, P], dim=1).detach()[:, None], dim=-1)
        m = cosine.new_tensor(RESEMBLES)
        intra = 1 + ((1 - m) * cosine.abs() - m * cosine).mean()  # cosine is (case, token, modality)

        terms = []
        numbers = [self.banked, batch.interval, batch.event.long()]  # are read together: a GPU is waited for once
        banked, intervals, events = (n.tolist() for n in torch.cat(numbers).cpu().split([len(n) for n in numbers]))
        for tokens, k, died in zip(T, intervals, events, strict=True):
            self.bank[k] = torch.cat([tokens.detach()[None], self.bank[k, :-1]])
            banked[k] = min(banked[k] + 1, REMEMBERED)
            banks = [bank[:filled] for bank, filled in zip(self.bank, banked, strict=True)]
            if died:
                positive, negative = banks[k][1:], torch.cat(banks[:k] + banks[k + 1 :])
            else:
                positive, negative = torch.cat(banks[k:]), torch.cat([tokens[None][:0], *banks[:k]])
            if len(positive) and len(negative):
                terms.append(contrast(tokens, positive.clone(), negative))
        self.banked.copy_(torch.tensor(banked), non_blocking=True)
        inter = sum(terms, T.new_zeros(())) / len(batch)
        return {"intra": self.cohort_weight * intra, "inter": self.cohort_weight * inter}


class Interaction(nn.Module):
    """What two tokens make of each other: each gated by their outer product, and their sum."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = _normed(width), _normed(width)
        self.gate_first, self.gate_second = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, a: Float[Tensor, "case width"], b: Float[Tensor, "case width"]) -> Float[Tensor, "case width"]:
        a, b = self.first(a), self.second(b)
        # O = a b^T is not made: row i of O w is a_i (b . w)
        of_a = a * F.linear(b, self.gate_first.weight) + self.gate_first.bias
        of_b = b * F.linear(a, self.gate_second.weight) + self.gate_second.bias
        return of_a.sigmoid() * a + of_b.sigmoid() * b


def contrast(
    T: Float[Tensor, "token width"],
    positive: Float[Tensor, "other token width"],
    negative: Float[Tensor, "other2 token width"],
) -> Float[Tensor, ""]:
    """-log(p / (p + n)), in log space."""
    log_p, log_n = (
        (T * others / 2).flatten().logsumexp(dim=0) - math.log(others.numel()) for others in (positive, negative)
    )
    return F.softplus(log_n - log_p)


def k_means(
    X: Float[Tensor, "patch feature"], centres: Float[Tensor, "cluster feature"], iterations: int = ITERATIONS
) -> Float[Tensor, "cluster feature"]:
    """Centres of X after so many iterations at most. A centre that is nearest to no patch stays where it is."""
    before = None
    for _ in range(iterations):
        nearest = (centres.square().sum(dim=1) - 2 * X @ centres.T).argmin(dim=1)
        if before is not None and torch.equal(nearest, before):
            break
        members = F.one_hot(nearest, len(centres)).to(X.dtype)  # (patch, cluster)
        count = members.sum(dim=0)[:, None]
        centres = torch.where(count > 0, members.T @ X / count.clamp(min=1), centres)
        before = nearest
    return centres


def _block(inputs: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.SELU(), nn.AlphaDropout(dropout))


def _normed(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())


def _one_token(tokens: Float[Tensor, "case token width"], weights: nn.Linear) -> Float[Tensor, "case width"]:
    """ReLU(norm(weighted sum of the tokens))."""
    summed = weights(tokens.transpose(1, 2)).squeeze(-1)
    return F.layer_norm(summed, summed.shape[1:]).relu()
