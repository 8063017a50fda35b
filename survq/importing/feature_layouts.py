"""Files of patch features as the tools of the field write them. A layout is told by what is inside, never asked for.

    TRIDENT     features_uni_v1/SLIDE.h5    features (N, D), coords (N, 2) with attributes; or SLIDE.pt, a NumPy array
    CLAM        h5_files/SLIDE.h5           features (N, D), coords (N, 2), no attributes; patches/SLIDE.h5 has the size
    STAMP       uni-1234abcd/SLIDE.h5       feats (N, D), coords (N, 2) in micrometres
    MMP         feats_h5/SLIDE.h5           features (1, N, D) or (N, D)
    slide2vec   tile_embeddings/SLIDE.pt    a tensor (N, D); tiles/SLIDE.coordinates.npz has the coordinates
    tensor      SLIDE.pt                    a tensor (N, D), nothing else: CLAM's pt_files, SurvPath, MCAT, slideflow

Nothing in a file is ever run: tensors are loaded with `weights_only`, and HDF5 files may not point to others.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from survq.data.problems import DataError
from survq.data.write import LARGEST, first_not_finite
from survq.importing.slide_names import stem

HDF5, TENSORS = (".h5", ".hdf5"), (".pt", ".pth")
FEATURES, COORDINATES = ("features", "feats", "patch_embeddings"), "coords"
FLOATS = ("float16", "float32", "float64", "bfloat16")
BLOCK = 8 << 20  # bytes that are read and converted at a time
RETRY_HINT = "Fix: extract or copy it again"


@dataclass(frozen=True)
class FileInfo:
    """What a file says of itself before its features are read."""

    layout: str
    patches: int
    width: int
    encoder: str | None  # as named in the file, or else by its folder
    certain: bool  # whether the file itself names the encoder
    located: bool  # whether level-0 coordinates will come of it
    patch_size: int | None  # level-0 pixels


@dataclass(frozen=True)
class Bag:
    """The patches of one slide, as a store takes them."""

    features: np.ndarray  # (patch, feature), float16
    coordinates: np.ndarray | None  # (patch, 2), int32, level-0 pixels of the top-left corner
    patch_size: int | None  # level-0 pixels
    magnification: float | None
    rounding: float  # the most that a value was moved by being made a half float


def inspect(file: Path, mpp: float | None = None) -> FileInfo | None:
    """What is in a file, without reading its features; None where it holds coordinates alone.

    `mpp`, micrometres per level-0 pixel, makes pixels of coordinates in micrometres.
    Raises DataError with what is wrong with the file, and the mend.
    """
    with _reading(file) as opened:
        if opened is None:
            return None
        places = opened.places(mpp, whole=False)
        return FileInfo(
            opened.layout,
            opened.patches,
            opened.width,
            *(opened.encoder, opened.certain),
            located=places.there,
            patch_size=places.patch_size,
        )


def read(file: Path, mpp: float | None = None) -> Bag:
    """The patches in a file. Raises DataError with what is wrong with it, and the mend."""
    with _reading(file) as opened:
        if opened is None:
            raise _refusal(file, "holds coordinates and no features", "import the folder with the features")
        features, rounding = _to_half(file, opened)
        places = opened.places(mpp, whole=True)
        return Bag(features, places.coordinates, places.patch_size, places.magnification, rounding)


def coordinate_file(file: Path) -> Path | None:
    """The file that says where the patches of `file` lie, where a tool leaves one: patches/ or tiles/ nearby."""
    names = dict.fromkeys([file.stem, stem(file.name)])
    patches = [f"patches/{name}{end}.h5" for name in names for end in ("", "_patches")]
    tiles = [f"{folder}{name}.coordinates.npz" for name in names for folder in ("tiles/", "")]
    folders = [file.parent, file.parent.parent, file.parent.parent.parent]
    return next((folder / name for folder in folders for name in patches + tiles if (folder / name).is_file()), None)


@dataclass(frozen=True)
class _Places:
    """Where the patches of a slide lie, as far as is known."""

    there: bool = False
    coordinates: np.ndarray | None = None
    patch_size: int | None = None
    magnification: float | None = None


@dataclass(frozen=True)
class _Opened:
    """A file whose shape has been found sound."""

    layout: str
    patches: int
    width: int
    encoder: str | None
    certain: bool
    halves: bool  # whether its features are half floats already
    rows: Callable[[int, int], np.ndarray]  # features from one patch up to another, float16, float32 or float64
    step: int  # patches that are read at a time
    places: Callable[..., _Places]  # (mpp, whole)


@contextmanager
def _reading(file: Path) -> Iterator[_Opened | None]:
    """Whatever a library raises on a file that is cut short or forged becomes a sentence."""
    try:
        if file.suffix.lower() in HDF5:
            # without locks, for file systems that have none or may only be read
            with h5py.File(file, "r", locking=False) as store:
                yield _of_hdf5(file, store)
        else:
            yield _of_tensor(file)
    except DataError:
        raise
    except MemoryError as error:
        raise _refusal(file, "does not fit into memory", "a file of this size is damaged or forged") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError([f"{file}: cannot be read ({reason}). {RETRY_HINT}."]) from error


def _refusal(file: Path, what: str, fix: str) -> DataError:
    return DataError([f"{file}: {what}. Fix: {fix}."])


# features


def _of_hdf5(file: Path, store: h5py.File) -> _Opened | None:
    name = next((name for name in FEATURES if name in store), None)
    if str(_text(store.attrs.get("feat_type"))) in ("slide", "patient"):
        raise _embedding(file)
    if name is None and COORDINATES in store:
        return None
    if name is None:
        inside = ", ".join(map(repr, list(store)[:5])) or "nothing"
        raise _refusal(file, f"holds {inside}; expected features or feats", "give a folder of patch features")
    features = _dataset(file, store, name)
    leading = features.ndim == 3 and features.shape[0] == 1
    patches, width = _shape(file, features.shape[1:] if leading else features.shape, str(features.dtype))
    if _holes(features):
        raise DataError([f"{file}: {name} was never written to its end. {RETRY_HINT}."])
    stamp = name != "features" or "stamp_version" in store.attrs or "extractor" in store.attrs
    attributes = dict(store[COORDINATES].attrs) if COORDINATES in store else {}
    trident = "encoder" in features.attrs or "patch_size_level0" in attributes
    layout = "STAMP" if stamp else "TRIDENT" if trident else "MMP" if leading else "CLAM"
    named = _text(features.attrs.get("encoder")) or _text(store.attrs.get("extractor"))

    def places(mpp: float | None, whole: bool) -> _Places:
        if COORDINATES not in store:
            return _places_beside(file, patches, whole)
        coordinates = _dataset(file, store, COORDINATES)
        _check_count(file, coordinates.shape, patches)
        if stamp:
            return _micrometres(file, coordinates, store.attrs, mpp, whole)
        size = _patch_size(attributes)
        if size is None and (beside := coordinate_file(file)) is not None:
            size = _places_in(beside, whole=False).patch_size
        magnification = _number(attributes.get("level0_magnification"))
        return _Places(True, _whole_pixels(file, coordinates[()]) if whole else None, size, magnification)

    step = max(1, BLOCK // (width * features.dtype.itemsize))
    if features.chunks is not None:  # a chunk is read whole: once is enough
        step = -(-step // features.chunks[-2]) * features.chunks[-2]
    rows = (lambda a, b: features[0, a:b]) if leading else (lambda a, b: features[a:b])
    halves = features.dtype == np.float16
    encoder = named or _encoder_of_folder(file)
    return _Opened(layout, patches, width, encoder, bool(named), halves, rows, step, places)


def _of_tensor(file: Path) -> _Opened:
    content = _load(file)
    import torch  # takes seconds, which HDF5 files do not need

    if isinstance(content, dict):
        keys = ", ".join(repr(str(key)) for key in list(content)[:5])
        raise _refusal(file, f"holds a dict of {keys}", "save the features alone, as a tensor (patch, feature)")
    if not isinstance(content, np.ndarray | torch.Tensor):
        raise _refusal(file, f"holds {type(content).__name__}, not a tensor", "save a tensor (patch, feature)")
    leading = content.ndim == 3 and content.shape[0] == 1
    content = content[0] if leading else content
    patches, width = _shape(file, tuple(content.shape), str(content.dtype).removeprefix("torch."))
    note = _json(file.with_suffix(".meta.json")) or _json(file.parent / "bags_config.json")
    named = _text(note.get("encoder_name")) or _text(note.get("extractor"))
    layout = "TRIDENT" if isinstance(content, np.ndarray) else "slide2vec" if "encoder_name" in note else "tensor"

    def rows(start: int, stop: int) -> np.ndarray:
        block = content[start:stop]
        if isinstance(block, torch.Tensor):  # NumPy has no bfloat16
            block = (block.float() if block.dtype == torch.bfloat16 else block).numpy()
        return block

    def places(mpp: float | None, whole: bool) -> _Places:
        return _places_beside(file, patches, whole)

    step = max(1, BLOCK // (width * content.itemsize))
    halves = content.dtype in (np.float16, torch.float16)
    encoder = named or _encoder_of_folder(file)
    return _Opened(layout, patches, width, encoder, bool(named), halves, rows, step, places)


def _load(file: Path) -> Any:
    """What `torch.save` put into a file: tensors, and NumPy arrays of floats. Nothing else is ever made of it."""
    import torch

    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    kinds = [type(np.dtype(name)) for name in ("float16", "float32", "float64")]
    arrays = [reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, *kinds]
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"  # others are of before torch 1.6, and cannot be mapped
    try:
        with torch.serialization.safe_globals(arrays), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # a forged file may make the loader stumble over anything
        text = " ".join(str(error).split())
        if zipped and not zipfile.is_zipfile(file):
            raise DataError([f"{file}: is cut short. {RETRY_HINT}."]) from error
        wanted = re.search(r"GLOBAL ([\w.]+)", text)
        if wanted is None and not zipped:
            raise DataError([f"{file}: is not what torch.save writes, or cut short. {RETRY_HINT}."]) from error
        if wanted is None and "Weights only" not in text:
            raise DataError([f"{file}: cannot be read ({text[:120]}). {RETRY_HINT}."]) from error
        if wanted is not None and wanted[1].startswith("torch_geometric"):
            what, fix = "is a graph of Patch-GCN, not a tensor", "import the features that the graph was made from"
            raise _refusal(file, what, fix) from error
        what = f"asks for {wanted[1][:60] if wanted else 'objects'} to be made or called, which survq never does"
        fix = "if you trust it, load it yourself and save the features as a tensor (patch, feature)"
        raise _refusal(file, what, fix) from error


def _shape(file: Path, shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """Patches and width. Raises DataError where these are no features of patches."""
    if 0 in shape:
        raise _refusal(file, "holds no patch: no tissue was found", "leave it out, --skip-bad does it and lists it")
    if len(shape) == 1:
        raise _embedding(file)
    if len(shape) != 2:
        raise _refusal(file, f"features of shape {shape}; expected (patch, feature)", "save one slide a file")
    if dtype not in FLOATS:
        raise _refusal(file, f"features of type {dtype}; expected one of {', '.join(FLOATS)}", "save them as floats")
    if 2 * shape[0] * shape[1] > LARGEST:
        what = f"{shape[0]:,} patches x {shape[1]:,} features: more than the 2 GiB a slide of the store may have"
        raise _refusal(file, what, "split the slide, or take fewer patches")
    return shape[0], shape[1]


def _embedding(file: Path) -> DataError:
    fix = "import the folder with the features of patches (TRIDENT: features_*, slide2vec: tile_embeddings)"
    return _refusal(file, "holds one vector for the whole slide or patient, not features of its patches", fix)


def _to_half(file: Path, opened: _Opened) -> tuple[np.ndarray, float]:
    """(patch, feature) as half floats, and the most that any value was moved by that."""
    rounding = 0.0
    if opened.halves:
        features = np.ascontiguousarray(opened.rows(0, opened.patches))
    else:
        features = np.empty((opened.patches, opened.width), np.float16)
        for start in range(0, opened.patches, opened.step):
            block = opened.rows(start, min(start + opened.step, opened.patches))
            rounding = max(rounding, _halve(file, block, features[start : start + opened.step], start))
    if (first := first_not_finite(features)) is not None:
        raise _not_finite(file, first)
    return features, rounding


def _halve(file: Path, block: np.ndarray, half: np.ndarray, start: int) -> float:
    """Round a block, which begins at patch `start`, into `half`; returns the most that a value was moved."""
    with np.errstate(over="ignore", invalid="ignore"):
        half[...] = block
        moved = half.astype(block.dtype)
        moved -= block
    largest = max(float(moved.max()), -float(moved.min()))
    if np.isfinite(largest):
        return largest
    patch = int(np.flatnonzero(~np.isfinite(moved).all(axis=1))[0])
    if not np.isfinite(block[patch]).all():
        raise _not_finite(file, start + patch)
    what = f"patch {start + patch} has the feature {block[patch][np.abs(block[patch]).argmax()]:.6g}, beyond 65504, "
    fix = "is this a scale of the encoder? Normalise the features, or leave it out"
    raise _refusal(file, what + "the largest half float", fix)


def _not_finite(file: Path, patch: int) -> DataError:
    fix = "extract it again, in float32 if mixed precision overflowed"
    return _refusal(file, f"a feature of patch {patch} is not finite", fix)


# coordinates


def _micrometres(file: Path, places: h5py.Dataset, attributes: Mapping, mpp: float | None, whole: bool) -> _Places:
    """STAMP's: its files say `unit` um; those before say nothing, and 224 stands for 256 micrometres."""
    unit, scale = _text(attributes.get("unit")), None
    size = _number(attributes.get("tile_size_um")) or _number(attributes.get("tile_size"))
    if unit in ("um", "µm", "μm"):
        scale = 1.0
    elif unit is None and _stride(places[()]) == 224:
        scale = size = 256.0
        scale /= 224
    if scale is None or mpp is None:
        return _Places()
    side = None if size is None else round(size / mpp)
    corners = _whole_pixels(file, np.round(places[()].astype(np.float64) * (scale / mpp))) if whole else None
    return _Places(True, corners, side)


