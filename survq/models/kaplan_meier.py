"""Kaplan-Meier: the survival of the training cases as the prediction for everybody (Kaplan & Meier, JASA 1958).

In: nothing of a case. Out: the hazard of each interval k, the same for all cases.

    h_k = deaths in k / cases at risk at its start

As all risks are equal, the C-index is 0.5. No constant hazards have a smaller survival loss on the training cases.

Differences from the textbook: time is in intervals, and a case that is censored in an interval counts as at risk in all
of it, as in the survival loss. Without deaths, or if all died, half a case is added or removed, so that hazards are
inside (0, 1).

Left out: nothing. No parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.cox import deaths_and_at_risk
from survq.models.base import Prediction, SurvivalModel


class KaplanMeier(SurvivalModel):
    """The hazards of the training cases."""

    reads = needs = frozenset()
    native: ClassVar = {"epochs": 1}
    learns = False

    logits: Tensor

    def __init__(self, spec: InputSpec):
        super().__init__()
        self.register_buffer("logits", torch.zeros(spec.intervals, dtype=torch.float64))

    def prepare(self, training: Iterable[Batch]) -> None:
        interval, event = map(torch.cat, zip(*((batch.interval, batch.event) for batch in training), strict=True))
        deaths, at_risk = deaths_and_at_risk(interval, event, len(self.logits))
        number = at_risk.sum(dim=0).clamp(min=1)
        self.logits.copy_(torch.logit(torch.minimum(deaths.clamp(min=0.5), number - 0.5) / number))

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        return Prediction(self.logits.expand(len(batch), -1))
