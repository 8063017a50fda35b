"""ClinicalCox: Cox regression on age, sex and stage, as far as the cohort has them (Cox, JRSS B 1972). A reference:
what is known without slides and genes.

In: the clinical covariates of a case, x (covariate), standardised. Out: the hazard of each interval k.

    eta = b x
    h_k = 1 - exp(-exp(a_k + eta))

b maximises Cox's log partial likelihood per case - lambda / 2 |b|^2; a_k is the baseline of interval k. See
survq/layers/cox.py.

Differences from the textbook: lambda is small, not 0, so that coefficients are finite also where a covariate separates
the deaths. Unknown values are the mean of the training cases. Stage enters as a number.

Left out: nothing. No parameters; `prepare` fits the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import CoxRegression
from survq.models.base import Prediction, SurvivalModel


class ClinicalCox(SurvivalModel):
    """Cox regression on the clinical covariates.

    Hyperparameters:
        penalty: lambda.
    """

    reads = needs = frozenset({"clinical"})
    native: ClassVar = {"epochs": 1}
    learns = False

    def __init__(self, spec: InputSpec, *, penalty: float = 0.01):
        super().__init__()
        self.cox = CoxRegression(len(spec.clinical), spec.intervals, penalty)

    def prepare(self, training: Iterable[Batch]) -> None:
        self.cox.fit(training, lambda batch: batch.clinical)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.cox(batch.clinical))
