"""Ragged bags of patches in few large products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pack(bags: Sequence[Tensor], patches: int = 4096) -> Iterator[tuple[list[int], Tensor, list[int]]]:
    """Small bags one after another in one tensor of about `patches` rows, for one large product is faster than many
    small ones; a bag above that size goes alone, as the view it is. Empty bags are passed over.

    Yields the positions of the bags, the patches (patch, feature) and the size of each bag.
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
    # autocast cannot put half floats one after another
    return members, torch.cat([bag.float() if bag.dtype == torch.float16 else bag for bag in chosen]), sizes
