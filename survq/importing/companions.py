"""Files that tools write beside the features of a slide and that know its number of patches.

Tools write features batch by batch: a file of half a slide looks whole until it is compared with these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from survq.importing.patch_positions import COORDINATES, coordinate_file, other_number
from survq.importing.untrusted import load_tensor, number, read_json, refusal

TWINS = {
    **{"h5_files": "pt_files", "pt_files": "h5_files"},  # CLAM, which writes the tensor last
    **{"feats_h5": "feats_pt", "feats_pt": "feats_h5"},  # MMP
}
"""Folder -> the folder with the same features in the other format."""


def check_companions(file: Path, shape: tuple[int, int]) -> None:
    """Raises DataError where another file of the tool has another number of patches, or was never written.

    `shape` is that of the features (patch, feature).
    """
    agrees = False
    for other, count in _counts(file):
        if count != shape[0]:
            raise other_number(file, shape, other, count)
        agrees = True
    twin = _twin(file)
    if agrees or twin is None or file.parent.name != "h5_files" or twin.exists():
        return
    if any(twin.parent.glob("*.pt")):
        fix = f"extract it again, as it was probably interrupted, or move {twin.parent} away"
        raise refusal(file, f"others have a tensor in {twin.parent}, which is written last, and it has none", fix)


def _counts(file: Path) -> Iterator[tuple[Path, int]]:
    """The files beside `file` that know the number of its patches, and that number. Damaged files know nothing."""
    if (count := number(read_json(note := file.with_suffix(".meta.json")).get("num_tiles"))) is not None:
        yield note, int(count)
    for other in (coordinate_file(file), file.with_suffix(".index.npz"), _twin(file)):
        if other is not None and other.is_file() and (rows := _rows(other)) is not None:
            yield other, rows


def _twin(file: Path) -> Path | None:
    """The file with the same features in the other format, whether it exists or not."""
    folder = TWINS.get(file.parent.name)
    if folder is None:
        return None
    return file.parent.parent / folder / (file.stem + (".pt" if file.suffix.lower().startswith(".h") else ".h5"))


def _rows(file: Path) -> int | None:
    """The number of patches in a file; None if it cannot be read."""
    try:
        if file.suffix == ".npz":
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return len(content["x" if "x" in content.files else content.files[0]])
        if file.suffix == ".pt":
            shape = tuple(load_tensor(file).shape)
        else:
            with h5py.File(file, "r", locking=False) as store:
                shape = store[COORDINATES if COORDINATES in store else "features"].shape
    except Exception:  # zip, HDF5 and torch raise different errors, and the file itself is not imported
        return None
    return shape[1] if len(shape) == 3 and shape[0] == 1 else shape[0]
