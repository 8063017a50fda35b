"""Writing: a slide of the feature store, and a whole cohort. Each appears under its name whole, or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.cohort import cohort_names
from survq.data.feature_store import INDEX, SCHEMA, SOURCE, FeatureStore
from survq.data.gene_sets import GeneSets, collection_path
from survq.data.location import Location, appearing, parquet
from survq.data.lock import locked
from survq.data.problems import raise_if_any
from survq.data.tables import Tables, cohort_name_problems, join_problems, slides_problems, sound_tables
from survq.text import preview

LARGEST = 2**31 - 2**20  # bytes of features a slide: what a Parquet file can have in one cell


@dataclass(frozen=True)
class Slide:
    """One slide as its patch encoder left it."""

    slide_id: str
    case_id: str
    features: np.ndarray  # (patch, feature), float16
    coordinates: np.ndarray | None = None  # (patch, 2), int32, level-0 pixels of the top-left corner
    patch_size: int | None = None  # level-0 pixels
    magnification: float | None = None  # of level 0
    encoder: str = "unknown"

    def problems(self) -> list[str]:
        found = []
        if self.features.ndim != 2 or 0 in self.features.shape:
            found.append(f"features of shape {self.features.shape}; expected (patch, feature) with at least one patch")
        elif self.features.dtype != np.float16:
            found.append(f"features of type {self.features.dtype}; expected float16")
        elif self.features.nbytes > LARGEST:
            found.append(f"{self.features.nbytes:,} bytes of features; a slide of the store may have {LARGEST:,}")
        elif (patch := first_not_finite(self.features)) is not None:
            found.append(f"a feature that is not finite, first in patch {patch}")
        if (
            self.features.ndim == 2
            and self.coordinates is not None
            and self.coordinates.shape != (len(self.features), 2)
        ):
            found.append(f"coordinates of shape {self.coordinates.shape} for {len(self.features)} patches")
        return [f"slide {self.slide_id!r}: {problem}." for problem in found]

    def table(self, source: str = "") -> pa.Table:
        """The one row of it that the store has, with a note of what it was made from. Features are not copied."""
        schema = SCHEMA.with_metadata({SOURCE: source.encode()} if source else None)
        features = np.ascontiguousarray(self.features)
        coordinates = None if self.coordinates is None else np.ascontiguousarray(self.coordinates, np.int32)
        cells = {
            "slide_id": self.slide_id,
            "case_id": self.case_id,
            "features": features,
            "patches": self.features.shape[0],
            "width": self.features.shape[1],
            "coordinates": coordinates,
            "patch_size": self.patch_size,
            "magnification": self.magnification,
            "encoder": self.encoder,
            "sha256": hashlib.sha256(pa.py_buffer(features)).hexdigest(),
        }
        return pa.table([_cell(cells[field.name], field.type) for field in schema], schema=schema)


def _cell(value: object, kind: pa.DataType) -> pa.Array:
    if not isinstance(value, np.ndarray):
        return pa.array([value], kind)
    ends = np.array([0, value.nbytes], np.int64)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(ends), pa.py_buffer(value)])


def first_not_finite(features: np.ndarray) -> int | None:
    """The first patch with a NaN or an infinity, of (patch, feature) float16; None where all are finite."""
    # The bits tell, ten times faster than np.isfinite: the largest exponent is that of what is not finite. By blocks,
    # since fresh memory for all of it would cost as much again.
    bits = np.ascontiguousarray(features).view(np.uint16)
    step = max(1, 2**19 // max(1, bits.shape[1]))
    for start in range(0, len(bits), step):
        exponents = bits[start : start + step] & 0x7C00
        if exponents.max(initial=0) == 0x7C00:
            return start + int(np.flatnonzero((exponents == 0x7C00).any(axis=1))[0])
    return None


def write_features(folder: str | Path | Location, slides: Iterable[Slide]) -> None:
    """Write slides into `folder`, each as soon as it comes.

    Raises DataError with what is wrong with any of the slides, after the last of them.
    """
    problems: list[str] = []
    written: set[str] = set()
    for slide in slides:
        found = slide.problems()
        if slide.slide_id in written:
            found.append(f"slides that stand more than once: {slide.slide_id!r}. Fix: keep one of them.")
        if not found:
            write_slide(folder, slide)
            written.add(slide.slide_id)
        problems += found
    raise_if_any(problems)


def write_slide(folder: str | Path | Location, slide: Slide, source: str = "") -> Location:
    """Write a slide as a file of its own, and return where it is. A slide of that id that is there is replaced.

    The file appears under its name only when it is whole, and is the same to the bit whenever it is written: a process
    that dies at any moment leaves the store as it was. `source`, what the slide was made from, is noted in the file and
    stands in the index. Raises DataError with what is wrong with the slide.
    """
    raise_if_any(slide.problems())
    folder = Location.at(folder)
    table = slide.table(source)
    file = folder / file_name(slide.slide_id)
    # Features do not compress; leaving them plain lets a reader map them. Statistics would be the smallest and largest
    # of one value, and finding them takes longer than all else.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with file.writing() as stream, pq.ParquetWriter(stream, table.schema, write_page_checksum=True, **plain) as writer:
        writer.write_table(table)
    return file


def file_name(slide_id: str) -> str:
    """Of a slide's file. Ids come from users' files: what is no letter, digit or hyphen has no place in a path."""
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", slide_id)[:100].strip("_-")
    return f"{plain or 'slide'}-{hashlib.sha256(slide_id.encode()).hexdigest()[:12]}.parquet"


def write_cohort(
    root: str | Path,
    name: str,
    *,
    cases: pd.DataFrame,
    expression: pd.DataFrame | None = None,
    slides: Iterable[Slide] = (),
    splits: pd.DataFrame | None = None,
    dropped: pd.DataFrame | None = None,
    gene_sets: Mapping[str, GeneSets] | None = None,
    attachments: Mapping[str, bytes | memoryview] | None = None,
) -> Path:
    """Write one cohort of a data folder, whole or not at all; a cohort of that name that is there is replaced.

    `cases` and `expression` are indexed by case_id. `gene_sets` are collections of gene sets, by name. `attachments`
    are further small files, by name. All cohorts of a folder share its gene sets: a collection that differs from the
    one in the folder is refused while the folder has other cohorts.
    Raises DataError before anything is visible under the cohort's name, and InUse.
    """
    root = Path(root).expanduser()
    dropped = pd.DataFrame({"case_id": [], "reason": []}, dtype=str) if dropped is None else dropped
    tables = Tables(
        cases=cases.reset_index(names="case_id"),
        expression=None if expression is None else expression.astype(np.float32).reset_index(names="case_id"),
        splits=splits,
        slides=pd.DataFrame(columns=INDEX),
        dropped=dropped,
    )
    _, problems = sound_tables(tables, name)
    problems += cohort_name_problems(name)
    others = [other for other in cohort_names(root) if other != name]
    folder = Location.at(root)
    gmts = [(folder / collection_path(collection), sets.to_gmt()) for collection, sets in (gene_sets or {}).items()]
    for file, text in gmts if others else ():
        if file.is_file() and file.read_text() != text:
            problems.append(
                f"{file}: exists with other gene sets, and {preview(others)} need them. Fix: choose another folder."
            )
    raise_if_any(problems)

    with _made(root), locked(root / f".{name}.lock", root / name, "wait for it to end"):
        folder.sweep(f".{name}.*")
        with appearing(root / name, replacing=True) as unfinished:
            for part, table in (("cases", tables.cases), ("expression", tables.expression), ("splits", splits)):
                if table is not None:
                    (unfinished / f"{part}.parquet").write_bytes(parquet(table))
            dropped.to_csv(unfinished / "dropped.csv", index=False)
            for attachment, content in (attachments or {}).items():
                (unfinished / attachment).write_bytes(content)
            write_features(unfinished / "features", slides)
            tables = replace(tables, slides=FeatureStore(unfinished / "features").index)
            raise_if_any(slides_problems(tables.slides, f"{name}/features") + join_problems(tables, name))
            for file, text in gmts:
                file.write(text.encode())
    return root / name


@contextmanager
def _made(root: Path) -> Iterator[None]:
    """A folder to write into. One that was not there goes again where nothing comes of it."""
    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                root.rmdir()
