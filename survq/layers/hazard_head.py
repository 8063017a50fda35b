"""The linear layer that every model ends in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HazardHead(nn.Linear):
    """The logits of the hazards. In full precision also under autocast: in half of it, near risks would become ties."""

    def forward(self, z: Float[Tensor, "*case width"]) -> Float[Tensor, "*case interval"]:
        with torch.autocast(z.device.type, enabled=False):
            return super().forward(z.to(self.weight.dtype))
