"""Files of patch features as common tools write them. The layout is detected from the content of a file.

    TRIDENT     features_uni_v1/SLIDE.h5    features (N, D), coords (N, 2) with attributes; or SLIDE.pt, a NumPy array
    CLAM        h5_files/SLIDE.h5           features (N, D), coords (N, 2), no attributes; patch size: patches/SLIDE.h5
    STAMP       uni-1234abcd/SLIDE.h5       feats (N, D), coords (N, 2) in micrometres
    MMP         feats_h5/SLIDE.h5           features (1, N, D) or (N, D)
    slide2vec   tile_embeddings/SLIDE.pt    a tensor (N, D); coordinates: tiles/SLIDE.coordinates.npz
    tensor      SLIDE.pt                    a tensor (N, D) and nothing else: CLAM's pt_files, SurvPath, MCAT, slideflow

Nothing in a file is executed: tensors are loaded with `weights_only`, and links in HDF5 files are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from survq.data.problems import DataError
from survq.data.write import LARGEST
from survq.importing.companions import check_companions
from survq.importing.half_precision import ReadRows, to_half
from survq.importing.patch_positions import COORDINATES, Positions, positions_nearby, stored_positions
from survq.importing.untrusted import (
    RETRY_HINT,
    check_content,
    dataset,
    has_gaps,
    load_tensor,
    read_json,
    refusal,
    text,
)
from survq.text import shortened

HDF5, TENSORS = (".h5", ".hdf5"), (".pt", ".pth")
FEATURES = ("features", "feats", "patch_embeddings", "embeddings", "patch_features", "feature", "feat", "embedding")
STAMP = ("feats", "patch_embeddings")  # its names, with coordinates in micrometres
FLOATS = ("float16", "float32", "float64", "bfloat16")
BLOCK = 8 << 20  # bytes read and converted at a time


@dataclass(frozen=True)
class FileInfo:
    """The content of a file, known without reading its features."""

    layout: str
    patches: int
    width: int
    encoder: str | None  # as stated in the file, else by the name of its folder
    certain: bool  # whether the file itself states the encoder
    located: bool  # whether it will have coordinates in level-0 pixels
    patch_size: int | None  # level-0 pixels
    magnification: float | None  # of level 0
    micrometres: float | None  # side of a patch, where the tool states it


@dataclass(frozen=True)
class SlidePatches:
    """The patches of one slide in the form of the feature store."""

    features: np.ndarray  # (patch, feature), float16
    coordinates: np.ndarray | None  # (patch, 2), int32: top-left corner in level-0 pixels
    patch_size: int | None  # level-0 pixels
    magnification: float | None
    rounding: float  # largest rounding error of the conversion to half precision


def inspect(file: Path, mpp: float | None = None) -> FileInfo | None:
    """Inspect a file without reading its features; None if it holds only coordinates.

    `mpp`, micrometres per level-0 pixel, converts coordinates in micrometres to pixels. Raises DataError,
    also where another file of the tool has another number of patches.
    """
    with _opened(file) as content:
        if content is None:
            return None
        positions = content.positions(mpp, load=False)
        check_companions(file, (content.patches, content.width))
        return FileInfo(
            content.layout,
            content.patches,
            content.width,
            *(content.encoder, content.certain),
            located=positions.located,
            patch_size=positions.patch_size,
            magnification=positions.magnification,
            micrometres=positions.micrometres,
        )


def read(file: Path, mpp: float | None = None) -> SlidePatches:
    """Read the patches in a file; `mpp` as in `inspect`. Raises DataError."""
    with _opened(file) as content:
        if content is None:
            raise refusal(file, "holds coordinates and no features", "import the folder with the features")
        shape = (content.patches, content.width)
        features, rounding = to_half(file, content.rows, shape, content.step, content.is_half)
        positions = content.positions(mpp, load=True)
        return SlidePatches(features, positions.coordinates, positions.patch_size, positions.magnification, rounding)


@dataclass(frozen=True)
class _Content:
    """An open file of patch features of valid shape."""

    layout: str
    patches: int
    width: int
    encoder: str | None
    certain: bool
    is_half: bool  # whether its features are in half precision
    rows: ReadRows
    step: int  # patches to read at a time
    positions: Callable[..., Positions]  # of (mpp, load)


@contextmanager
def _opened(file: Path) -> Iterator[_Content | None]:
    """Open a file of features. Errors that libraries raise on truncated or forged files become DataErrors."""
    try:
        check_content(file)
        if file.suffix.lower() in HDF5:
            # without locks, for read-only file systems and those without locks
            with h5py.File(file, "r", locking=False) as store:
                yield _from_hdf5(file, store)
        else:
            yield _from_tensor(file)
    except DataError:
        raise
    except MemoryError as error:
        raise refusal(file, "does not fit into memory", "extract or copy it again; it is damaged or forged") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
        reason = shortened(str(error)) or type(error).__name__
        raise DataError([f"{file}: cannot be read ({reason}). {RETRY_HINT}."]) from error


def _from_hdf5(file: Path, store: h5py.File) -> _Content | None:
    name = next((name for name in FEATURES if name in store), None)
    if str(text(store.attrs.get("feat_type"))) in ("slide", "patient"):
        raise _slide_embedding(file)
    if list(store) == [COORDINATES]:
        return None
    if name is None:
        raise _nothing_known(file, store)
    features = dataset(file, store, name)
    axes = _axes(features.shape)
    patches, width = _checked_shape(file, features.shape, axes, features.dtype.name)
    if has_gaps(features):
        raise DataError([f"{file}: {name} is incomplete. {RETRY_HINT}."])
    stamp = name in STAMP or "stamp_version" in store.attrs or "extractor" in store.attrs
    attributes = dict(store[COORDINATES].attrs) if COORDINATES in store else {}
    trident = "encoder" in features.attrs or "patch_size_level0" in attributes
    layout = "STAMP" if stamp else "TRIDENT" if trident else "MMP" if axes == (1, 2) else "CLAM"
    encoder = text(features.attrs.get("encoder")) or text(store.attrs.get("extractor"))

    def positions(mpp: float | None, load: bool) -> Positions:
        if COORDINATES not in store:
            return positions_nearby(file, (patches, width), load)
        return stored_positions(file, store, attributes, (patches, width), stamp=stamp, mpp=mpp, load=load)

    step = max(1, BLOCK // (width * features.dtype.itemsize))
    if features.chunks is not None:  # HDF5 reads whole chunks, so read each only once
        step = -(-step // features.chunks[axes[0]]) * features.chunks[axes[0]]

    def rows(start: int, stop: int) -> np.ndarray:
        return features[_matrix(features.ndim, axes, slice(start, stop))]

    is_half = features.dtype == np.float16
    known = encoder or _encoder_of_folder(file)
    return _Content(layout, patches, width, known, bool(encoder), is_half, rows, step, positions)


def _from_tensor(file: Path) -> _Content:
    content = load_tensor(file)
    import torch  # slow to import, and not needed for HDF5 files

    if isinstance(content, dict):
        name = next((name for name in FEATURES if name in content), None)
        if name is None:
            raise _nothing_known(file, content)
        content = content[name]
    if not isinstance(content, np.ndarray | torch.Tensor):
        raise refusal(file, f"holds {type(content).__name__}, not a tensor", "save a tensor (patch, feature)")
    if isinstance(content, torch.Tensor):
        if content.layout != torch.strided:
            raise refusal(file, "holds a sparse tensor", "save its to_dense()")
        content = content.detach()
    axes = _axes(tuple(content.shape))
    dtype = content.dtype.name if isinstance(content, np.ndarray) else str(content.dtype).removeprefix("torch.")
    patches, width = _checked_shape(file, tuple(content.shape), axes, dtype)
    content = content[_matrix(content.ndim, axes, slice(None))]
    metadata = read_json(file.with_suffix(".meta.json")) or read_json(file.parent / "bags_config.json")
    encoder = text(metadata.get("encoder_name")) or text(metadata.get("extractor"))
    is_slide2vec = "encoder_name" in metadata
    layout = "TRIDENT" if isinstance(content, np.ndarray) else "slide2vec" if is_slide2vec else "tensor"

    def rows(start: int, stop: int) -> np.ndarray:
        block = content[start:stop]
        if isinstance(block, torch.Tensor):  # NumPy has no bfloat16
            block = (block.float() if block.dtype == torch.bfloat16 else block).numpy()
        return block

    def positions(mpp: float | None, load: bool) -> Positions:
        return positions_nearby(file, (patches, width), load)

    step = max(1, BLOCK // (width * content.itemsize))
    is_half = content.dtype in (np.float16, torch.float16)
    known = encoder or _encoder_of_folder(file)
    return _Content(layout, patches, width, known, bool(encoder), is_half, rows, step, positions)


def _nothing_known(file: Path, content: Mapping) -> DataError:
    """The error for a file none of whose names is known, with what it holds."""
    described = [
        repr(str(name)) + "".join(f" {tuple(part.shape)}" for part in [content[name]] if hasattr(part, "shape"))
        for name in list(content)[:5]
    ]
    found = ", ".join(described) or "nothing"
    return refusal(file, f"holds {found}; expected features or feats", "save the features of patches under that name")


def _axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of patches and features: tools add axes of length 1 behind, before or between them."""
    axes = list(range(len(shape)))
    while len(axes) > 2 and shape[axes[-1]] == 1:
        axes.pop()
    while len(axes) > 2 and shape[axes[0]] == 1:
        axes.pop(0)
    return tuple(axes if len(axes) < 3 else [axes[0], *(a for a in axes[1:-1] if shape[a] != 1), axes[-1]])


