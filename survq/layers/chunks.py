"""Chunks of ragged bags, and the memory in which they are computed.

In memory, the rows of a matrix lie an odd number of cache lines apart. At an even number, worst at a power of two, the
elements of a column share few sets of the cache and evict each other: matrix products then take up to four times as
long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CACHE_LINE = 64  # bytes
ACTIVATION_BUDGET = 2 * 2**30  # bytes that the forward pass may keep for the backward pass
# bytes per case, less than the memory of the gradients later; the end of a very large slide is recomputed
CASE_ACTIVATION_BUDGET = 72 * 2**20
BLOCK_BYTES = 32 * 2**20  # bytes allocated at once from the budget


class Piece(NamedTuple):
    """Some patches of a case, and their columns in the chunk."""

    case: int
    rows: slice
    columns: slice


def chunked(sizes: Sequence[int], most: int) -> Iterator[list[Piece]]:
    """Chunks of at most `most` patches: small bags are combined, a large bag is split evenly."""
    chunk: list[Piece] = []
    end = 0
    for case, size in enumerate(sizes):
        if chunk and end + size > most:
            yield chunk
            chunk, end = [], 0
        if size > most:
            parts = -(-size // most)
            cuts = [part * size // parts for part in range(parts + 1)]
            for start, stop in pairwise(cuts):
                yield [Piece(case, slice(start, stop), slice(0, stop - start))]
        elif size:
            chunk.append(Piece(case, slice(0, size), slice(end, end + size)))
            end += size
    if chunk:
        yield chunk


def size_of(chunk: list[Piece]) -> int:
    """Its number of patches."""
    return chunk[-1].columns.stop


def empty_rows(like: Tensor, rows: int, columns: int) -> Float[Tensor, "row column"]:
    """New memory of the dtype and device of `like`."""
    return like.new_empty(rows, _stride(columns, like.itemsize))[:, :columns]


def in_rows(x: Float[Tensor, "row column"], dtype: torch.dtype) -> Float[Tensor, "row column"]:
    """A copy in memory of its own, row by row: as first factor of a product, a transposed view is half as fast."""
    return empty_rows(x.new_empty(0, dtype=dtype), *x.shape).copy_(x)


def _stride(columns: int, itemsize: int) -> int:
    lines = -(-columns * itemsize // CACHE_LINE)
    return (lines | 1) * CACHE_LINE // itemsize


class Scratch:
    """Memory reused by all chunks, because new pages cost more than writing to them."""

    def __init__(self, like: Tensor, patches: int, rows: int):
        self.rows, self.whole = rows, like.new_empty(rows * _stride(patches, like.itemsize))

    def of(self, patches: int) -> Float[Tensor, "row patch"]:
        stride = _stride(patches, self.whole.itemsize)
        return self.whole[: self.rows * stride].view(self.rows, stride)[:, :patches]


class Activations:
    """Memory for the chunks that the forward pass keeps for the backward pass.

    On the CPU it is reused in the next step, because allocating it anew takes a tenth of the step.
    """

    def __init__(self, like: Tensor, rows: int, budget: int):
        self.like, self.rows, self.budget = like, rows, budget
        self.blocks: list[Tensor] = []
        self.left = torch.empty(0, dtype=torch.uint8)  # of the last block

    def allocate(self, chunk: list[Piece], case_size: int) -> Float[Tensor, "row patch"] | None:
        """Memory for a chunk, whose last case has `case_size` patches; None if the budget does not suffice."""
        patches, like = size_of(chunk), self.like
        stride = _stride(patches, like.itemsize)
        size = self.rows * stride * like.itemsize
        most = CASE_ACTIVATION_BUDGET // (self.rows * like.itemsize)  # patches
        if size > self.budget or chunk[-1].rows.stop > most:
            return None
        self.budget -= size
        # on a GPU, PyTorch caches memory
        if case_size > most or size > BLOCK_BYTES or like.device.type != "cpu":
            return like.new_empty(self.rows, stride)[:, :patches]
        if size > len(self.left):
            self.left = _idle_blocks.pop() if _idle_blocks else torch.empty(BLOCK_BYTES, dtype=torch.uint8)
            self.blocks.append(self.left)
        memory, self.left = self.left[:size], self.left[size:]
        return memory.view(like.dtype).view(self.rows, stride)[:, :patches]

    def release(self) -> None:
        """Make the memory available to the next step."""
        _idle_blocks.extend(self.blocks)
        self.blocks = []


_idle_blocks: list[Tensor] = []
