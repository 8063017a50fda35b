"""Pack ragged bags of patches for few, large matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pack(bags: Sequence[Tensor], patches: int = 4096) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Concatenate small bags into tensors of at most about `patches` rows; one large product is faster than many small.

    A larger bag is yielded alone, without a copy. Empty bags are skipped. Yields the positions of the bags, their
    patches (patch, feature), and the size of each bag.
    """
    members: list[int] = []
    total = 0
    for position, bag in enumerate(bags):
        if not len(bag):
            continue
        if members and total + len(bag) > patches:
            yield _packed(bags, members)
            members, total = [], 0
        members.append(position)
        total += len(bag)
    if members:
        yield _packed(bags, members)


def _packed(bags: Sequence[Tensor], members: list[int]) -> tuple[list[int], Tensor, list[int]]:
    chosen = [bags[position] for position in members]
    sizes = [len(bag) for bag in chosen]
    if len(chosen) == 1:
        return members, chosen[0], sizes
    # autocast cannot concatenate half-precision tensors
    return members, torch.cat([bag.float() if bag.dtype == torch.float16 else bag for bag in chosen]), sizes
