"""Where the tissue of an H&E slide is, and the grid of patches on it.

Glass has no colour, stained tissue has: the mask is where the saturation of a small, smoothed view is above a threshold
that Otsu's method finds between the two. The threshold is kept within bounds, for on a slide that is all glass or all
tissue there are no two to part. Ink, black marks and scanning gaps are taken out; specks go, small holes are filled.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from survq.data.problems import DataError
from survq.slides.slide import PATCH, PIXEL, Scan

MPP = 8.0  # micrometres a pixel of the mask: a patch is 14 of them wide
SATURATION = (0.05, 0.1)  # between them is Otsu's threshold sought
BLACK = 0.2  # of full brightness; darker than that is no stain
GLASS = 0.6  # of full brightness, in all colours
PATCH_AREA = (PATCH * PIXEL / MPP) ** 2  # of a patch, in pixels of the mask
INK_AREA = PATCH_AREA / 4  # some tissue has specks of pigment
SHARE = 0.25  # of a patch that must be tissue


def small(slide: Scan, view: Image.Image) -> Image.Image:
    """A view of a slide at the mask's 8 micrometres a pixel."""
    across, down = (max(1, round(side * slide.mpp / MPP)) for side in (slide.width, slide.height))
    return view.resize((across, down), Image.Resampling.BOX)


def tissue_mask(view: Image.Image) -> np.ndarray:
    """(row, column), bool: where the tissue is in an RGB view of 8 micrometres a pixel.

    Raises DataError where the background is dark, as in fluorescence: nothing here is made for that.
    """
    rgb = ndimage.median_filter(np.asarray(view, dtype=np.float32) / 255, size=(3, 3, 1))
    brightest = rgb.max(axis=2)
    glass = rgb.min(axis=2) > GLASS
    if (brightest < BLACK).mean() > 0.5 > 10 * glass.mean():
        raise DataError(
            [
                "its background is dark, as in fluorescence; tissue is sought on bright glass, and patch encoders are "
                "made for H&E. Fix: leave it out."
            ]
        )
    ink = _ink(rgb)
    stained = (brightest >= BLACK) & ~ink
    saturation = 1 - rgb.min(axis=2) / np.maximum(brightest, 1e-6)
    threshold = otsu(saturation[stained]) if stained.any() else 1.0
    mask = stained & (saturation > np.clip(threshold, *SATURATION))
    mask = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2]
    mask = ~_without(~_without(mask, PATCH_AREA), PATCH_AREA)
    # where a line of ink ends, it mixes with glass to something like a stain
    lines = ndimage.binary_dilation(_without(ink, INK_AREA), iterations=3)
    return _without(mask & ~lines, PATCH_AREA)


def _ink(rgb: np.ndarray) -> np.ndarray:
    """Green ink and blue ink. Haematoxylin and eosin both take more green from white light than anything else but red,
    and about as much of it as of red; ink takes far more red than green."""
    red, green, _ = np.moveaxis(-np.log(np.clip(rgb, 0.02, 1)), 2, 0)
    return (red > 0.3) & (red > 1.4 * green)


def _without(mask: np.ndarray, area: float) -> np.ndarray:
    """The mask without its parts that are smaller than `area`."""
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) >= area
    large[0] = False
    return large[parts]


def otsu(values: np.ndarray) -> float:
    """The threshold that parts values in [0, 1] into two groups of the least variance within (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * centres).cumsum()
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below) / np.maximum(above, 1)
    between = below * above.astype(float) * (mean_below - mean_above) ** 2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:][best].mean())  # the middle where many part them equally well


def patch_grid(slide: Scan, mask: np.ndarray, share: float = SHARE) -> np.ndarray:
    """(patch, 2), int32: the corners (x, y), in level-0 pixels, of the patches that are tissue to `share` at least.

    Patches lie side by side from the slide's top-left corner, row by row; none hangs over the edge.
    """
    size = slide.patch_size
    xs, ys = np.arange(0, slide.width - size + 1, size), np.arange(0, slide.height - size + 1, size)
    rows, columns = mask.shape
    # the integral of the mask up to any point, also between pixels, is the linear mean of those around it
    integral = np.pad(mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    down = np.append(ys, ys[-1] + size) * (rows / slide.height)
    across = np.append(xs, xs[-1] + size) * (columns / slide.width)
    sums = _between(_between(integral, down).T, across).T
    tissue = np.diff(np.diff(sums, axis=0), axis=1)
    whole = (size * rows / slide.height) * (size * columns / slide.width)
    row, column = np.nonzero(tissue >= share * whole - 1e-6)  # sums of many may be off by that
    return np.stack([xs[column], ys[row]], axis=1).astype(np.int32)


def _between(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows of a table at positions between its rows."""
    lower = np.minimum(positions.astype(int), len(table) - 2)
    weight = (positions - lower)[:, None]
    return (1 - weight) * table[lower] + weight * table[lower + 1]
