"""The block of self-normalizing networks, as used in survival models."""

from __future__ import annotations

from torch import nn


class SNNBlock(nn.Sequential):
    """Linear, ELU, AlphaDropout: (*case, inputs) to (*case, width).

    AlphaDropout was designed for SELU (Klambauer et al., 2017); the published survival models pair it with ELU.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.25):
        super().__init__(nn.Linear(inputs, width), nn.ELU(), nn.AlphaDropout(dropout))
