"""Encoder of a case's few tokens into one vector, as in MCAT and related models."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from survq.layers.gated_attention import GatedAttention


class TokenEncoder(nn.Module):
    """Two transformer layers (norm after the residual, ReLU, hidden layer of twice the width), then gated attention."""

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.25, layers: int = 2):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}.")
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, batch_first=True) for _ in range(layers))
        )
        self.pool = GatedAttention(width, width, dropout)

    def forward(self, tokens: Float[Tensor, "case token width"]) -> Float[Tensor, "case width"]:
        pooled, _ = self.pool.over_tokens(self.layers(tokens))
        return pooled
