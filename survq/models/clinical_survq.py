"""ClinicalSurvQ: SurvQ with age, sex and stage, as far as the cohort has them. A reference: what slides and genes add
to them, and they to slides and genes.

In: as SurvQ, and the clinical covariates of a case, x (covariate), standardised. Out: the hazard of each interval.

    hazards = sigmoid(logits of SurvQ + b x)

b is the same in all intervals (proportional odds). It begins with the coefficients of ClinicalCox and is trained with
the rest; the learning rate of the rest would be too low for a start at 0.

Left out: nothing. As many parameters as SurvQ, and one per covariate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import CoxRegression
from survq.layers.hazard_head import HazardHead
from survq.models.base import Prediction
from survq.models.survq import SurvQ

PENALTY = 0.01  # of the Cox regression


class ClinicalSurvQ(SurvQ):
    """SurvQ and a linear term of the clinical covariates. Its hyperparameters are those of SurvQ."""

    reads = SurvQ.reads | {"clinical"}
    needs = frozenset({"clinical"})

    @wraps(SurvQ.__init__)  # type: ignore[misc]  # mypy expects a function that is no constructor
    def __init__(self, spec: InputSpec, **hyperparameters: Any):
        super().__init__(spec, **hyperparameters)
        self.clinical = HazardHead(len(spec.clinical), 1, bias=False)

    @torch.no_grad()
    def prepare(self, training: Iterable[Batch]) -> None:
        weight = self.clinical.weight
        cox = CoxRegression(len(self.spec.clinical), self.spec.intervals, PENALTY).to(weight.device)
        cox.fit(training, lambda batch: batch.clinical)
        weight.copy_(cox.coefficients)

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        prediction = super().forward(batch, keep_attention=keep_attention)
        return replace(prediction, logits=prediction.logits + self.clinical(batch.clinical))
