"""The files below a folder, found by one rule for features and slides."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from survq.data.problems import DataError
from survq.text import is_utf8, readable


def walk(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    """All files below `folder`, in order of their names, without hidden ones and without folders named as in `without`.

    Linked folders are followed, each folder once, so that links in a circle end. Raises FileNotFoundError; DataError
    for folders that cannot be listed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{readable(folder)}: no such folder.")
    if not is_utf8(folder):
        raise DataError([f"{readable(folder)}: the name of the folder is not UTF-8. Fix: rename it."])
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        if (real := os.path.realpath(path)) in seen:  # not by inode: some network disks have none
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in without)
        yield from (Path(path, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    where = readable(error.filename)
    raise DataError(
        [f"{where}: the folder cannot be listed ({error.strerror}). Fix: make it readable, or move it away."]
    )


PARTIAL = (".partial", ".part", ".crdownload", ".download", ".tmp", ".filepart", ".aria2")
"""What programs that download or write a file add to its name until it is complete."""


def suffix_of(file: Path) -> str:
    """In small letters: the suffix of a file once it is complete."""
    return Path(file.stem if file.suffix.lower() in PARTIAL else file.name).suffix.lower()


def file_problem(file: Path) -> str | None:
    """Why a file cannot be read under its name; None if it can."""
    if not is_utf8(file):
        return f"{readable(file)}: its name is not UTF-8. Fix: rename it, or its folder, for example with convmv"
    if not file.exists():
        return f"{file}: is a link to a file that does not exist. Fix: repair or remove it"
    if file.suffix.lower() in PARTIAL:
        return f"{file}: is incomplete, by its name. Fix: complete or remove it"
    if (lock := file.with_name(f"{file.name}.lock")).exists():
        return f"{file}: is being written, says {lock.name} beside it. Fix: wait, or extract it again"
    return None


def by_suffix(files: Collection[Path]) -> str:
    """Such as: 12 .npy, 3 .vsi"""
    suffixes = [file.suffix.lower() for file in files]
    return ", ".join(f"{suffixes.count(suffix)} {suffix}" for suffix in sorted(set(suffixes), key=suffixes.index))
