"""MLP: a multilayer perceptron on gene expression, the plain genomic baseline of SurvPath (Jaume et al., CVPR 2024,
arXiv:2304.06819).

In: the expression of all genes, x (gene). Out: the hazard of each interval.

    h_1 = dropout(relu(W_1 x + b_1))      (hidden)
    h_2 = dropout(relu(W_2 h_1 + b_2))    (hidden)
    hazards = sigmoid(W_3 h_2 + b_3)      (interval)

Differences from the authors' code, as our notes describe it:

- Its class has a hidden layer of 256 and dropout 0.1 by default, but its scripts, and so the published numbers, 32 and
  0.25: these are the defaults here.
- It drops the case axis of a batch of one case; here a batch of one is a batch.

Left out: nothing. 161,188 parameters with 4999 genes.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.hazard_head import HazardHead
from survq.models.base import Prediction, SurvivalModel
from survq.models.space import Floats, Integers


class MLP(SurvivalModel):
    """Two hidden layers on the expression of all genes.

    Hyperparameters:
        hidden: width of both hidden layers.
        dropout: share of hidden units dropped.
    """

    reads = needs = frozenset({"genomics"})
    native: ClassVar = {
        "weight_decay": 1e-4, "batch_size": 1, "epochs": 5, "schedule": "cosine", "nll_alpha": 0.5,
        "expression_scale": "minmax_as_survpath", "sampling": "balanced",
    }  # fmt: skip
    space: ClassVar = {"hidden": Integers(16, 512, log=True), "dropout": Floats(0.0, 0.5)}
    sizes = ("hidden",)

    def __init__(self, spec: InputSpec, *, hidden: int = 32, dropout: float = 0.25):
        super().__init__()
        self.encode = nn.Sequential(
            *(nn.Linear(spec.genes, hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
        )
        self.hazard = HazardHead(hidden, spec.intervals)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.hazard(self.encode(batch.expression)))
