"""Patch features in half precision, block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from survq.data.problems import DataError
from survq.data.write import blank_patches, first_not_finite
from survq.importing.untrusted import refusal

ReadRows = Callable[[int, int], np.ndarray]
"""From the first patch and the patch after the last to their features, float16, float32 or float64."""


def to_half(file: Path, rows: ReadRows, shape: tuple[int, int], step: int, is_half: bool) -> tuple[np.ndarray, float]:
    """Features of `shape` (patch, feature) as float16, and the largest rounding error.

    `step` patches are converted at a time, unless `is_half`: then `rows` returns float16 and all are read at once.
    Raises DataError, naming `file` and the patch, for features that are not finite in float16 and for blank patches.
    """
    rounding, patches = 0.0, shape[0]
    if is_half:
        features = np.ascontiguousarray(rows(0, patches))
    else:
        features = np.empty(shape, np.float16)
        for start in range(0, patches, step):
            block = rows(start, min(start + step, patches))
            rounding = max(rounding, _round_block(file, block, features[start : start + step], start))
    if (first := first_not_finite(features)) is not None:
        raise _not_finite(file, first)
    if (problem := blank_patches(features)) is not None:
        raise refusal(file, problem, "extract it again; if a bag was padded to a fixed size, save it without padding")
    return features, rounding


def _round_block(file: Path, block: np.ndarray, half: np.ndarray, start: int) -> float:
    """Round a block, whose first patch is `start`, into `half`. Returns the largest rounding error."""
    with np.errstate(over="ignore", invalid="ignore"):
        half[...] = block
        difference = half.astype(block.dtype)
        difference -= block
    largest = max(float(difference.max()), -float(difference.min()))
    if np.isfinite(largest):
        return largest
    patch = int(np.flatnonzero(~np.isfinite(difference).all(axis=1))[0])
    if not np.isfinite(block[patch]).all():
        raise _not_finite(file, start + patch)
    value = block[patch][np.abs(block[patch]).argmax()]
    problem = f"patch {start + patch} has the feature {value:.6g}, beyond 65504, the largest value in half precision"
    raise refusal(file, problem, "check the scale of the encoder; normalise the features, or skip the file")


def _not_finite(file: Path, patch: int) -> DataError:
    fix = "extract it again, in float32 if mixed precision overflowed"
    return refusal(file, f"a feature of patch {patch} is not finite", fix)
