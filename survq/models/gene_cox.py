"""GeneCox: ridge Cox regression on all genes (Verweij & van Houwelingen, Statistics in Medicine 1994).
A reference: on real cohorts it beats several networks.

In: the expression of all genes, x (gene). Out: the hazard of each interval k.

    eta = b (x - mean of the training cases)
    h_k = 1 - exp(-exp(a_k + eta))

b maximises Cox's log partial likelihood per case - lambda / 2 |b of standardised genes|^2. lambda is selected by the
cross-validated partial likelihood of the training cases; a_k is the baseline of interval k. See survq/layers/cox.py.

Differences from the paper: hazards are those of grouped times (Prentice & Gloeckler, Biometrics 1978), so that the
survival loss is defined. Risk is monotone in eta.

Left out: nothing. No parameters; `prepare` fits the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import CoxRegression
from survq.models.base import Prediction, SurvivalModel


class GeneCox(SurvivalModel):
    """Ridge Cox regression on all genes.

    Hyperparameters:
        penalty: lambda; None: selected among the training cases.
    """

    reads = needs = frozenset({"genomics"})
    native: ClassVar = {"epochs": 1}
    learns = False

    def __init__(self, spec: InputSpec, *, penalty: float | None = None):
        super().__init__()
        self.cox = CoxRegression(spec.genes, spec.intervals, penalty)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.cox.fit(training, lambda batch: batch.expression)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.cox(batch.expression))
