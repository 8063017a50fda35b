"""Positions of patches on their slide, as the tools store them: with the features, or in a file nearby."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from survq.data.patch_sizes import MICROMETRES
from survq.data.problems import DataError
from survq.importing.slide_names import stem
from survq.importing.untrusted import RETRY_HINT, dataset, number, read_json, refusal, text
from survq.text import shortened

COORDINATES = "coords"


@dataclass(frozen=True)
class Positions:
    """The positions of a slide's patches, as far as known."""

    located: bool = False  # whether coordinates in level-0 pixels are known
    coordinates: np.ndarray | None = None  # (patch, 2), int32: top-left corner in level-0 pixels; None if not loaded
    patch_size: int | None = None  # level-0 pixels
    magnification: float | None = None
    micrometres: float | None = None  # side of a patch, where the tool states it


def coordinate_file(file: Path) -> Path | None:
    """The nearby file with the coordinates of the patches in `file`, in patches/ or tiles/, if the tool wrote one."""
    names = dict.fromkeys([file.stem, stem(file.name)])
    patches = [f"patches/{name}{end}.h5" for name in names for end in ("", "_patches")]
    tiles = [f"{folder}{name}.coordinates.npz" for name in names for folder in ("tiles/", "")]
    folders = [file.parent, file.parent.parent, file.parent.parent.parent]
    return next((folder / name for folder in folders for name in patches + tiles if (folder / name).is_file()), None)


def stored_positions(
    file: Path,
    store: h5py.File,
    attributes: Mapping,
    shape: tuple[int, int],
    *,
    stamp: bool,
    mpp: float | None,
    load: bool,
) -> Positions:
    """The positions stored with the features in an HDF5 file; `attributes` are those of the coordinates.

    `shape` is that of the features (patch, feature).
    """
    coordinates = dataset(file, store, COORDINATES)
    _check_count(file, coordinates.shape, shape)
    if stamp:
        return _from_micrometres(file, coordinates, store.attrs, mpp, load)
    size = _patch_size(attributes)
    if size is None and (nearby := coordinate_file(file)) is not None:
        size = _read_positions(nearby, load=False).patch_size
    magnification = number(attributes.get("level0_magnification"))
    pixels = _whole_pixels(file, coordinates[()]) if load else None
    return Positions(True, pixels, size, magnification, _stated_side(attributes))


def positions_nearby(file: Path, shape: tuple[int, int], load: bool) -> Positions:
    """The positions in the coordinate file of `file`, if there is one; `shape` as above."""
    nearby = coordinate_file(file)
    if nearby is None:
        return Positions()
    positions = _read_positions(nearby, load=True)
    count = 0 if positions.coordinates is None else len(positions.coordinates)
    if count != shape[0]:
        raise other_number(file, shape, nearby, count)
    return positions if load else Positions(True, None, positions.patch_size, positions.magnification)


def other_number(file: Path, shape: tuple[int, int], other: Path, count: int) -> DataError:
    """The error where `other`, which belongs to the same slide, states another number of patches than `file`."""
    if count == shape[1]:
        return _swapped(file, shape, other)
    fix = f"extract it again, as it was probably interrupted; if {other.name} is of another run, move it away"
    return refusal(file, f"{shape[0]} patches, but {other} has {count}", fix)


def _swapped(file: Path, shape: tuple[int, int], where: object) -> DataError:
    problem = f"features of shape {shape} for the {shape[1]} patches of {where}: their axes are swapped"
    return refusal(file, problem, "save them as (patch, feature)")


