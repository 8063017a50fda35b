"""What every model is: cases in, one hazard an interval out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from survq.data.batch import Batch


@dataclass(frozen=True)
class Prediction:
    """What a model says of some cases."""

    logits: Float[Tensor, "case interval"]
    penalty: Tensor | float = 0.0  # what the model adds to the survival loss in training
    attention: Mapping[str, Any] = field(default_factory=dict)  # filled on request; the model documents its names

    @property
    def hazards(self) -> Float[Tensor, "case interval"]:
        """P(death in the interval, given survival up to it)."""
        return torch.sigmoid(self.logits)

    @property
    def survival(self) -> Float[Tensor, "case interval"]:
        """P(alive after the interval)."""
        return torch.cumprod(1 - self.hazards, dim=1)

    @property
    def risk(self) -> Float[Tensor, " case"]:
        """Minus the expected number of intervals survived, in [-n, 0]: the higher, the worse."""
        return -self.survival.sum(dim=1)


class SurvivalModel(nn.Module):
    """Interface of all models. Built as `Model(spec, **hyperparameters)`: sizes come from the data, and the
    keyword arguments with their defaults are the hyperparameters.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Modalities ("histology", "genomics") without which the model cannot speak of a case."""

    def prepare(self, training: Iterable[Batch]) -> None:
        """Fit what is not learnt by gradient (prototypes, clusters) on training cases; mostly nothing."""

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        raise NotImplementedError
