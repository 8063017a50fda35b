"""KaplanMeier: the survival of the training cases, the same for every case. The reference without any covariate.

In: nothing of a case. Out: the hazard of each interval,

    h_k = deaths in interval k / cases at risk at its start

A case that is censored in an interval counts as at risk in it. Without deaths, or if all died, half a case is added or
removed, so that hazards are inside (0, 1). All risks are equal, so that the C-index is 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import deaths_and_at_risk
from survq.models.base import Prediction, SurvivalModel


class KaplanMeier(SurvivalModel):
    """The hazards of the training cases."""

    reads = needs = frozenset()
    learns = False

    logits: Tensor

    def __init__(self, spec: InputSpec):
        super().__init__()
        self.register_buffer("logits", torch.zeros(spec.intervals, dtype=torch.float64))

    def prepare(self, training: Iterable[Batch]) -> None:
        batches = list(training)
        interval, event = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("interval", "event"))
        weight = torch.ones(len(event), dtype=torch.float64, device=event.device)
        deaths, at_risk = deaths_and_at_risk(interval, event, weight, len(self.logits))
        at_risk = at_risk.clamp(min=1)
        self.logits.copy_(torch.logit(torch.minimum(deaths.clamp(min=0.5), at_risk - 0.5) / at_risk))

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.logits.expand(len(batch), -1))
