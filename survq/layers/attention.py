"""Attention of queries over tokens: the equations of the paper, and a residual block for deep stacks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """softmax(F_q(Q) F_k(X)^T / sqrt(D)) F_v(X): equations (1)-(3), with one head and no output projection."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(
        self,
        Q: Float[Tensor, "*#case query width"],
        X: Float[Tensor, "*#case token width"],
        present: Bool[Tensor, "case token"] | None = None,
        *,
        weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended tokens, (*case, query, width), and the weights, (*case, query, token).

        Tokens that are not `present` get the weight 0. Who does not need the `weights` may get None.
        """
        return self._attend(self.query(Q), self.key(X), self.value(X), present)

    def over_bags(
        self,
        Q: Float[Tensor, "query width"],
        X: Float[Tensor, "patch width"],
        sizes: Sequence[int],
        *,
        weights: bool = True,
    ) -> list[tuple[Tensor, Tensor | None]]:
        """`forward` for ragged bags concatenated in X: (query, width) and (query, patch) for each bag."""
        q = self.query(Q)  # shared by all bags
        bags = zip(self.key(X).split(sizes), self.value(X).split(sizes), strict=True)
        return [self._attend(q, k, v) for k, v in bags]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
        A = _softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), present)
        return A @ v, A

    def absorbed(
        self, Q: Float[Tensor, "query width"], X: Float[Tensor, "case token width"]
    ) -> Float[Tensor, "case query width"]:
        """The tokens of `forward`, with F_k and F_v applied to the queries, which are fewer than the tokens."""
        A = _softmax(self.absorbed_queries(Q) @ X.transpose(-2, -1))
        return self.value(A @ X)  # = A F_v(X), because the rows of A sum to 1

    def pooled(
        self, M: Float[Tensor, "case token width"], present: Bool[Tensor, "case token"] | None = None
    ) -> Float[Tensor, "case width"]:
        """The mean over tokens of `forward(M, M)`, with F_v applied only once, to the mean of A M.

        That mean is in full precision also under autocast: all errors of half precision before it average out.
        """
        A = _softmax(self.absorbed_queries(M) @ M.transpose(-2, -1), present)
        if present is None:
            a = A.mean(dim=-2)
        else:
            a = (A * present[..., None]).sum(dim=-2) / present.sum(dim=-1, keepdim=True)
        dtype = self.value.weight.dtype
        with torch.autocast(M.device.type, enabled=False):
            return self.value((a[:, None].to(dtype) @ M.to(dtype)).squeeze(1))

    def absorbed_queries(self, Q: Float[Tensor, "*case query width"]) -> Float[Tensor, "*case query width"]:
        """The q for which softmax(q X^T) = softmax(F_q(Q) F_k(X)^T / sqrt(D)): F_k is absorbed into the queries.

        The bias of F_k adds a constant to all scores of a query, which softmax ignores; so its gradient is 0.
        """
        W = self.key.weight.T @ self.query.weight
        b = self.query.bias @ self.key.weight + 0 * self.key.bias
        return F.linear(Q, W / math.sqrt(len(b)), b / math.sqrt(len(b)))


def _softmax(scores: Tensor, present: Tensor | None = None) -> Tensor:
    """Softmax over the tokens that are present."""
    if present is not None:
        scores = scores.masked_fill(~present[:, None, :], -math.inf)
    return scores.softmax(dim=-1)


class ResidualAttention(nn.Module):
    """Q + Attention(norm(Q), norm(X)) with several heads and an output projection. The weights are means over heads.

    For deep stacks, because stacked plain attention layers would make all tokens similar.
    """

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}.")
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_token = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        Q: Tensor,
        X: Tensor,
        present: Tensor | None = None,
        *,
        weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """As `Attention.forward`; without `weights` it is faster."""
        mixed, A = _attend_heads(*self._projected(Q, X), present, weights)
        return self._joined(Q, mixed), A

    def _projected(self, Q: Tensor, X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values of the heads, (*case, head, token, width / head)."""
        X = self.norm_token(X)
        return self._split(Q), self._heads(self.attention.key(X)), self._heads(self.attention.value(X))

    def pooled(
        self,
        M: Float[Tensor, "case token width"],
        present: Bool[Tensor, "case token"] | None = None,
    ) -> Float[Tensor, "case width"]:
        """The mean over tokens of `forward(M, M)`, with the output projection applied only once, to the mean."""
        mixed, _ = _attend_heads(*self._projected(M, M), present, weights=False)
        mixed = mixed.transpose(-3, -2).flatten(-2)
        return mean_present(M, present) + self.output(mean_present(mixed, present))

    def pooled_over(
        self,
        M: Float[Tensor, "case token width"],
        subsets: Bool[Tensor, "subset token"],
        present: Bool[Tensor, "case token"] | None = None,
    ) -> Float[Tensor, "case subset width"]:
        """`pooled` as if only the tokens of a subset existed, for many subsets from one product of queries and keys.

        With E = exp(scores), query i gives token j of the subset S the weight E_ij / sum_{k in S} E_ik. In double
        precision where a subset may hold only tokens whose E is too small for single precision, and on a GPU, where
        autocast would round products in single precision.
        """
        q, k, v = self._projected(M, M)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        level = scores.amax(dim=-1, keepdim=True)
        if scores.device.type != "cpu" or (level - scores.amin(dim=-1, keepdim=True)).max() > 60:
            scores = scores.double()
        chosen = subsets[None] if present is None else subsets & present[:, None]  # (*case, subset, token)
        within = chosen[:, None].to(scores.dtype)  # the same for all heads
        E = (scores - level).exp()
        totals = within @ E.transpose(-2, -1)  # (case, head, subset, token): of each query i
        A = (within / totals.where(within > 0, 1)) @ E * within  # the sum of the rows i of S
        mixed = (A.to(v.dtype) @ v).transpose(-3, -2).flatten(-2)
        number = chosen.sum(dim=-1, keepdim=True)
        return (chosen.to(M.dtype) @ M + F.linear(mixed, self.output.weight)) / number + self.output.bias

    def over_bags(
        self, Q: Tensor, X: Tensor, sizes: Sequence[int], *, weights: bool = True
    ) -> list[tuple[Tensor, Tensor | None]]:
        """As `Attention.over_bags`; without `weights` it is faster."""
        X = self.norm_token(X)
        q = self._split(Q)  # shared by all bags
        keys, values = (self._heads(layer(X)) for layer in (self.attention.key, self.attention.value))
        bags = zip(keys.split(list(sizes), dim=-2), values.split(list(sizes), dim=-2), strict=True)
        reads = [_attend_heads(q[None], k[None], v[None], None, weights) for k, v in bags]
        together = self._joined(Q, torch.cat([mixed for mixed, _ in reads]))
        return [(tokens, None if A is None else A[0]) for tokens, (_, A) in zip(together, reads, strict=True)]

    def _split(self, Q: Tensor) -> Tensor:
        return self._heads(self.attention.query(self.norm_query(Q)))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)  # (*case, head, token, width / head)

    def _joined(self, Q: Tensor, mixed: Float[Tensor, "*case head query _"]) -> Tensor:
        return Q + self.output(mixed.transpose(-3, -2).flatten(-2))


def mean_present(
    X: Float[Tensor, "case token _"], present: Bool[Tensor, "case token"] | None
) -> Float[Tensor, "case _"]:
    """Over the tokens that are present."""
    if present is None:
        return X.mean(dim=1)
    return (X * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)


def _attend_heads(
    q: Float[Tensor, "*#case head query _"],
    k: Float[Tensor, "*case head token _"],
    v: Float[Tensor, "*case head token _"],
    present: Bool[Tensor, "case token"] | None,
    weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """What each head reads, (case, head, query, _), and the mean of the heads' weights, (case, query, token)."""
    mask = None if present is None else present[:, None, None, :]
    if not weights and q.device.type == "cpu":  # on a GPU, the sums of its gradient have no fixed order
        return F.scaled_dot_product_attention(q.expand(*k.shape[:-2], -1, -1), k, v, mask), None
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    A = scores.softmax(dim=-1)
    return A @ v, A.mean(dim=-3) if weights else None
