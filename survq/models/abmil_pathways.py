"""ABMILPathways: the patches pooled as in ABMIL, the mean of the pathway tokens, and a linear layer. A reference for
multimodal models: in simulated worlds it is as good as they are.

In: the n patches of a case, x_i (feature), and the expression of its pathways. Out: the hazard of each interval.

    h_i = dropout(relu(W_e x_i + b_e)),  a = softmax(w (tanh(V h) * sigmoid(U h))),  z_h = sum_i a_i h_i
    z_g = mean of the tokens of all pathways, each a self-normalizing network of its genes
    hazards = sigmoid(Linear([z_h; z_g]))

The branches are those of ABMIL (arXiv:1802.04712) and of SurvQ's pathways, without any layer that mixes them.

Left out: nothing. 24,752,901 parameters with 1024 features and the 331 pathways of 4999 genes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.bags import pack
from survq.layers.gated_attention import GatedAttention
from survq.layers.hazard_head import HazardHead
from survq.layers.pathway_encoder import PathwayEncoder
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class ABMILPathways(SurvivalModel):
    """Gated attention pooling of patches beside the mean of pathway tokens.

    Hyperparameters:
        width: of embedded patches, attention, and pathway tokens.
        dropout: share of hidden units dropped in both branches.

    Its attention map has one query per case.
    """

    reads = needs = frozenset({"histology", "genomics"})
    gene_sets = ("pathways",)
    space: ClassVar = {"width": Integers(64, 512, log=True), "dropout": Floats(0.0, 0.5)}
    sizes = ("width",)

    def __init__(self, spec: InputSpec, *, width: int = 256, dropout: float = 0.25):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(spec.patch_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.attention = GatedAttention(width, width, dropout)
        self.encode_pathways = PathwayEncoder(spec.pathways, width, dropout)
        self.hazard = HazardHead(2 * width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        pooled, maps = [], []
        for _, patches, sizes in pack(batch.bags):
            H = self.embed(patches.to(self.hazard.weight.dtype))  # (patch, width)
            z, a = self.attention.over_bags(H, sizes)
            pooled.append(z)
            maps += [weights[None] for weights in a.split(sizes)]
        z_g = self.encode_pathways(batch.expression).mean(dim=1)
        logits = self.hazard(torch.cat([torch.cat(pooled), z_g], dim=1))
        return Prediction(logits, attention=AttentionMaps(histology=tuple(maps)) if keep_attention else None)