def _matrix(dimensions: int, axes: tuple[int, ...], patches: slice) -> tuple[int | slice, ...]:
    """The index of some patches (patch, feature) in an array of features with further axes of length 1."""
    index: list[int | slice] = [0] * dimensions
    index[axes[0]], index[axes[1]] = patches, slice(None)
    return tuple(index)


def _checked_shape(file: Path, shape: tuple[int, ...], axes: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """Numbers of patches and features. Raises DataError if these are not features of patches."""
    if 0 in shape:
        raise refusal(file, "holds no patches: no tissue was found", "remove it, or skip and list it with --skip-bad")
    if len(shape) == 1:
        raise _slide_embedding(file)
    if len(axes) != 2:
        raise refusal(file, f"features of shape {shape}; expected (patch, feature)", "save one slide per file")
    shape = tuple(shape[axis] for axis in axes)
    if dtype not in FLOATS:
        raise refusal(file, f"features of type {dtype}; expected one of {', '.join(FLOATS)}", "save them as floats")
    if 2 * shape[0] * shape[1] > LARGEST:
        problem = f"{shape[0]:,} patches x {shape[1]:,} features: more than the limit of 2 GiB per slide"
        raise refusal(file, problem, "split the slide, or extract fewer patches")
    return shape[0], shape[1]


def _slide_embedding(file: Path) -> DataError:
    fix = "import the folder with the features of patches (TRIDENT: features_*, slide2vec: tile_embeddings)"
    return refusal(file, "holds one vector for the whole slide or patient, not features of its patches", fix)


def _encoder_of_folder(file: Path) -> str | None:
    """The encoder in a folder name: features_uni_v1 (TRIDENT), extracted-uni_mass100k (MMP), uni-1234abcd (STAMP)."""
    for folder in (file.parent.name, file.parent.parent.name):
        if found := re.fullmatch(r"features_(.+)|extracted-(.+)|(.+)-[0-9a-f]{8}", folder):
            return next(filter(None, found.groups()))
    return None
