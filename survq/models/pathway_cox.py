"""PathwayCox: ridge Cox regression on the mean expression of each pathway. A reference with few, readable covariates.

In: the expression of all genes. Out: the hazard of each interval k.

    x_p = mean expression of the genes of pathway p
    eta = b (x - mean of the training cases)
    h_k = 1 - exp(-exp(a_k + eta))

Fitted as GeneCox. Genes are not standardised before the mean: those that vary more weigh more.

Left out: nothing. No parameters; `prepare` fits the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import CoxRegression
from survq.models.base import Prediction, SurvivalModel


class PathwayCox(SurvivalModel):
    """Ridge Cox regression on the means of pathways.

    Hyperparameters:
        penalty: lambda; None: selected among the training cases.
    """

    reads = needs = frozenset({"genomics"})
    gene_sets = ("pathways",)
    native: ClassVar = {"epochs": 1}
    learns = False

    def __init__(self, spec: InputSpec, *, penalty: float | None = None):
        super().__init__()
        self.pathways = spec.pathways
        self.cox = CoxRegression(len(spec.pathways), spec.intervals, penalty)

    def means(self, batch: Batch) -> Float[Tensor, "case pathway"]:
        expression = batch.expression.double()
        return torch.stack([expression[:, list(genes)].mean(dim=1) for genes in self.pathways], dim=1)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.cox.fit(training, self.means)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.cox(self.means(batch)))
