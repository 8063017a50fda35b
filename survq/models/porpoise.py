"""PORPOISE: pathology-omics research platform for integrative survival estimation (Chen et al., Cancer Cell 2022,
arXiv:2108.02278), its multimodal network PorpoiseMMF.

In: the patches of a case, x_i (feature), and the expression of all genes, g (gene). Out: the hazard of each interval.

    p_i = dropout(relu(W_p dropout(x_i) + b_p))                                      (2 width)
    a_i = softmax over i of  w (tanh(V p_i) * sigmoid(U p_i))
    h_1 = dropout(relu(W_h sum_i a_i p_i + b_h))                                     (width)    histology
    h_2 = SNN(SNN(g))                                                                (width)    genes
    o_m = dropout(relu(W_3m (sigmoid(Z_m [h_1; h_2]) * relu(W_1m h_m))))             (width/8)  gated, m = 1, 2
    B = dropout([o_1; 1] outer [o_2; 1])                                             ((width/8 + 1)^2)
    z = relu(W_z [relu(W_B B); h_1; h_2])                                            (width)
    hazards = sigmoid(Linear(z))                                                     (interval)

Differences from the authors' code, as our notes describe it: none in the network; these are the defaults of its class
(bilinear fusion, gates of both modalities, skip connection, dropout of the input). The defaults of its command line
name no fusion, which the network cannot run.

Left out: fusion by concatenation and fusion without gates or skip; the L1 penalty of the genes' and the fusion's
weights; its networks of one modality. 2,793,157 parameters with 1024 features and 4999 genes.
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
from survq.layers.gated_attention import GatedAttention
from survq.layers.hazard_head import HazardHead
from survq.layers.snn import SNNBlock
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class Porpoise(SurvivalModel):
    """Attention pooling of patches and an SNN of genes, fused by a gated outer product.

    Hyperparameters:
        width: of each modality and of the fused vector; patches have twice as much.
        shrink: by how much the fusion narrows each modality before the outer product.
        input_dropout: share of patch features dropped.
        dropout: share of hidden units dropped, everywhere else.

    Its attention map has one query per case.
    """

    needs = frozenset({"histology", "genomics"})
    native: ClassVar = {
        "optimizer": "adam", "learning_rate": 2e-4, "weight_decay": 1e-5, "epochs": 20,
        "expression_scale": "zscore", "sampling": "balanced",
    }  # fmt: skip
    space: ClassVar = {
        "width": Integers(64, 512, log=True),
        "input_dropout": Floats(0.0, 0.5),
        "dropout": Floats(0.0, 0.5),
    }
    sizes = ("width",)

    def __init__(
        self,
        spec: InputSpec,
        *,
        width: int = 256,
        shrink: int = 8,
        input_dropout: float = 0.1,
        dropout: float = 0.25,
    ):
        super().__init__()
        self.embed = nn.Sequential(
            nn.Dropout(input_dropout), nn.Linear(spec.patch_features, 2 * width), nn.ReLU(), nn.Dropout(dropout)
        )
        self.attention = GatedAttention(2 * width, width, dropout)
        self.refine = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout))
        self.encode_genes = nn.Sequential(SNNBlock(spec.genes, width, dropout), SNNBlock(width, width, dropout))
        self.fuse = BilinearFusion(width, width // shrink, dropout)
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        pooled, maps = [], []
        for _, patches, sizes in pack(batch.bags):
            P = self.embed(patches.to(self.hazard.weight.dtype))  # (patch, 2 width)
            of_bags, a = self.attention.over_bags(P, sizes)
            pooled.append(of_bags)
            maps += [weights[None] for weights in a.split(sizes)]
        z = self.fuse(self.refine(torch.cat(pooled)), self.encode_genes(batch.expression))
        attention = AttentionMaps(histology=tuple(maps)) if keep_attention else None
        return Prediction(self.hazard(z), attention=attention)


class BilinearFusion(nn.Module):
    """z of h_1 and h_2."""

    def __init__(self, width: int, narrow: int, dropout: float):
        super().__init__()
        self.W_1 = nn.ModuleList(nn.Linear(width, narrow) for _ in range(2))
        self.Z = nn.ModuleList(nn.Linear(2 * width, narrow) for _ in range(2))
        self.W_3 = nn.ModuleList(nn.Linear(narrow, narrow) for _ in range(2))
        self.W_B = nn.Linear((narrow + 1) ** 2, width)
        self.W_z = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, h_1: Float[Tensor, "case width"], h_2: Float[Tensor, "case width"]
    ) -> Float[Tensor, "case width"]:
        both = torch.cat([h_1, h_2], dim=1)
        o_1, o_2 = (
            F.pad(self.dropout(F.relu(W_3(Z(both).sigmoid() * F.relu(W_1(h))))), (0, 1), value=1.0)
            for h, W_1, Z, W_3 in zip((h_1, h_2), self.W_1, self.Z, self.W_3, strict=True)
        )  # (case, narrow + 1)
        B = self.dropout((o_1[:, :, None] * o_2[:, None, :]).flatten(1))
        return F.relu(self.W_z(torch.cat([F.relu(self.W_B(B)), both], dim=1)))
