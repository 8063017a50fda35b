"""Read HDF5, torch and JSON files from any origin: nothing in them is executed, and no link in them is followed."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from survq.data.problems import DataError
from survq.text import shortened

PRINT_PLUGINS = "import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)"
RETRY_HINT = "Fix: extract or copy it again"


def refusal(file: Path, problem: str, fix: str) -> DataError:
    return DataError([f"{file}: {problem}. Fix: {fix}."])


def check_content(file: Path) -> None:
    """Raises DataError for what often lies in place of a file: nothing, a web page, or a pointer of Git LFS."""
    with file.open("rb") as stream:
        start = stream.read(200).lstrip()
    if not start:
        raise refusal(file, "is empty", "extract or copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise refusal(file, "is a pointer of Git LFS, not the file itself", "run `git lfs pull` in its repository")
    if start[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise refusal(file, "is a web page", "download it again; the server may ask to log in or to accept a licence")


def load_tensor(file: Path) -> Any:
    """What `torch.save` wrote into a file. Only tensors, NumPy arrays of floats and plain containers are ever created.

    Raises DataError for any other content, and for damaged files.
    """
    import torch

    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    kinds = [type(np.dtype(name)) for name in ("float16", "float32", "float64")]
    arrays = [reconstruct, (reconstruct, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, *kinds]
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"  # files from before torch 1.6 are not, and cannot be memory-mapped
    try:
        with torch.serialization.safe_globals(arrays), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except MemoryError:
        raise
    except Exception as error:  # a forged file can make the loader raise anything
        text = " ".join(str(error).split())
        if zipped and not zipfile.is_zipfile(file):
            raise DataError([f"{file}: is truncated. {RETRY_HINT}."]) from error
        wanted = re.search(r"GLOBAL ([\w.]+)", text)
        if wanted is None and not zipped:
            raise DataError([f"{file}: was not written by torch.save, or is truncated. {RETRY_HINT}."]) from error
        if wanted is None and "Weights only" not in text:
            raise DataError([f"{file}: cannot be read ({shortened(text)}). {RETRY_HINT}."]) from error
        if wanted is not None and wanted[1].startswith("torch_geometric"):
            problem, fix = "is a graph of Patch-GCN, not a tensor", "import the features that the graph was made from"
            raise refusal(file, problem, fix) from error
        problem = f"asks to create or call {wanted[1][:60] if wanted else 'objects'}, which survq never does"
        fix = "if you trust it, load it yourself and save the features as a tensor (patch, feature)"
        raise refusal(file, problem, fix) from error


def dataset(file: Path, store: h5py.File, name: str) -> h5py.Dataset:
    """A dataset stored in this file. Raises DataError for a link: HDF5 can link to any other file on the machine."""
    found = store[name] if isinstance(store.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise refusal(file, f"{name} is not stored in this file, but is a link or a group", "copy the data into it")
    created = found.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, described = created.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            called = " ".join([str(code), described.decode(errors="replace").split(";")[0][:40]]).strip()
            problem = f"{name} is compressed by the HDF5 filter {called}, which is not installed"
            fix = f"pip install hdf5plugin, then export HDF5_PLUGIN_PATH=$(python -c '{PRINT_PLUGINS}')"
            raise refusal(file, problem, fix)
    return found


def has_gaps(stored: h5py.Dataset) -> bool:
    """Whether parts of the dataset were never written: they would be read as zeros."""
    if stored.chunks is None:
        return stored.id.get_storage_size() < stored.nbytes
    chunks = [-(-side // chunk) for side, chunk in zip(stored.shape, stored.chunks, strict=True)]
    return stored.id.get_num_chunks() < np.prod(chunks)


def text(value: Any) -> str | None:
    """A text attribute; None if it is missing or empty."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) and value not in ("", "None") else None


def number(value: Any, zero: bool = False) -> float | None:
    """The first number of an attribute if above 0, or if `zero` also 0. TRIDENT writes missing values as "None"."""
    try:
        first = float(np.asarray(value).ravel()[0])
    except (ValueError, TypeError, IndexError):
        return None
    return first if np.isfinite(first) and (first > 0 or (zero and first == 0)) else None


def read_json(file: Path) -> dict:
    """The object in a JSON file; empty if there is none."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
