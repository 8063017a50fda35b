"""Chunks cover all patches once, and rows in memory lie an odd number of cache lines apart."""

import pytest
import torch

from survq.layers.chunks import Scratch, Sizes, chunked, empty_rows, in_rows


@pytest.mark.parametrize(
    "sizes", [Sizes(1), Sizes(7), Sizes(100), Sizes(16, 8, 4), Sizes(8, 4), Sizes(64, 64, 16)], ids=str
)
def test_chunks_hold_every_patch_once_and_each_bag_in_order(sizes):
    bags = (5, 0, 23, 1, 7, 2, 0, 17, 64, 130)
    pieces = [piece for chunk in chunked(bags, sizes) for piece in chunk.pieces]
    for case, patches in enumerate(bags):
        rows = [row for piece in pieces if piece.case == case for row in range(piece.rows.start, piece.rows.stop)]
        assert rows == list(range(patches))


@pytest.mark.parametrize(
    "sizes", [Sizes(1), Sizes(7), Sizes(100), Sizes(16, 8, 4), Sizes(8, 4), Sizes(64, 64, 16)], ids=str
)
def test_columns_without_a_patch_are_padding(sizes):
    for chunk in chunked((5, 0, 23, 1, 7, 2, 0, 17, 64, 130), sizes):
        real = [column for piece in chunk.pieces for column in range(chunk.size)[piece.real]]
        padding = [column for columns in chunk.padding for column in range(chunk.size)[columns]]
        assert sorted(real + padding) == list(range(chunk.size))
        assert [len(range(chunk.size)[piece.real]) for piece in chunk.pieces] == [
            piece.rows.stop - piece.rows.start for piece in chunk.pieces
        ]


def test_chunks_have_few_sizes():
    sizes = Sizes(3072, 256, 64)
    chunks = list(chunked(range(0, 40_000, 37), sizes))
    assert {chunk.size for chunk in chunks} <= set(range(256, 3073, 256))
    columns = [piece.columns for chunk in chunks if not chunk.only for piece in chunk.pieces]
    assert {part.stop - part.start for part in columns} <= set(range(64, 3073, 64))
    large = [sum(end.stop - end.start for end in chunk.padding) for chunk in chunked([100_000], sizes)]
    assert max(large) < 256 and sum(large) < 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, 32, 33, 1024, 3000])
def test_rows_are_an_odd_number_of_cache_lines_apart(dtype, columns):
    x = torch.randn(4, columns, dtype=dtype)
    rows = [empty_rows(x, 4, columns), in_rows(x.T, dtype).T, in_rows(x, dtype), Scratch(x, columns, 4).of(columns)]
    for memory in (rows[0], rows[2], rows[3]):
        lines, rest = divmod(memory.stride(0) * dtype.itemsize, 64)
        assert lines % 2 == 1 and not rest and memory.shape == x.shape
    assert torch.equal(rows[1], x) and torch.equal(rows[2], x)
