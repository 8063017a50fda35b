"""The overview picture of a slide, for people to inspect its tissue mask and patches."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from survq.slides.slide import Scan

OUTLINE, GRID, SIDE = (20, 160, 60), (20, 60, 200), 1600


def overview(
    slide: Scan, view: Image.Image, mask: np.ndarray | None = None, patches: np.ndarray | None = None
) -> bytes:
    """JPEG of the view: the outline of the mask in green, the patches in blue, everything outside the mask faded."""
    image = view.copy()
    image.thumbnail((SIDE, SIDE))
    if mask is not None:
        tissue = np.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        pixels = np.asarray(image).copy()
        pixels[~tissue] = (pixels[~tissue].astype(np.float32) * 0.7 + 255 * 0.3).astype(np.uint8)
        edge = ndimage.binary_dilation(tissue, iterations=1) & ~ndimage.binary_erosion(tissue, iterations=1)
        pixels[edge] = OUTLINE
        image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    across, down = image.width / slide.width, image.height / slide.height
    for x, y in [] if patches is None else patches.tolist():
        corner = (x * across, y * down)
        draw.rectangle(
            [corner, (corner[0] + slide.patch_size * across, corner[1] + slide.patch_size * down)], outline=GRID
        )
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return content.getvalue()
