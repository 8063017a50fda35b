"""Gated attention pooling (Ilse et al., ICML 2018, arXiv:1802.04712)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from survq.layers.ragged import ragged_softmax, ragged_weighted_sum


class GatedAttention(nn.Module):
    """score(x) = w (tanh(V x) * sigmoid(U x)), with dropout of both factors; the weights are a softmax of scores.

    `forward` returns the scores; `over_tokens` and `over_bags` return the pooled rows and the weights.
    """

    def __init__(self, inputs: int, hidden: int, dropout: float = 0.25):
        super().__init__()
        self.V = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.U = nn.Sequential(nn.Linear(inputs, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.w = nn.Linear(hidden, 1)

    def forward(self, X: Float[Tensor, "*row inputs"]) -> Float[Tensor, "*row"]:
        return self.w(self.V(X) * self.U(X)).squeeze(-1)

    def over_tokens(
        self, X: Float[Tensor, "case token inputs"], present: Bool[Tensor, "case token"] | None = None
    ) -> tuple[Float[Tensor, "case inputs"], Float[Tensor, "case token"]]:
        """Tokens that are not `present` get the weight 0; each case has at least one that is."""
        scores = self(X)
        if present is not None:
            scores = scores.masked_fill(~present, -math.inf)
        a = scores.softmax(dim=1)
        return (a[:, None, :] @ X).squeeze(1), a

    def over_bags(
        self, X: Float[Tensor, "row inputs"], sizes: Sequence[int]
    ) -> tuple[Float[Tensor, "bag inputs"], Float[Tensor, " row"]]:
        """`over_tokens` for ragged bags concatenated in X; zeros for an empty bag."""
        a = ragged_softmax(self(X)[:, None], sizes)
        return ragged_weighted_sum(a, X, sizes).squeeze(1), a.squeeze(1)
