"""float16 to bfloat16 is rounded as PyTorch rounds."""

import pytest
import torch

from survq.data.half_floats import convert


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
def test_all_half_floats(dtype):
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    x = halves[halves.isfinite()].view(-1, 31)  # more rows than are converted at a time
    out = torch.empty(x.shape, dtype=dtype)
    convert(x, out)
    assert torch.equal(out, x.to(dtype))
