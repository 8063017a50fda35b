"""Detect the unit of expression where possible. Cohorts with different units must not be compared or combined."""

from __future__ import annotations

import numpy as np

FLOOR = float(np.log2(0.001))  # the lowest value of Xena's log2(TPM + 0.001)
HIGHEST_LOGARITHM = 30.0  # 2**30 exceeds any count of a sequencer

BY_NAME = {
    "star_tpm": "log2(TPM + 1)",
    "star_fpkm-uq": "log2(FPKM-UQ + 1)",
    "star_fpkm": "log2(FPKM + 1)",
    "star_counts": "log2(count + 1)",
    "htseq_fpkm-uq": "log2(FPKM-UQ + 1)",
    "htseq_fpkm": "log2(FPKM + 1)",
    "htseq_counts": "log2(count + 1)",
    "hiseqv2_pancan": "log2(RSEM normalised count + 1), centred",
    "hiseqv2_percentile": "percentile",
    "hiseqv2": "log2(RSEM normalised count + 1)",
}
"""Part of the name of a table on Xena's hubs -> its unit. The first match counts."""


def guess_unit(values: np.ndarray, file: str) -> str:
    """The unit of (case, gene) values, and how it was detected: by the floor, the name of the file, or the range.

    NaN is passed over; a gene has at least one value.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if abs(low - FLOOR) < 1e-3 and high < HIGHEST_LOGARITHM:
        return "log2(TPM + 0.001), by its floor"
    for part, unit in BY_NAME.items():
        if part in file.lower():
            return f"{unit}, by its name"
    if low >= 0:
        return "log2(x + 1), by its range" if high <= HIGHEST_LOGARITHM else "no logarithm, by its range"
    spread, centre = np.median(np.nanstd(values, axis=0)), np.abs(np.nanmedian(values, axis=0))
    if 0.5 < spread < 2 and np.median(centre) < 0.5:
        return "z-scores per gene, by their spread"
    return "centred logarithm, by its range" if np.median(centre) < 0.5 and high <= HIGHEST_LOGARITHM else "unknown"
