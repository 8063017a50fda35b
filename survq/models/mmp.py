"""MMP: multimodal prototyping (Song et al., ICML 2024, arXiv:2407.00224), with PANTHER's mixture of a slide's patches
(Song et al., CVPR 2024, arXiv:2405.11643).

In: the n patches of a case, x_i (feature = d), and the expression of the genes of each of m = 50 hallmark gene sets.
Out: the hazard of each interval.

Before training, on patches of the fold's training cases, without labels: k-means gives C = 16 prototypes c_k (d). Then,
once per case, one step of expectation and maximisation of a mixture of normal distributions with diagonal covariance,
from pi_k = 1/C, mu_k = c_k, var_k = 1 and with c_k and 1 as a prior that counts as one patch each:

    r_ik = softmax over k of  log pi_k + log N(x_i; mu_k, var_k),       n_k = 1 + sum_i r_ik
    pi_k = n_k / sum of all n
    mu_k = (c_k + sum_i r_ik x_i) / n_k
    var_k = (1 + c_k^2 + sum_i r_ik x_i^2) / n_k - mu_k^2

That is all that the network sees of the patches, 16 (2 d + 1) numbers:

    H = [Linear([pi_k, mu_k, var_k]); E_H]  (C, width),   G = [SNN(genes of each set); E_G]  (m, width)   E is learned
    Q, K, V = Linear(LayerNorm([G; H]))                   (m + C, width/2) each, no bias
    T = softmax(Q K^T / sqrt(width/2)) V                  (m + C, width/2)
    T_j' = LayerNorm(FFN_j(T_j))                          one FFN per token j: LayerNorm, Linear, GELU, Linear
    z = [mean of T' over gene sets; mean of T' over prototypes]   (width)
    hazards = sigmoid(W z)                                (interval), no bias

Differences from the authors' code, as our notes describe it:

- In its attention the scores of prototypes for gene sets are soft-maxed by themselves first, and then once more with
  the scores for prototypes. Here softmax is taken once; `double_softmax` restores the original for replication.
- It trains with a Cox loss, or with this one at alpha = 0.5: that is "native".
- k-means sees up to 1.6 million patches there, 256 patches of each training case here.
- It always has 16 prototypes, whatever is configured; here `prototypes` has an effect.
- 288 of its parameters, a LayerNorm, are never used: they are not built.

Left out: fusion by optimal transport. 8,551,072 parameters with 1024 features and 50 hallmark sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.hazard_head import HazardHead
from survq.layers.k_means import fit_centres
from survq.layers.pathway_encoder import PathwayEncoder
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class MMP(SurvivalModel):
    """Attention among prototypes of the patches and gene sets.

    Hyperparameters:
        prototypes: C of the equations.
        width: of tokens before the embedding is appended.
        embedding: width of what is learned of each token, E of the equations.
        dropout: of the feed-forward networks.
        gene_set_dropout: rate of AlphaDropout in the gene sets' SNNs.
        double_softmax: the attention of the authors' code, see above.

    Its attention map is `fusion`, over gene sets and then prototypes.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("hallmarks",)
    native: ClassVar = {
        "learning_rate": 1e-4, "weight_decay": 1e-5, "batch_size": 64, "schedule": "cosine", "nll_alpha": 0.5,
        "expression_scale": "zscore",
    }  # fmt: skip
    space: ClassVar = {
        "prototypes": Integers(8, 32),
        "width": Integers(64, 512, log=True),
        "dropout": Floats(0.0, 0.5),
        "gene_set_dropout": Floats(0.0, 0.5),
    }
    sizes = ("width",)

    centres: Tensor

    def __init__(
        self,
        spec: InputSpec,
        *,
        prototypes: int = 16,
        width: int = 256,
        embedding: int = 32,
        dropout: float = 0.1,
        gene_set_dropout: float = 0.25,
        double_softmax: bool = False,
    ):
        super().__init__()
        sets = spec.gene_sets["hallmarks"]
        tokens, half = len(sets) + prototypes, (width + embedding) // 2
        self.double_softmax, self.sets = double_softmax, len(sets)
        self.register_buffer("centres", torch.zeros(prototypes, spec.patch_features))
        self.encode_prototypes = nn.Linear(2 * spec.patch_features + 1, width)
        self.encode_genes = PathwayEncoder(sets, width, gene_set_dropout)
        self.E = nn.Parameter(torch.randn(tokens, embedding))
        self.norm = nn.LayerNorm(width + embedding)
        self.query_key_value = nn.Linear(width + embedding, 3 * half, bias=False)
        self.feed_forward = FeedForwards(tokens, half, dropout)
        self.norm_after = nn.LayerNorm(half)
        self.hazard = HazardHead(2 * half, spec.intervals, bias=False)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.centres.copy_(fit_centres((bag for batch in training for bag in batch.bags), len(self.centres)))

    def condense(self, bag: Float[Tensor, "patch feature"]) -> Float[Tensor, "prototype statistic"]:
        """[pi, mu, var] of each prototype, (C, 2 d + 1)."""
        pi, mu, var = fit_mixture(bag.to(self.centres.dtype), self.centres)
        return torch.cat([pi[:, None], mu, var], dim=1)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        mixtures = torch.stack(batch.bags)  # (case, C, 2 d + 1), by `condense`
        G, H = self.encode_genes(batch.expression), self.encode_prototypes(mixtures)
        tokens = torch.cat([G, H], dim=1)  # (case, token, width)
        tokens = torch.cat([tokens, self.E.expand(len(batch), -1, -1)], dim=2)
        Q, K, V = self.query_key_value(self.norm(tokens)).chunk(3, dim=2)  # (case, token, half)
        S = Q @ K.transpose(1, 2) / math.sqrt(Q.shape[2])
        if self.double_softmax:
            of_prototypes = S[:, self.sets :]
            first = of_prototypes[..., : self.sets].softmax(dim=2)
            S = torch.cat([S[:, : self.sets], torch.cat([first, of_prototypes[..., self.sets :]], dim=2)], dim=1)
        A = S.softmax(dim=2)
        T = self.norm_after(self.feed_forward(A @ V))
        z = torch.cat([T[:, : self.sets].mean(dim=1), T[:, self.sets :].mean(dim=1)], dim=1)
        attention = AttentionMaps(fusion=(A,)) if keep_attention else None
        return Prediction(self.hazard(z), attention=attention)


