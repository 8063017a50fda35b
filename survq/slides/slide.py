"""A whole-slide image: its pixel size, a reduced view of it, and its patches at 20x.

A patch is 224 px at 20x (0.5 micrometres per pixel) for every scan: 448 px of a 40x scan, 224 px of a 20x scan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from survq.data.patch_sizes import MICROMETRES, believable
from survq.data.problems import DataError

PIXEL = 0.5  # micrometres per pixel at 20x, the magnification of patches
PATCH = 224  # side of a patch in pixels at 20x
COARSEST = (
    0.6  # micrometres per pixel; enlarging by more than 20 % makes patches unlike those of the encoder's training
)
DOUBLER = 2.5  # a lens may double the magnification of the objective; a larger contradiction is an error
BLOCK = 2048  # side in pixels of the blocks that a view is read in
SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".svslide", ".bif", ".czi")

Image.MAX_IMAGE_PIXELS = None  # slides exceed Pillow's limit, but are never read whole


class Scan:
    """A slide read through OpenSlide. `mpp`, micrometres per level-0 pixel, overrules what the file states.

    Raises DataError if the slide cannot be opened, is of unknown scale, coarser than 20x, or smaller than a patch.
    """

    def __init__(self, file: str | Path, mpp: float | None = None):
        import openslide

        self._error = openslide.OpenSlideError
        try:
            self._slide = openslide.OpenSlide(file)
        except (openslide.OpenSlideError, OSError) as error:
            raise DataError(
                [f"cannot be opened ({error}). Fix: download it again, or save it as a tiled TIFF."]
            ) from error
        self.width, self.height = self._slide.dimensions
        self.mpp_stated = pixel_size(self._slide.properties)
        self.mpp = self._checked_mpp(mpp or self.mpp_stated)
        power = _power(self._slide.properties)
        exact = MICROMETRES / self.mpp
        self.magnification = power if power and 2 / 3 < power / exact < 1.5 else round(exact, 1)
        self.patch_size = round(PATCH * PIXEL / self.mpp)  # level-0 pixels
        if min(self.width, self.height) < self.patch_size:
            raise DataError(
                [
                    f"{self.width} x {self.height} pixels, smaller than one patch of {self.patch_size}. "
                    f"Fix: remove it from the folder; it may be a label or a thumbnail."
                ]
            )

    def _checked_mpp(self, mpp: float | None) -> float:
        if mpp is None:
            fix = "Fix: give its micrometres per pixel with --mpp, or in a column mpp of --cases"
            raise DataError([f"the file states {_unusable_scale(self._slide.properties)}. {fix}."])
        if mpp > COARSEST:
            problem = f"{mpp:.3g} micrometres per pixel, coarser than 20x ({PIXEL:g}): enlarging adds no detail"
            fix = "remove it from the folder, or give the right scale with --mpp if this one is wrong"
            raise DataError([f"{problem}. Fix: {fix}."])
        return mpp

    def close(self) -> None:
        self._slide.close()

    def patch(self, x: int, y: int, side: int | None = None) -> np.ndarray:
        """(224, 224, 3), uint8: the patch whose top-left corner is at (x, y), in level-0 pixels.

        `side`, of another tool's patches, is in level-0 pixels, too.
        """
        level = self._patch_level if side is None else self._slide.get_best_level_for_downsample(side / PATCH)
        return np.asarray(self._region(x, y, side or self.patch_size, level, PATCH))

    @cached_property
    def _patch_level(self) -> int:
        return self._slide.get_best_level_for_downsample(self.patch_size / PATCH)

    def _region(self, x: int, y: int, size: int, level: int, out: int) -> Image.Image:
        across, down = self._scale(level)
        box = (0.0, 0.0, size / across, size / down)
        region = self._read(x, y, level, math.ceil(box[2]), math.ceil(box[3]))
        if region.size == (out, out):
            return region
        # Pillow widens the filter when it shrinks an image, which prevents aliasing
        return region.resize((out, out), Image.Resampling.BICUBIC, box=box)

    def view(self, mpp: float) -> Image.Image:
        """The whole slide at about `mpp` micrometres per pixel, each pixel a mean over its area; read in blocks."""
        size = [max(1, round(side * self.mpp / mpp)) for side in (self.width, self.height)]
        level = self._slide.get_best_level_for_downsample(max(self.width / size[0], 1))
        scale = self._scale(level)
        view = Image.new("RGB", (size[0], size[1]))
        # level-0 and level pixels of one pixel of the view, across and down
        full_step = self.width / size[0], self.height / size[1]
        step = full_step[0] / scale[0], full_step[1] / scale[1]
        block = max(1, int(BLOCK / max(step)))
        for top in range(0, size[1], block):
            for left in range(0, size[0], block):
                across, down = min(block, size[0] - left), min(block, size[1] - top)
                x, y = int(left * full_step[0]), int(top * full_step[1])
                # offset of the block from a whole pixel of the level
                skip = (left * full_step[0] - x) / scale[0], (top * full_step[1] - y) / scale[1]
                box = (skip[0], skip[1], skip[0] + across * step[0], skip[1] + down * step[1])
                region = self._read(x, y, level, math.ceil(box[2]), math.ceil(box[3]))
                view.paste(region.resize((across, down), Image.Resampling.BOX, box=box), (left, top))
        return view

    def _scale(self, level: int) -> tuple[float, float]:
        """Level-0 pixels per pixel of a level, across and down; they differ, as the sides of a level are rounded."""
        across, down = self._slide.level_dimensions[level]
        return self.width / across, self.height / down

    def _read(self, x: int, y: int, level: int, across: int, down: int) -> Image.Image:
        """An RGB region. OpenSlide makes unscanned areas transparent; here they become white, like glass."""
        try:
            region = self._slide.read_region((x, y), level, (across, down))
        except self._error as error:
            raise DataError(
                [f"cannot be read at ({x}, {y}) ({error}). Fix: download it again; it may be truncated."]
            ) from error
        scanned = region.getchannel("A")
        if scanned.getextrema() == (255, 255):
            return region.convert("RGB")
        white = Image.new("RGB", region.size, "white")
        white.paste(region, mask=scanned)
        return white


def pixel_size(properties: Mapping[str, str]) -> float | None:
    """Micrometres per level-0 pixel as the file states: its mpp if believable, else by its magnification.

    None if it states neither, or if they contradict each other.
    """
    mpp, power = _mpp(properties), _power(properties)
    if mpp and power:
        return mpp if 1 / DOUBLER < mpp * power / MICROMETRES < DOUBLER else None
    return mpp or (MICROMETRES / power if power else None)


def _unusable_scale(properties: Mapping[str, str]) -> str:
    """Why `pixel_size` is None."""
    mpp, power = _mpp(properties), _power(properties)
    if mpp and power:
        return f"{mpp:.4g} micrometres per pixel and a magnification of {power:g}, which contradict each other"
    stated = properties.get("openslide.mpp-x")
    size = f"an implausible {_number(stated):.4g} micrometres per pixel" if stated else "no pixel size"
    return f"{size} and no magnification"


def _mpp(properties: Mapping[str, str]) -> float | None:
    across, down = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    return (across + down) / 2 if believable(across) and believable(down) and 0.9 < across / down < 1.1 else None


def _power(properties: Mapping[str, str]) -> float | None:
    """Magnification of level 0 as the file states, if believable."""
    power = _number(properties.get("openslide.objective-power"))
    return power if power and believable(MICROMETRES / power) else None


def _number(text: str | None) -> float:
    """The finite number in a text, else 0."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0
