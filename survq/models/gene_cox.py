"""GeneCox: ridge Cox regression on the expression of all genes (Verweij and van Houwelingen, 1994), a reference that
beats several networks on real cohorts.

In: the expression of all genes, x (gene). Out: the hazard of each interval,

    eta = b (x - mean of the training cases)
    h_k = 1 - exp(-exp(a_k + eta))

b maximises Cox's partial likelihood minus lambda / 2 times the squared coefficients of standardised genes, per case.
lambda is selected by cross-validation among the training cases. a_k is the baseline of interval k. See layers/cox.py.
"""

from __future__ import annotations

from collections.abc import Iterable

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
    learns = False

    def __init__(self, spec: InputSpec, *, penalty: float | None = None):
        super().__init__()
        self.cox = CoxRegression(spec.genes, spec.intervals, penalty)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.cox.fit(training, lambda batch: batch.expression)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.cox(batch.expression))
