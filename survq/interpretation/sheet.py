"""The slides of a case on one sheet: side by side, at one scale, cut to their tissue, with their patches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8

from survq.data.problems import DataError, raise_if_any
from survq.importing.slide_names import stem
from survq.interpretation.relevance import patch_side
from survq.text import preview

if TYPE_CHECKING:
    from survq.slides.slide import Scan

PATCH = 112.0  # micrometres: the side of a patch of 224 px at 20x
OBJECTIVE = 10.0  # micrometres per pixel times magnification
PICTURE, WHOLE = 1400, 6000  # pixels of the longer side: of the part that is shown, and of the slide


@dataclass(frozen=True, eq=False)
class Picture:
    """A part of a slide, and where it lies on the sheet."""

    pixels: UInt8[np.ndarray, "y x 3"]
    left: float  # micrometres, as all lengths on the sheet
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class Sheet:
    """The slides of a case side by side. Lengths are in micrometres, y grows downwards."""

    corners: Float[np.ndarray, "patch 2"]  # of each patch, top left; NaN where its position is unknown
    sides: Float[np.ndarray, " patch"]
    pictures: tuple[Picture, ...]  # of the slides whose files are known
    labels: tuple[tuple[str, float], ...]  # slide and the middle of its part of the sheet
    width: float
    height: float
    to_scale: bool  # False: the magnification of a slide is unknown; its patches are taken to be of 20x

    @property
    def known(self) -> bool:
        """Whether the position of any patch is known."""
        return bool(np.isfinite(self.corners).all(axis=1).any())


def lay_out(positions: pd.DataFrame, slides: pd.DataFrame, scans: Mapping[str, Scan]) -> Sheet:
    """The sheet of a case: its `positions` (see `Cohort.patch_positions`), the rows of its slides in the feature store,
    and their scans, where the files are at hand.

    Raises DataError if patches lie outside of their scan.
    """
    corners, sides = np.full((len(positions), 2), np.nan), np.full(len(positions), np.nan)
    pictures, labels = [], []
    offset = height = 0.0
    magnification = slides.set_index("slide_id")["magnification"]
    to_scale = True
    for slide_id, rows in positions.groupby("slide_id", sort=False):
        rows = rows[rows["x"].notna() & rows["y"].notna()]
        if rows.empty:
            continue
        scan, side = scans.get(slide_id), patch_side(rows)
        of_slide = rows[["x", "y"]].to_numpy(float)
        power = float(magnification[slide_id])
        to_scale &= scan is not None or power > 0
        mpp = scan.mpp if scan is not None else OBJECTIVE / power if power > 0 else PATCH / side
        first, last = of_slide.min(axis=0) - side, of_slide.max(axis=0) + 2 * side  # a margin of one patch
        if scan is not None:
            first, last = np.maximum(first, 0), np.minimum(last, [scan.width, scan.height])
            pictures.append(_picture(scan, slide_id, of_slide.max(axis=0) + side, first, last, offset))
        corners[rows.index] = (of_slide - first) * mpp + [offset, 0]
        sides[rows.index] = side * mpp
        across, down = (last - first) * mpp
        labels.append((str(slide_id), offset + across / 2))
        offset, height = offset + across + 2 * PATCH, max(height, down)
    return Sheet(corners, sides, tuple(pictures), tuple(labels), max(offset - 2 * PATCH, 0.0), height, to_scale)


def _picture(scan: Scan, slide_id: str, end: np.ndarray, first: np.ndarray, last: np.ndarray, offset: float) -> Picture:
    """The part of a scan from `first` to `last` (level-0 pixels); `end` is where its patches end."""
    if (end > [scan.width + 1, scan.height + 1]).any():
        raise DataError(
            [
                f"slide {preview([slide_id])}: its patches reach to {end.astype(int).tolist()}, its file has "
                f"{scan.width} x {scan.height} pixels. Fix: give the folder of the slides that the features are of."
            ]
        )
    finest = max((last - first).max() / PICTURE, max(scan.width, scan.height) / WHOLE, 1.0)
    view = np.asarray(scan.view(finest * scan.mpp))
    step = np.array([scan.width / view.shape[1], scan.height / view.shape[0]])  # level-0 pixels per pixel of the view
    low, high = np.floor(first / step).astype(int), np.ceil(last / step).astype(int)
    left, top = (low * step - first) * scan.mpp + [offset, 0]
    right, bottom = (high * step - first) * scan.mpp + [offset, 0]
    return Picture(view[low[1] : high[1], low[0] : high[0]], left, top, right, bottom)


def slide_files(folder: Path | None, slide_ids: Collection[str]) -> dict[str, Path]:
    """The files of these slides in a folder and its subfolders; slides without a file are absent.

    Raises DataError if a slide has several files or the folder has none of them, FileNotFoundError without a folder.
    """
    if folder is None:
        return {}
    from survq.slides.sources import find_files

    wanted = {slide.lower(): slide for slide in slide_ids}
    found: dict[str, list[Path]] = {}
    for file in find_files(folder):
        if slide := wanted.get(stem(file.name).lower()):
            found.setdefault(slide, []).append(file)
    raise_if_any(
        [
            f"slide {preview([slide])} has several files: {preview(files)}. Fix: remove all but one."
            for slide, files in found.items()
            if len(files) > 1
        ]
    )
    if not found:
        raise DataError([f"{folder}: holds no file of the slides {preview(slide_ids)}. Fix: give their folder."])
    return {slide: file for slide, (file,) in found.items()}


@contextmanager
def open_scans(files: Mapping[str, Path]) -> Iterator[dict[str, Scan]]:
    """The scans of these slides. Raises DataError, naming all that cannot be opened."""
    from survq.slides.slide import Scan

    scans: dict[str, Scan] = {}
    problems = []
    for slide_id, file in files.items():
        try:
            scans[slide_id] = Scan(file)
        except DataError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
    try:
        raise_if_any(problems)
        yield scans
    finally:
        for scan in scans.values():
            scan.close()
