"""The tissue mask of an H&E slide, and the grid of patches on it.

Glass is colourless and stained tissue is not: the mask is where the saturation of a small, smoothed view exceeds Otsu's
threshold. The threshold is clipped to bounds, because a slide of only glass or only tissue has no two groups to
separate. Ink, black marks, scanning gaps and specks are removed; small holes are filled.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from survq.data.problems import DataError
from survq.slides.slide import PATCH, PIXEL, Scan

MPP = 8.0  # micrometres per pixel of the mask: a patch is 14 of them wide
SATURATION = (0.05, 0.1)  # bounds of the threshold
BLACK = 0.2  # share of full brightness; anything darker is not stain
GLASS = 0.6  # share of full brightness that glass exceeds in all colours
PATCH_AREA = (PATCH * PIXEL / MPP) ** 2  # area of a patch in pixels of the mask
INK_AREA = PATCH_AREA / 4  # smaller specks may be pigment of the tissue
WARM = 1.0  # absorbance of blue light by red and orange ink: it lets through at most 37 %
SHARE = 0.25  # smallest share of tissue in a patch


def mask_view(slide: Scan, view: Image.Image) -> Image.Image:
    """A view of a slide, reduced to the mask's 8 micrometres per pixel."""
    across, down = (max(1, round(side * slide.mpp / MPP)) for side in (slide.width, slide.height))
    return view.resize((across, down), Image.Resampling.BOX)


def tissue_mask(view: Image.Image) -> np.ndarray:
    """(row, column), bool: the tissue in an RGB view of 8 micrometres per pixel.

    Raises DataError if the background is dark, as in fluorescence: this method needs a bright background.
    """
    rgb = ndimage.median_filter(np.asarray(view, dtype=np.float32) / 255, size=(3, 3, 1))
    brightest = rgb.max(axis=2)
    glass = rgb.min(axis=2) > GLASS
    if (brightest < BLACK).mean() > 0.5 > 10 * glass.mean():
        raise DataError(
            [
                "its background is dark, as in fluorescence; tissue detection and patch encoders expect H&E on bright "
                "glass. Fix: remove it from the folder."
            ]
        )
    ink = _ink(rgb)
    stained = (brightest >= BLACK) & ~ink
    saturation = 1 - rgb.min(axis=2) / np.maximum(brightest, 1e-6)
    threshold = otsu(saturation[stained]) if stained.any() else 1.0
    mask = stained & (saturation > np.clip(threshold, *SATURATION))
    mask = ndimage.binary_closing(np.pad(mask, 2), iterations=2)[2:-2, 2:-2]
    mask = ~_without_small(~_without_small(mask, PATCH_AREA), PATCH_AREA)
    # at the edge of a line, ink mixes with glass into a stain-like colour
    lines = ndimage.binary_dilation(_without_small(ink, INK_AREA), iterations=3)
    return _without_small(mask & ~lines, PATCH_AREA)


def _ink(rgb: np.ndarray) -> np.ndarray:
    """Ink of pens, by its absorption of red, green and blue light.

    Haematoxylin and eosin absorb at least about as much green as red; green and blue inks absorb far more red. Red and
    orange inks absorb blue nearly as strongly as green, or more, and hardly any red: eosin leaves more blue, and blood
    absorbs more red.
    """
    red, green, blue = np.moveaxis(-np.log(np.clip(rgb, 0.02, 1)), 2, 0)
    cold = (red > 0.3) & (red > 1.4 * green)
    warm = (blue > WARM) & (blue > 0.7 * green) & (red < 0.18 * np.maximum(green, blue))
    return cold | warm


def _without_small(mask: np.ndarray, area: float) -> np.ndarray:
    """The mask without connected parts smaller than `area` pixels."""
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) >= area
    large[0] = False
    return large[parts]


def otsu(values: np.ndarray) -> float:
    """The threshold in [0, 1] that minimises the variance within the two groups it separates (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * centres).cumsum()
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below) / np.maximum(above, 1)
    between = below * above.astype(float) * (mean_below - mean_above) ** 2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:][best].mean())  # the mean of equally good thresholds


def patch_grid(slide: Scan, mask: np.ndarray, share: float = SHARE) -> np.ndarray:
    """(patch, 2), int32: top-left corners (x, y) in level-0 pixels of the patches with at least `share` tissue.

    The grid starts at the slide's top-left corner, row by row, without overlap. No patch extends beyond the slide.
    """
    size = slide.patch_size
    xs, ys = np.arange(0, slide.width - size + 1, size), np.arange(0, slide.height - size + 1, size)
    rows, columns = mask.shape
    # linear interpolation of the summed-area table gives the exact integral at positions between pixels
    integral = np.pad(mask.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    down = np.append(ys, ys[-1] + size) * (rows / slide.height)
    across = np.append(xs, xs[-1] + size) * (columns / slide.width)
    sums = _interpolate_rows(_interpolate_rows(integral, down).T, across).T
    tissue = np.diff(np.diff(sums, axis=0), axis=1)
    whole = (size * rows / slide.height) * (size * columns / slide.width)
    row, column = np.nonzero(tissue >= share * whole - 1e-6)  # tolerance for rounding of the sums
    return np.stack([xs[column], ys[row]], axis=1).astype(np.int32)


def _interpolate_rows(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Rows of a table, interpolated linearly at fractional positions."""
    lower = np.minimum(positions.astype(int), len(table) - 2)
    weight = (positions - lower)[:, None]
    return (1 - weight) * table[lower] + weight * table[lower + 1]
