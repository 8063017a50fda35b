"""Micro-bags: parts of a case's patches, each of which is read separately."""

from __future__ import annotations

import zlib

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 4096  # patches per step of the hash


def micro_bags(
    bag: Float[Tensor, "patch feature"], case_id: str, size: int, *, training: bool
) -> list[Int[Tensor, " _"]]:
    """The rows of each micro-bag. A bag of n patches is shuffled and cut into n // size + 1 nearly equal parts.

    In training the order is drawn from the random state of torch. In evaluation it depends only on the case and on the
    content of its patches, not on their order in the bag or on the rest of the batch.
    """
    order = torch.randperm(len(bag)).to(bag.device) if training else content_order(bag, case_id)
    count = min(len(bag), len(bag) // size + 1)
    return list(order.tensor_split(count))


def content_order(bag: Float[Tensor, "patch feature"], case_id: str) -> Int[Tensor, " patch"]:
    """A pseudorandom order of patches that depends only on the case and on the bits of the patches' features.

    The bits of a patch are hashed to one integer, exactly, with random factors that are fixed per case.
    """
    random = torch.Generator().manual_seed(zlib.crc32(case_id.encode()))
    factors = torch.randint(-(2**62), 2**62, (bag.shape[1],), generator=random).mul(2).add(1).to(bag.device)
    keys = [
        # a wrapping sum is the same in any order; 0.0 + turns -0 into 0; half to single precision is exact
        (0.0 + rows.float()).view(torch.int32).long().mul_(factors).sum(dim=1)
        for rows in bag.split(ROWS)
    ]
    return torch.cat(keys).argsort()