def _stride(places: np.ndarray) -> float:
    """The smallest step between two columns or rows of a grid; 0 where there is none."""
    steps = [np.diff(np.unique(axis)) for axis in np.asarray(places, np.float64).T]
    return round(min((float(step.min()) for step in steps if len(step)), default=0.0), 3)


def _places_beside(file: Path, patches: int, whole: bool) -> _Places:
    beside = coordinate_file(file)
    if beside is None:
        return _Places()
    places = _places_in(beside, whole=True)
    if places.coordinates is None or len(places.coordinates) != patches:
        count = 0 if places.coordinates is None else len(places.coordinates)
        what = f"{patches} patches, and {count} coordinates in {beside}"
        raise _refusal(file, what, "they are of different runs; make them anew, or move the coordinates away")
    return places if whole else _Places(True, None, places.patch_size, places.magnification)


def _places_in(file: Path, whole: bool) -> _Places:
    """Of a file of TRIDENT's, CLAM's or hs2p's that holds coordinates alone."""
    try:
        if file.suffix == ".npz":
            tiling = _json(file.with_suffix(".meta.json")).get("tiling", {})
            size = _number(tiling.get("tile_size_lv0"))
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                places = np.stack([content["x"], content["y"]], axis=1)
            return _Places(True, _whole_pixels(file, places), None if size is None else round(size))
        with h5py.File(file, "r", locking=False) as store:
            coordinates = _dataset(file, store, COORDINATES)
            attributes = dict(coordinates.attrs)
            corners = _whole_pixels(file, coordinates[()]) if whole else None
            magnification = _number(attributes.get("level0_magnification"))
            return _Places(True, corners, _patch_size(attributes), magnification)
    except DataError:
        raise
    except Exception as error:  # zip files, HDF5 and JSON each stumble in their own way
        reason = " ".join(str(error).split())[:120]
        raise DataError([f"{file}: the coordinates cannot be read ({reason}). {RETRY_HINT}."]) from error


