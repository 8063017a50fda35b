"""Independent random streams, one per purpose: the draws of one purpose do not affect the others."""

from __future__ import annotations

import zlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """The random stream of a key. It is the same in every process, and does not depend on other streams."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])


def torch_seed(*key: int | str) -> int:
    """A seed for torch, drawn from the stream of the key."""
    return int(generator(*key).integers(2**63))
