"""The slide files of a folder and their cases."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from survq.data.feature_import import SlideResult
from survq.data.problems import DataError, raise_if_any
from survq.importing.folders import by_suffix, file_problem, suffix_of, walk
from survq.importing.slide_names import Name, Wanted, stem
from survq.slides.slide import SUFFIXES
from survq.text import preview, readable

UNREAD = (".vsi", ".dcm", ".isyntax", ".i2syntax", ".qptiff", ".zvi", ".lif", ".afi", ".jp2", ".j2k", ".btf", ".nd2")
"""Whole-slide images that survq does not read."""
SAMPLES, SAMPLE = 16, 65536  # number and bytes of the samples in a file's fingerprint


@dataclass(frozen=True)
class Source:
    """A slide's file, its case, and a fingerprint that shows changes of the file."""

    slide_id: str
    case_id: str
    file: str
    mpp: float | None  # micrometres per level-0 pixel if the user states them; they overrule the file
    bytes: int
    fingerprint: str


def find_files(folder: Path) -> list[Path]:
    """The slides in a folder and its subfolders; GDC downloads have one subfolder per slide.

    Raises FileNotFoundError if there is no such folder, DataError if it holds no slides.
    """
    folder = folder.expanduser().absolute()  # workers may have another working directory
    files = list(walk(folder))
    slides = sorted(file for file in files if suffix_of(file) in (*SUFFIXES, *UNREAD))
    if not slides:
        other = f"; it has {by_suffix(files)}" if files else ""
        raise DataError(
            [f"{readable(folder)}: holds no slides; expected files ending in {', '.join(SUFFIXES)}{other}."]
        )
    return slides


def name_sources(
    files: Iterable[Path], name_of: Callable[[str], Name | None], wanted: Wanted, mpp: float | None = None
) -> tuple[list[Source], list[SlideResult]]:
    """The files of the slides of a cohort; and the skipped files, with the reason.

    Raises DataError if two files belong to one slide, or have the same content.
    """
    named: list[tuple[Path, Name]] = []
    skipped: list[SlideResult] = []
    for file in files:
        slide_id, label = readable(stem(file.name)), readable(file)
        try:
            if (unreadable := file_problem(file)) is not None:
                raise DataError([f"{unreadable}."])
            if file.suffix.lower() in UNREAD:
                raise DataError([f"survq does not read {file.suffix} files. Fix: convert it to a tiled TIFF."])
            name = wanted.named(slide_id, name_of)
        except DataError as error:
            skipped.append(SlideResult(slide_id, "", label, "skipped", " ".join(error.problems)))
            continue
        if (reason := wanted.reason_against(name)) is not None:
            case_id = "" if name is None else name.case_id
            skipped.append(SlideResult(slide_id, case_id, label, "skipped", reason))
        elif name is not None:
            named.append((file, name))
    by_id: dict[str, list[Path]] = {}
    for file, name in named:
        by_id.setdefault(name.slide_id.lower(), []).append(file)
    with ThreadPoolExecutor(16) as threads:  # network disks are slow per file
        fingerprints = list(threads.map(_fingerprint, [file for file, _ in named]))
    by_content: dict[tuple[int, str], list[Path]] = {}
    for (file, _), fingerprint in zip(named, fingerprints, strict=True):
        by_content.setdefault(fingerprint, []).append(file)
    raise_if_any(
        [
            f"several files {what}: {preview(same)}. Fix: rename or remove all but one."
            for what, groups in (("of one slide", by_id), ("with the same content", by_content))
            for same in groups.values()
            if len(same) > 1
        ]
    )
    sources = [
        Source(name.slide_id, name.case_id, str(file), name.mpp or mpp, *fingerprint)
        for (file, name), fingerprint in zip(named, fingerprints, strict=True)
    ]
    return sources, skipped


def _fingerprint(file: Path) -> tuple[int, str]:
    """The size of a slide in bytes, and a hash of samples spread over it: hashing gigabytes would take too long."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for number in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE))
    companion = file.with_suffix("")  # the folder in which .mrxs and similar formats keep their pixels
    for part in sorted(companion.iterdir()) if companion.is_dir() else ():
        size += part.stat().st_size
        digest.update(f"{part.name} {part.stat().st_size}".encode())
    return size, digest.hexdigest()[:16]