def _check_count(file: Path, shape: tuple[int, ...], patches: int) -> None:
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if shape != (patches, 2):
        what = f"coordinates of shape {shape} for {patches} patches"
        raise _refusal(file, what, "extract it again: such a file was cut off while it was written")


def _whole_pixels(file: Path, places: np.ndarray) -> np.ndarray:
    """(patch, 2), int32."""
    places = places[0] if places.ndim == 3 else places
    whole = np.isfinite(places) & (np.abs(places) < 2**31) & (places == np.round(places))
    if not whole.all():
        patch = int(np.flatnonzero(~whole.all(axis=1))[0])
        what = f"the coordinates of patch {patch} are {places[patch].tolist()}; expected level-0 pixels"
        raise _refusal(file, what, "extract it again, or remove its coords")
    return places.astype(np.int32)


def _patch_size(attributes: Mapping) -> int | None:
    """Side of a patch in level-0 pixels: TRIDENT says it; CLAM has pixels of a level, and by how much it is smaller."""
    if (size := _number(attributes.get("patch_size_level0"))) is not None:
        return round(size)
    size, smaller = _number(attributes.get("patch_size")), _number(attributes.get("downsample"))
    if smaller is None and _number(attributes.get("patch_level"), zero=True) == 0:
        smaller = 1.0
    # a few forks of CLAM scale once more, some before they note the size and some after
    if size is None or smaller is None or _number(attributes.get("custom_downsample")) not in (None, 1.0):
        return None
    return round(size * smaller)


