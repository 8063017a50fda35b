"""ABMIL: attention-based multiple instance learning (Ilse et al., ICML 2018, arXiv:1802.04712), as the histology
baseline of SurvPath (Jaume et al., CVPR 2024, arXiv:2304.06819).

In: the n patches of a case, x_i (feature). Out: the hazard of each interval.

    h_i = dropout(relu(W_e x_i + b_e))                                 (width)   of each patch
    a_i = softmax over i of  w (tanh(V h_i) * sigmoid(U h_i))                    gated attention
    z = sum_i a_i h_i                                                  (width)
    hazards = sigmoid(Linear(dropout(relu(W_r z + b_r))))              (interval)

Differences from the authors' code, as our notes describe it:

- It fills small bags up with zeros, which take attention; bags here are ragged and nothing is filled up.
- Its optimizer is RAdam with decoupled weight decay, "native" has AdamW. It names no number of epochs for ABMIL; we
  take the default of its arguments, 20.

Left out: the variant with 512 hidden units. 461,061 parameters with 1024 features.
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
from survq.models.base import AttentionMaps, Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class ABMIL(SurvivalModel):
    """Gated attention pooling over the patches of a case.

    Hyperparameters:
        width: of embedded patches, attention and the pooled vector.
        dropout: share of hidden units dropped, in the embedding, in both factors of the attention and before the head.

    Its attention map has one query per case.
    """

    reads = needs = frozenset({"histology"})
    native: ClassVar = {
        "learning_rate": 1e-3, "weight_decay": 1e-4, "batch_size": 1, "epochs": 20, "schedule": "cosine",
        "nll_alpha": 0.5, "sampling": "balanced", "patches_per_case": 4096,
    }  # fmt: skip
    space: ClassVar = {"width": Integers(64, 512, log=True), "dropout": Floats(0.0, 0.5)}
    sizes = ("width",)

    def __init__(self, spec: InputSpec, *, width: int = 256, dropout: float = 0.25):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(spec.patch_features, width), nn.ReLU(), nn.Dropout(dropout))
        self.attention = GatedAttention(width, width, dropout)
        self.refine = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
        self.hazard = HazardHead(width, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        pooled, maps = [], []
        for _, patches, sizes in pack(batch.bags):
            H = self.embed(patches.to(self.hazard.weight.dtype))  # (patch, width)
            z, a = self.attention.over_bags(H, sizes)
            pooled.append(z)
            maps += [weights[None] for weights in a.split(sizes)]
        logits = self.hazard(self.refine(torch.cat(pooled)))
        return Prediction(logits, attention=AttentionMaps(histology=tuple(maps)) if keep_attention else None)
