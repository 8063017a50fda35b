"""Physical sizes of patches: an encoder sees other structures in patches of 112 than of 224 micrometres."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import NamedTuple

import pandas as pd

from survq.data.problems import DataError
from survq.text import preview

MICROMETRES = 10.0  # per level-0 pixel of a scan at 1x
BELIEVABLE = (0.08, 20.0)  # micrometres per pixel of scans and their exports: 125x to 0.5x
NOMINAL, MEASURED = 1.1, 1.5  # largest ratio of sizes that are alike: scans "at 40x" have 0.19 to 0.26 micrometres


def believable(mpp: float) -> bool:
    """Whether these can be the micrometres per pixel of a scan, whoever states them."""
    return BELIEVABLE[0] <= mpp <= BELIEVABLE[1]


class PatchSize(NamedTuple):
    """The side of the patches of a slide in micrometres; `nominal`: computed from a magnification such as 40x."""

    side: float
    nominal: bool = False

    @classmethod
    def of(cls, pixels: float | None, magnification: float | None, mpp: float | None = None) -> PatchSize | None:
        """From level-0 pixels, and the magnification of level 0 or its micrometres per pixel; None if unknown."""
        if not pixels or not (magnification or mpp):
            return None
        if magnification:
            return cls(pixels * MICROMETRES / magnification, nominal=float(magnification).is_integer())
        return cls(pixels * (mpp or 0))

    def like(self, other: PatchSize) -> bool:
        largest = NOMINAL if self.nominal and other.nominal else MEASURED
        return max(self.side, other.side) <= largest * min(self.side, other.side)


def stored_sizes(index: pd.DataFrame) -> dict[str, PatchSize]:
    """The known sizes of the slides of a store, by id."""
    known = index.dropna(subset=["patch_size", "magnification"])
    found = {row.slide_id: PatchSize.of(row.patch_size, row.magnification) for row in known.itertuples()}
    return {slide: size for slide, size in found.items() if size is not None}


def other_sizes(stored: Mapping[str, PatchSize], new: Mapping[str, PatchSize]) -> dict[str, str]:
    """The new slides whose patches differ in size from the others, with reasons.

    The store decides which size is right; for an empty store, the majority of the new slides does. Raises DataError if
    there is no majority.
    """
    kept = [size for slide, size in stored.items() if slide not in new]
    sizes = kept or list(new.values())
    if not sizes or not new:
        return {}
    right = median_low(sizes)
    if 2 * sum(size.like(right) for size in sizes) <= len(sizes):
        raise DataError(
            [f"mixed patch sizes: {_groups(sizes)}. Fix: import slides of one patch size and magnification."]
        )
    others = f"the {len(kept)} slides of the store" if kept else "most others"
    return {
        slide: f"its patches are {size.side:.0f} micrometres wide; those of {others} are {right.side:.0f}. "
        f"Fix: extract all slides at one patch size and magnification"
        for slide, size in new.items()
        if not size.like(right)
    }


def size_notes(index: pd.DataFrame) -> list[str]:
    """Patch sizes of a store that are worth a look."""
    notes, sizes = [], stored_sizes(index)
    if sizes:
        right = PatchSize(median_low(sizes.values()).side)
        if odd := [slide for slide, size in sizes.items() if not size.like(right)]:
            notes.append(
                f"{len(odd)} slides have patches of another size in micrometres: {preview(odd)}; "
                f"{_groups([sizes[slide] for slide in odd])}, beside {right.side:.0f} in others"
            )
    pixels = index["patch_size"].dropna()
    if len(far := pixels[(pixels > 4 * pixels.median()) | (4 * pixels < pixels.median())]):
        notes.append(
            f"{len(far)} slides have patches of {preview(sorted({f'{side:,.0f}' for side in far}))} level-0 pixels, "
            f"beside {pixels.median():,.0f} in others: {preview(far.index)}. Is the scale of these slides right?"
        )
    return notes


def _groups(sizes: Sequence[PatchSize]) -> str:
    counts = Counter(round(size.side) for size in sizes).most_common(5)
    return ", ".join(f"{side} micrometres ({count} slides)" for side, count in counts)
