"""SNN: a self-normalizing network on gene expression (Klambauer et al., NeurIPS 2017, arXiv:1706.02515), as the genomic
baseline of SurvPath (Jaume et al., CVPR 2024, arXiv:2304.06819) and of MCAT and PORPOISE before it.

In: the expression of all genes, x (gene). Out: the hazard of each interval.

    h_1 = AlphaDropout(elu(W_1 x + b_1))      (width)
    h_2 = AlphaDropout(elu(W_2 h_1 + b_2))    (width)
    hazards = sigmoid(W_3 h_2 + b_3)          (interval)

Every weight starts from N(0, 1 / fan-in) and every bias from 0, as self-normalization asks. No other model does so.

Differences from the authors' code, as our notes describe it: none. ELU in place of the paper's SELU is theirs.

Left out: the L1 penalty of all weights that MCAT and PORPOISE offer; MCAT's variant of four layers.
1,346,820 parameters with 4999 genes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.hazard_head import HazardHead
from survq.layers.snn import SNNBlock
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class SNN(SurvivalModel):
    """Two self-normalizing blocks on the expression of all genes.

    Hyperparameters:
        width: of both blocks.
        dropout: rate of AlphaDropout.
    """

    reads = needs = frozenset({"genomics"})
    native: ClassVar = {
        "weight_decay": 1e-4, "batch_size": 1, "epochs": 5, "schedule": "cosine", "nll_alpha": 0.5,
        "expression_scale": "minmax_as_survpath", "sampling": "balanced",
    }  # fmt: skip
    space: ClassVar = {"width": Integers(32, 512, log=True), "dropout": Floats(0.0, 0.5)}
    sizes = ("width",)

    def __init__(self, spec: InputSpec, *, width: int = 256, dropout: float = 0.25):
        super().__init__()
        self.encode = nn.Sequential(SNNBlock(spec.genes, width, dropout), SNNBlock(width, width, dropout))
        self.hazard = HazardHead(width, spec.intervals)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.hazard(self.encode(batch.expression)))
