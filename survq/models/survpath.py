"""SurvPath: dense multimodal interactions between pathways and histology (Jaume et al., CVPR 2024, arXiv:2304.06819).

In: the patches of a case, x_i (feature), and the expression of the genes of each of m pathways. Out: the hazard of each
interval.

    H = Linear(x_1 .. x_n)  (n, width),   P = SNN(genes of each pathway)  (m, width)
    Q, K, V = Linear(LayerNorm([P; H]))                      (m + n, width/2) each, no bias; _P and _H are their parts
    P' = softmax(Q_P [K_P; K_H]^T / sqrt(width/2)) [V_P; V_H]   (m, width/2)   pathways read pathways and patches
    H' = softmax(Q_H K_P^T / sqrt(width/2)) V_P                 (n, width/2)   patches read pathways alone
    P'' = LayerNorm(FFN(P')),  H'' = LayerNorm(FFN(H'))      one for both, FFN: LayerNorm, Linear, GELU, Linear
    z = [mean of P''; mean of H'']                           (width)
    hazards = sigmoid(MLP(z))                                (interval)

Nothing has a residual. The n x n attention among patches is what the paper leaves out, so memory grows with n alone.

Differences from the authors' code, as our notes describe it:

- It reads the genes of a case by position, in a table that is in another order than the labels; and a batch of several
  cases takes the genes of the first for all. Here genes are joined by case, and a batch is a batch.
- It fills small bags up with zeros, which are then patches like others; bags here are ragged.
- Its optimizer is RAdam with decoupled weight decay, "native" has AdamW. It searches learning rate and weight decay
  around the values of "native".

Left out: nothing. 24,768,068 parameters with 1024 features and the paper's 331 pathways.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.layers.ragged import ragged_mean
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class SurvPath(SurvivalModel):
    """Pathways attend to everything, patches to pathways.

    Hyperparameters:
        width: of pathway and patch tokens; attention has half of it, the head's hidden layer a quarter.
        dropout: of the feed-forward network.
        pathway_dropout: rate of AlphaDropout in the pathways' SNNs.

    Its attention maps are the weights of the pathways' queries over patches and over pathways, which sum to 1 together.
    """

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("pathways",)
    native: ClassVar = {
        "weight_decay": 1e-4, "batch_size": 1, "epochs": 20, "schedule": "cosine", "nll_alpha": 0.5,
        "expression_scale": "minmax_as_survpath", "sampling": "balanced", "patches_per_case": 4096,
    }  # fmt: skip
    space: ClassVar = {
        "width": Integers(64, 512, log=True),
        "dropout": Floats(0.0, 0.5),
        "pathway_dropout": Floats(0.0, 0.5),
    }
    sizes = ("width",)

    def __init__(self, spec: InputSpec, *, width: int = 256, dropout: float = 0.1, pathway_dropout: float = 0.25):
        super().__init__()
        half = width // 2
        self.encode_patches = nn.Linear(spec.patch_features, width)
        self.encode_pathways = PathwayEncoder(spec.pathways, width, pathway_dropout)
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * half, bias=False)
        self.feed_forward = nn.Sequential(
            *(nn.LayerNorm(half), nn.Linear(half, half), nn.GELU(), nn.Dropout(dropout), nn.Linear(half, half)),
            nn.LayerNorm(half),
        )
        self.hazard = nn.Sequential(nn.Linear(2 * half, width // 4), nn.ReLU(), HazardHead(width // 4, spec.intervals))

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        Q_P, K_P, V_P = self._split(self.encode_pathways(batch.expression))  # (case, pathway, half)
        read_by_pathways, means_of_patches, maps = [], [], []
        for members, patches, sizes in pack(batch.bags):
            QKV_H = self._split(self.encode_patches(patches.to(self.norm.weight.dtype)))  # (patch, half)
            read_by_patches = []
            for case, Q_H, K_H, V_H in zip(members, *(part.split(sizes) for part in QKV_H), strict=True):
                K, V = torch.cat([K_P[case], K_H]), torch.cat([V_P[case], V_H])
                read_by_pathways.append(_attend(Q_P[case], K, V))
                read_by_patches.append(_attend(Q_H, K_P[case], V_P[case]))
                if keep_attention:
                    maps.append((Q_P[case] @ K.T / K.shape[1] ** 0.5).softmax(dim=1))
            means_of_patches.append(ragged_mean(self.feed_forward(torch.cat(read_by_patches)), sizes))
        mean_of_pathways = self.feed_forward(torch.stack(read_by_pathways)).mean(dim=1)
        z = torch.cat([mean_of_pathways, torch.cat(means_of_patches)], dim=1)  # (case, 2 half)
        attention = None
        if keep_attention:
            m = K_P.shape[1]
            genomics = torch.stack([weights[:, :m] for weights in maps])
            attention = AttentionMaps(histology=tuple(weights[:, m:] for weights in maps), genomics=genomics)
        return Prediction(self.hazard(z), attention=attention)

    def _split(self, tokens: Float[Tensor, "*case token width"]) -> tuple[Tensor, ...]:
        """Q, K and V, each (*case, token, half)."""
        return self.query_key_value(self.norm(tokens)).chunk(3, dim=-1)


def _attend(
    Q: Float[Tensor, "query half"], K: Float[Tensor, "token half"], V: Float[Tensor, "token half"]
) -> Float[Tensor, "query half"]:
    """softmax(Q K^T / sqrt(half)) V, of which the weights are not kept."""
    return F.scaled_dot_product_attention(Q[None, None], K[None, None], V[None, None])[0, 0]
