"""Sums, means and softmaxes over ragged bags concatenated in one tensor.

`X` holds the rows of all bags, `sizes` the number of rows per bag. There is no padding. Each bag is reduced separately,
so that its result does not depend on other bags to the bit, and sums have a fixed order also on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def ragged_sum(X: Float[Tensor, "row ..."], sizes: Sequence[int]) -> Float[Tensor, "bag ..."]:
    """The sum of each bag's rows; zeros for an empty bag."""
    return torch.stack([bag.sum(dim=0) for bag in X.split(list(sizes))])


def ragged_mean(X: Float[Tensor, "row ..."], sizes: Sequence[int]) -> Float[Tensor, "bag ..."]:
    """The mean of each bag's rows; zeros for an empty bag."""
    return torch.stack([bag.sum(dim=0) / max(1, len(bag)) for bag in X.split(list(sizes))])


def ragged_softmax(scores: Float[Tensor, "row ..."], sizes: Sequence[int]) -> Float[Tensor, "row ..."]:
    """Weights that sum to 1 over the rows of each bag."""
    return torch.cat([bag.softmax(dim=0) for bag in scores.split(list(sizes))])


def ragged_weighted_sum(
    weights: Float[Tensor, "row query"], X: Float[Tensor, "row width"], sizes: Sequence[int]
) -> Float[Tensor, "bag query width"]:
    """For each bag and each column of weights, the weighted sum of the bag's rows; zeros for an empty bag."""
    bags = zip(weights.split(list(sizes)), X.split(list(sizes)), strict=True)
    return torch.stack([a.T @ x for a, x in bags])
