"""Chunks of ragged bags, and the memory in which they are computed.

In memory, the rows of a matrix lie an odd number of cache lines apart. At an even number, worst at a power of two, the
elements of a column share few sets of the cache and evict each other: matrix products then take up to four times as
long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CACHE_LINE = 64  # bytes
ACTIVATION_BUDGET = 2 * 2**30  # bytes that the forward pass may keep for the backward pass
# bytes per case, less than the memory of the gradients later; the end of a very large slide is recomputed
CASE_ACTIVATION_BUDGET = 72 * 2**20
BLOCK_BYTES = 32 * 2**20  # bytes allocated at once from the budget


class Sizes(NamedTuple):
    """The numbers of patches that are computed together.

    For each new shape of a bf16 product, PyTorch's library on CPUs compiles code, which takes several times as long as
    the product and a third of a MB. Bags have all sizes, so chunks have few: missing patches are padding.
    """

    most: int  # of a chunk
    chunk: int = 1  # a chunk has a multiple of these, of which `most` is one
    piece: int = 1  # and a piece of a chunk of several a multiple of these, of which `chunk` is one


class Piece(NamedTuple):
    """Some patches of a case, and their columns in the chunk: if these are more, the last ones are padding."""

    case: int
    rows: slice
    columns: slice

    @property
    def real(self) -> slice:
        """The columns without padding."""
        return slice(self.columns.start, self.columns.start + self.rows.stop - self.rows.start)


class Chunk(NamedTuple):
    """Patches that are computed together, of one large bag or of several bags."""

    pieces: list[Piece]
    size: int  # patches, with padding

    @property
    def only(self) -> Piece | None:
        """The piece that it consists of, if it is one."""
        return self.pieces[0] if len(self.pieces) == 1 else None

    @property
    def padding(self) -> list[slice]:
        """The columns without a patch."""
        starts = [piece.real.stop for piece in self.pieces]
        stops = [piece.columns.start for piece in self.pieces[1:]] + [self.size]
        return [slice(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def chunked(bags: Sequence[int], sizes: Sizes) -> Iterator[Chunk]:
    """Chunks of bags with these numbers of patches. Small bags are combined, and so is what is left over of large ones,
    which are split evenly."""
    pieces: list[Piece] = []
    end = 0
    for case, patches in enumerate(bags):
        start = 0
        if patches > sizes.most:
            whole = patches // sizes.chunk * sizes.chunk
            for stop in _even_cuts(whole, sizes):
                yield Chunk([Piece(case, slice(start, stop), slice(0, stop - start))], stop - start)
                start = stop
        columns = _rounded_up(patches - start, sizes.piece)
        if end + columns > sizes.most:
            yield Chunk(pieces, _rounded_up(end, sizes.chunk))
            pieces, end = [], 0
        if columns:
            pieces.append(Piece(case, slice(start, patches), slice(end, end + columns)))
            end += columns
    if pieces:
        yield Chunk(pieces, _rounded_up(end, sizes.chunk))


def _even_cuts(patches: int, sizes: Sizes) -> list[int]:
    """Where parts of a bag end."""
    parts = -(-patches // sizes.most)
    return [min(_rounded_up(part * patches // parts, sizes.chunk), patches) for part in range(1, parts + 1)]


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


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

    def allocate(self, chunk: Chunk, case_size: int) -> Float[Tensor, "row patch"] | None:
        """Memory for a chunk, whose last case has `case_size` patches; None if the budget does not suffice."""
        patches, like = chunk.size, self.like
        stride = _stride(patches, like.itemsize)
        size = self.rows * stride * like.itemsize
        most = CASE_ACTIVATION_BUDGET // (self.rows * like.itemsize)  # patches
        if size > self.budget or (chunk.only and chunk.only.rows.stop > most):
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
