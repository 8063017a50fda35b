"""The last linear layer of every model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class HazardHead(nn.Linear):
    """The logits of the hazards, in full precision also under autocast: half precision would tie similar risks."""

    def forward(self, z: Float[Tensor, "*case width"]) -> Float[Tensor, "*case interval"]:
        with torch.autocast(z.device.type, enabled=False):
            return super().forward(z.to(self.weight.dtype))