# small things


def _dataset(file: Path, store: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this file: HDF5 can point to any other file of the machine."""
    dataset = store[name] if isinstance(store.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise _refusal(file, f"{name} does not lie in this file, but is a link or a group", "copy the data into it")
    return dataset


def _holes(dataset: h5py.Dataset) -> bool:
    """Whether parts of it were never written: they would read as zeros."""
    if dataset.chunks is None:
        return dataset.id.get_storage_size() < dataset.nbytes
    chunks = [-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    return dataset.id.get_num_chunks() < np.prod(chunks)


def _encoder_of_folder(file: Path) -> str | None:
    """As TRIDENT (features_uni_v1), MMP (extracted-...uni_mass100k) and STAMP (uni-1234abcd) name their folders."""
    for folder in (file.parent.name, file.parent.parent.name):
        if found := re.fullmatch(r"features_(.+)|extracted-(.+)|(.+)-[0-9a-f]{8}", folder):
            return next(filter(None, found.groups()))
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and value not in ("", "None") else None


def _number(value: Any, zero: bool = False) -> float | None:
    """The first number of an attribute, where it is above 0; TRIDENT writes what it does not know as the text None."""
    try:
        number = float(np.asarray(value).ravel()[0])
    except (ValueError, TypeError, IndexError):
        return None
    return number if np.isfinite(number) and (number > 0 or (zero and number == 0)) else None


def _json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
