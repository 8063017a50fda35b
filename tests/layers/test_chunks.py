"""Chunks cover all patches once, and rows in memory lie an odd number of cache lines apart."""

import pytest
import torch

from survq.layers.chunks import Scratch, chunked, empty_rows, in_rows, size_of


@pytest.mark.parametrize("most", [1, 7, 100])
def test_chunks_hold_every_patch_once_and_in_order(most):
    sizes = (5, 0, 23, 1, 7, 2, 0)
    chunks = list(chunked(sizes, most))
    assert all(0 < size_of(chunk) <= most for chunk in chunks)
    found = [
        (piece.case, row) for chunk in chunks for piece in chunk for row in range(piece.rows.start, piece.rows.stop)
    ]
    assert found == [(case, row) for case, size in enumerate(sizes) for row in range(size)]
    for chunk in chunks:
        columns = [column for piece in chunk for column in range(piece.columns.start, piece.columns.stop)]
        assert columns == list(range(size_of(chunk)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("columns", [1, 32, 33, 1024, 3000])
def test_rows_are_an_odd_number_of_cache_lines_apart(dtype, columns):
    x = torch.randn(4, columns, dtype=dtype)
    rows = [empty_rows(x, 4, columns), in_rows(x.T, dtype).T, in_rows(x, dtype), Scratch(x, columns, 4).of(columns)]
    for memory in (rows[0], rows[2], rows[3]):
        lines, rest = divmod(memory.stride(0) * dtype.itemsize, 64)
        assert lines % 2 == 1 and not rest and memory.shape == x.shape
    assert torch.equal(rows[1], x) and torch.equal(rows[2], x)
