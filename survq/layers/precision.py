"""The precision of matrix products, and elementwise operations that CPUs do slowly in bf16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def precision(weight: Tensor, device: torch.device | None = None) -> torch.dtype:
    """The dtype of matrix products with a weight: bf16 if it is much faster than fp32. Sums are in fp32.

    `device` is that of the products, by default that of the weight.
    """
    if weight.dtype != torch.float32:
        return weight.dtype
    kind = (device or weight.device).type
    if kind == "cpu":  # casts would cost small products more than they gain
        return torch.bfloat16 if computes_bf16() and weight.numel() >= 2**16 else torch.float32
    return torch.bfloat16 if torch.is_autocast_enabled(kind) else torch.float32


def may_be_bf16(device: torch.device) -> bool:
    """Whether matrix products on this device can be in bf16, for weights of any size."""
    return device.type != "cpu" or computes_bf16()


def computes_bf16() -> bool:
    """Whether this CPU has bf16 matrix units (AMX), about eight times as fast as fp32."""
    return torch.cpu._is_amx_tile_supported()


def products_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager:
    """If `dtype` is bf16, so are the matrix products in this context."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()


def relu(x: Tensor, out: Tensor) -> Tensor:
    return torch.clamp_min(_comparable(x), 0, out=_comparable(out)).view(out.dtype)


def where_positive(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x where y is above 0, and 0 elsewhere."""
    x, y, zeroed = _comparable(x), _comparable(y), _comparable(out)
    torch.ops.aten.threshold_backward.grad_input(x, y, 0, grad_input=zeroed)
    return out


def _comparable(x: Tensor) -> Tensor:
    """On a CPU the bits of bf16 as integers: they have the sign of the number, and are compared five times as fast."""
    return x.view(torch.int16) if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x
