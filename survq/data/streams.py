"""Random streams, one of its own for every purpose: what one purpose draws, or how often, leaves the others alone."""

from __future__ import annotations

import zlib

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """The random stream of a key: the same in whatever process and order it is asked for."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])


def torch_seed(*key: int | str) -> int:
    """The same for torch."""
    return int(generator(*key).integers(2**63))