def _read_positions(file: Path, load: bool) -> Positions:
    """The positions in a coordinate file of TRIDENT, CLAM or hs2p."""
    try:
        if file.suffix == ".npz":
            tiling = read_json(file.with_suffix(".meta.json")).get("tiling", {})
            size = number(tiling.get("tile_size_lv0"))
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                corners = np.stack([content["x"], content["y"]], axis=1)
            return Positions(True, _whole_pixels(file, corners), None if size is None else round(size))
        with h5py.File(file, "r", locking=False) as store:
            coordinates = dataset(file, store, COORDINATES)
            attributes = dict(coordinates.attrs)
            pixels = _whole_pixels(file, coordinates[()]) if load else None
            magnification = number(attributes.get("level0_magnification"))
            return Positions(True, pixels, _patch_size(attributes), magnification, _stated_side(attributes))
    except DataError:
        raise
    except Exception as error:  # zip, HDF5 and JSON readers raise different errors
        reason = shortened(str(error))
        raise DataError([f"{file}: the coordinates cannot be read ({reason}). {RETRY_HINT}."]) from error


def _from_micrometres(
    file: Path, corners: h5py.Dataset, attributes: Mapping, mpp: float | None, load: bool
) -> Positions:
    """STAMP's coordinates. Its files state `unit` um; older files state nothing, and 224 means 256 micrometres."""
    unit, scale = text(attributes.get("unit")), None
    size = number(attributes.get("tile_size_um")) or number(attributes.get("tile_size"))
    if unit in ("um", "µm", "μm"):
        scale = 1.0
    elif unit is None and _stride(corners[()]) == 224:
        scale = size = 256.0
        scale /= 224
    if scale is None or mpp is None:
        return Positions(micrometres=size)
    side = None if size is None else round(size / mpp)
    pixels = _whole_pixels(file, np.round(corners[()].astype(np.float64) * (scale / mpp))) if load else None
    return Positions(True, pixels, side, micrometres=size)


def _stride(corners: np.ndarray) -> float:
    """The smallest distance between two columns or rows of a grid; 0 if there is only one of each."""
    steps = [np.diff(np.unique(axis)) for axis in np.asarray(corners, np.float64).T]
    return round(min((float(step.min()) for step in steps if len(step)), default=0.0), 3)


def _check_count(file: Path, coordinates: tuple[int, ...], shape: tuple[int, int]) -> None:
    coordinates = coordinates[1:] if len(coordinates) == 3 and coordinates[0] == 1 else coordinates
    if coordinates == (shape[1], 2) and shape[0] != shape[1]:
        raise _swapped(file, shape, COORDINATES)
    if coordinates != (shape[0], 2):
        problem = f"coordinates of shape {coordinates} for {shape[0]} patches"
        raise refusal(file, problem, "extract it again: writing was probably interrupted")


def _whole_pixels(file: Path, corners: np.ndarray) -> np.ndarray:
    """(patch, 2), int32. Raises DataError for coordinates that are not whole numbers."""
    corners = corners[0] if corners.ndim == 3 else corners
    whole = np.isfinite(corners) & (np.abs(corners) < 2**31) & (corners == np.round(corners))
    if not whole.all():
        patch = int(np.flatnonzero(~whole.all(axis=1))[0])
        problem = f"the coordinates of patch {patch} are {corners[patch].tolist()}; expected level-0 pixels"
        raise refusal(file, problem, "extract it again, or remove its coords")
    return corners.astype(np.int32)


def _patch_size(attributes: Mapping) -> int | None:
    """Side of a patch in level-0 pixels. TRIDENT states it; CLAM states pixels of a level and its downsampling."""
    if (size := number(attributes.get("patch_size_level0"))) is not None:
        return round(size)
    size, downsample = number(attributes.get("patch_size")), number(attributes.get("downsample"))
    if downsample is None and number(attributes.get("patch_level"), zero=True) == 0:
        downsample = 1.0
    # a few forks of CLAM scale once more, some before recording the size and some after
    if size is None or downsample is None or number(attributes.get("custom_downsample")) not in (None, 1.0):
        return None
    return round(size * downsample)


def _stated_side(attributes: Mapping) -> float | None:
    """Side of a patch in micrometres, by TRIDENT's pixels and magnification of patches."""
    size, magnification = number(attributes.get("patch_size")), number(attributes.get("target_magnification"))
    return MICROMETRES * size / magnification if size and magnification else None