class FeedForwards(nn.Module):
    """One feed-forward network per token, all in one batched product: LayerNorm, Linear, GELU, dropout, Linear."""

    def __init__(self, tokens: int, width: int, dropout: float):
        super().__init__()
        bound = 1 / math.sqrt(width)  # what nn.Linear draws from
        self.scale = nn.Parameter(torch.ones(tokens, width))
        self.shift = nn.Parameter(torch.zeros(tokens, width))
        self.weight_1 = nn.Parameter(torch.empty(tokens, width, width).uniform_(-bound, bound))
        self.bias_1 = nn.Parameter(torch.empty(tokens, 1, width).uniform_(-bound, bound))
        self.weight_2 = nn.Parameter(torch.empty(tokens, width, width).uniform_(-bound, bound))
        self.bias_2 = nn.Parameter(torch.empty(tokens, 1, width).uniform_(-bound, bound))
        self.dropout = dropout

    def forward(self, T: Float[Tensor, "case token width"]) -> Float[Tensor, "case token width"]:
        x = F.layer_norm(T, T.shape[-1:]) * self.scale + self.shift
        h = F.gelu(torch.baddbmm(self.bias_1, x.transpose(0, 1), self.weight_1))  # (token, case, width)
        h = F.dropout(h, self.dropout, self.training)
        return torch.baddbmm(self.bias_2, h, self.weight_2).transpose(0, 1)


def fit_mixture(
    X: Float[Tensor, "patch feature"], prototypes: Float[Tensor, "prototype feature"], steps: int = 1
) -> tuple[Float[Tensor, " prototype"], Float[Tensor, "prototype feature"], Float[Tensor, "prototype feature"]]:
    """pi, mu and var of the mixture after so many steps, with prototypes of variance 1 as a prior of one patch each."""
    prior_variance, prior_patches = 1.0, 1.0
    pi = X.new_full((len(prototypes),), 1 / len(prototypes))
    mu, var = prototypes, torch.full_like(prototypes, prior_variance)
    squares = X.square()
    for _ in range(steps):
        # (x - mu)^2 / var, as products of matrices: (patch, prototype, feature) would not fit in memory
        distance = squares @ (1 / var).T - 2 * X @ (mu / var).T + (mu.square() / var).sum(dim=1)
        r = (pi.log() - (distance + var.log().sum(dim=1)) / 2).softmax(dim=1)  # (patch, prototype)
        n = r.sum(dim=0) + prior_patches
        pi = n / n.sum()
        mu = (r.T @ X + prior_patches * prototypes) / n[:, None]
        second_moment = (r.T @ squares + prior_patches * (prior_variance + prototypes.square())) / n[:, None]
        var = second_moment - mu.square()
    return pi, mu, var
