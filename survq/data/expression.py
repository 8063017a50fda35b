"""Expression scaling, fitted on the training cases of a fold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float


def training_means(training: Float[np.ndarray, "case gene"]) -> Float[np.ndarray, " gene"]:
    """The mean of each gene over its known values; of a gene without any, the mean of all genes. Unknown is NaN."""
    known = ~np.isnan(training)
    sums, counts = np.where(known, training, 0).sum(axis=0, dtype=np.float64), known.sum(axis=0)
    means = np.where(counts, sums / np.maximum(counts, 1), sums.sum() / max(1, counts.sum()))
    return means.astype(np.float32)


def filled(
    expression: Float[np.ndarray, "case gene"], means: Float[np.ndarray, " gene"]
) -> Float[np.ndarray, "case gene"]:
    """Expression with the mean of its gene in the place of every unknown value."""
    unknown = np.isnan(expression)
    return np.where(unknown, means.astype(expression.dtype), expression) if unknown.any() else expression


@dataclass(frozen=True)
class ExpressionScale:
    """An affine map of each gene: (value - offset) * factor."""

    offset: np.ndarray | float  # one for all genes, or (gene,)
    factor: np.ndarray | float
    keeps_zeros: bool = False  # a value of exactly 0 stays 0

    def __call__(self, expression: Float[np.ndarray, "case gene"]) -> Float[np.ndarray, "case gene"]:
        scaled = ((expression - self.offset) * self.factor).astype(np.float32)
        if self.keeps_zeros:
            scaled[np.asarray(expression) == 0] = 0
        return scaled


def minmax(training: Float[np.ndarray, "case gene"]) -> ExpressionScale:
    """One scale to [-1, 1] for the whole training matrix, as in the protocol shared by published models.

    It keeps the level of each gene, and gives more weight to genes of high variance. Held-out values may leave [-1, 1].
    """
    low, high = float(training.min()), float(training.max())
    return ExpressionScale(offset=(low + high) / 2, factor=2 / (high - low) if high - low > 1e-8 else 0.0)


def minmax_as_survpath(training: Float[np.ndarray, "case gene"]) -> ExpressionScale:
    """`minmax` as in SurvPath's code, which treats exact zeros as missing and maps them to the middle of the range.

    Equal to `minmax` on the public tables in log2(TPM + 0.001), where no value is exactly 0. Unsuitable for
    log2(TPM + 1), where 0 is the lowest value.
    """
    return replace(minmax(training), keeps_zeros=True)


def zscore(training: Float[np.ndarray, "case gene"]) -> ExpressionScale:
    """Mean 0 and population deviation 1 for each gene; a gene that is constant in training becomes 0 everywhere."""
    mean, deviation = training.mean(axis=0, dtype=np.float64), training.std(axis=0, dtype=np.float64)
    constant = deviation < 1e-8
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return ExpressionScale(offset=mean, factor=factor)


SCALES = {"minmax": minmax, "minmax_as_survpath": minmax_as_survpath, "zscore": zscore}
