"""Micro-bags: the patches of a case in several parts of which each is read by itself."""

from __future__ import annotations

import zlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 4096  # patches whose keys are computed at once


def micro_bags(
    bag: Float[Tensor, "patch feature"], case_id: str, size: int, *, training: bool
) -> list[Int[Tensor, " _"]]:
    """The rows of each micro-bag. A bag of n patches is shuffled and cut into n // size + 1 nearly equal parts.

    In training the order is drawn from the random state of torch. In evaluation it depends on the case and on the
    content of its patches alone: not on the order in which they come, nor on the rest of the batch.
    """
    order = torch.randperm(len(bag)).to(bag.device) if training else content_order(bag, case_id)
    count = min(len(bag), len(bag) // size + 1)
    return list(order.tensor_split(count))


def content_order(bag: Float[Tensor, "patch feature"], case_id: str) -> Int[Tensor, " patch"]:
    """A random order of patches that follows from the case and from the bits of the patches' features.

    The bits of a patch are hashed to one integer, exactly, by factors that are random and fixed for the case.
    """
    random = torch.Generator().manual_seed(zlib.crc32(case_id.encode()))
    factors = torch.randint(-(2**62), 2**62, (bag.shape[1],), generator=random).mul(2).add(1).to(bag.device)
    keys = [
        # the sum wraps around, in any order to the same; 0.0 + turns -0 into 0, and half floats become float exactly
        (0.0 + rows.float()).view(torch.int32).long().mul_(factors).sum(dim=1)
        for rows in bag.split(ROWS)
    ]
    return torch.cat(keys).argsort()
