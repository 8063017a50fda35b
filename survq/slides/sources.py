"""The slide files of a folder, and whose they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from survq.data.feature_import import SlideOutcome
from survq.data.problems import DataError, raise_if_any
from survq.importing.slide_names import Name, stem
from survq.slides.slide import SUFFIXES
from survq.text import preview

SAMPLES, SAMPLE = 16, 65536  # places of a file that are looked at, and bytes of each


@dataclass(frozen=True)
class Source:
    """A slide's file, whose it is, and what tells whether the file is still the same."""

    slide_id: str
    case_id: str
    file: str
    mpp: float | None  # micrometres a level-0 pixel, for a file that does not say
    bytes: int
    fingerprint: str


def find_files(folder: Path) -> list[Path]:
    """The slides in a folder and all folders below it (downloads of the GDC have one each).

    Raises FileNotFoundError where there is no such folder, DataError where it holds none.
    """
    folder = folder.expanduser().absolute()  # whoever reads them may stand elsewhere
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of slides.")
    files = sorted(
        Path(where) / name
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if not files:
        raise DataError([f"{folder}: holds no slide; expected files that end in {', '.join(SUFFIXES)}."])
    return files


def name_sources(
    files: Iterable[Path], name_of: Callable[[str], Name | None], cases: Collection[str], mpp: float | None = None
) -> tuple[list[Source], list[SlideOutcome]]:
    """The files that are of these cases; and the others, with the reason why they are left out.

    Raises DataError where two files are of one slide.
    """
    named: list[tuple[Path, Name]] = []
    others: list[SlideOutcome] = []
    for file in files:
        slide_id = stem(file.name)
        try:
            name = name_of(slide_id)
        except DataError as error:
            others.append(SlideOutcome(slide_id, "", str(file), "skipped", " ".join(error.problems)))
            continue
        if name is None:
            others.append(SlideOutcome(slide_id, "", str(file), "skipped", "the table has no row for it"))
        elif name.case_id not in cases:
            others.append(
                SlideOutcome(slide_id, name.case_id, str(file), "skipped", "its case is not one of the cohort")
            )
        else:
            named.append((file, name))
    by_id: dict[str, list[Path]] = {}
    for file, name in named:
        by_id.setdefault(name.slide_id.lower(), []).append(file)
    raise_if_any(
        [
            f"files of one slide: {preview(same)}. Fix: rename or remove all but one."
            for same in by_id.values()
            if len(same) > 1
        ]
    )
    with ThreadPoolExecutor(16) as threads:  # on network disks each takes its time
        facts = list(threads.map(_facts, [file for file, _ in named]))
    sources = [
        Source(name.slide_id, name.case_id, str(file), name.mpp or mpp, *fact)
        for (file, name), fact in zip(named, facts, strict=True)
    ]
    return sources, others


def _facts(file: Path) -> tuple[int, str]:
    """Its bytes, and a hash of what stands at places spread over it: to read all of its gigabytes takes too long."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        for number in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
            digest.update(stream.read(SAMPLE))
    beside = file.with_suffix("")  # where .mrxs and its like keep their pixels
    for part in sorted(beside.iterdir()) if beside.is_dir() else ():
        size += part.stat().st_size
        digest.update(f"{part.name} {part.stat().st_size}".encode())
    return size, digest.hexdigest()[:16]
