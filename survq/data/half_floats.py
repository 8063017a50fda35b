"""Conversion between the two half-precision formats: float16, in which features are stored, and bfloat16."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor


def as_tensor(features: np.ndarray, dtype: torch.dtype = torch.float16) -> Tensor:
    """Features (patch, feature) of 16 bits as a tensor on the same memory, which may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(features.view(np.int16)).view(dtype)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x (patch, feature) in `dtype`, rounded to the nearest; x itself if it is in it."""
    if x.dtype == dtype:
        return x
    out = torch.empty_like(x, dtype=dtype)
    convert(x, out)
    return out


def convert(x: Tensor, out: Tensor) -> None:
    """Write x (patch, feature) to `out` in the dtype of `out`, rounded to the nearest."""
    if x.device.type != "cpu" or {x.dtype, out.dtype} != {torch.float16, torch.bfloat16}:
        out.copy_(x)
        return
    for rows, into in zip(x.split(128), out.split(128), strict=True):
        into.copy_(rows.float())  # by way of fp32, in the cache: twice as fast as in one step
