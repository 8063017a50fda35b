"""Write a slide of the feature store, or a whole cohort. Each appears under its name only when complete."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.cohort import cohort_names
from survq.data.feature_store import INDEX, SCHEMA, SOURCE, binary_cell, slide_index
from survq.data.gene_sets import GeneSets, collection_path
from survq.data.location import Location, atomic_folder, created_folder, csv_bytes, parquet
from survq.data.lock import locked
from survq.data.problems import raise_if_any
from survq.data.seal import UNSEALED, seal
from survq.data.tables import Tables, cohort_name_problems, join_problems, slides_problems, valid_tables
from survq.text import preview

LARGEST = 2**31 - 2**20  # bytes of features per slide: the limit of a Parquet cell


@dataclass(frozen=True)
class Slide:
    """The patch features of one slide."""

    slide_id: str
    case_id: str
    features: np.ndarray  # (patch, feature), float16
    coordinates: np.ndarray | None = None  # (patch, 2), int32: top-left corner in level-0 pixels
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
            found.append(f"{self.features.nbytes:,} bytes of features; the limit per slide is {LARGEST:,}")
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
        """Its row in the store, with `source` in the metadata. Features are not copied."""
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
    return binary_cell(value) if isinstance(value, np.ndarray) else pa.array([value], kind)


def first_not_finite(features: np.ndarray) -> int | None:
    """The first patch with a NaN or an infinity in (patch, feature) float16; None if all are finite."""
    # Test the bits, ten times faster than np.isfinite: only non-finite values have the largest exponent. In blocks,
    # as allocating memory for all at once would take as long again.
    bits = np.ascontiguousarray(features).view(np.uint16)
    step = max(1, 2**19 // max(1, bits.shape[1]))
    for start in range(0, len(bits), step):
        exponents = bits[start : start + step] & 0x7C00
        if exponents.max(initial=0) == 0x7C00:
            return start + int(np.flatnonzero((exponents == 0x7C00).any(axis=1))[0])
    return None


def blank_patches(features: np.ndarray) -> str | None:
    """Why (patch, feature) cannot be what an encoder made of tissue; None if it can."""
    # most patches differ from the first in their first features: only the others are read whole
    zero = np.flatnonzero((features[:, :8] == 0).all(axis=1))
    zero = zero[(features[zero] == 0).all(axis=1)]
    if len(zero):
        return f"all features of {len(zero):,} of {len(features):,} patches are 0, the first is patch {zero[0]}"
    if len(features) > 1 and (features[:, :8] == features[0, :8]).all() and (features == features[0]).all():
        return f"all {len(features):,} patches have the same features"
    return None


def write_features(folder: str | Path | Location, slides: Iterable[Slide]) -> None:
    """Write slides into `folder`, one after another.

    Raises DataError with the problems of all slides, after writing the valid ones.
    """
    problems: list[str] = []
    written: set[str] = set()
    for slide in slides:
        found = slide.problems()
        if slide.slide_id in written:
            found.append(f"slides listed more than once: {slide.slide_id!r}. Fix: keep one of them.")
        if not found:
            write_slide(folder, slide)
            written.add(slide.slide_id)
        problems += found
    raise_if_any(problems)


def write_slide(folder: str | Path | Location, slide: Slide, source: str = "") -> Location:
    """Write a slide as one file, replacing an existing slide of that id. Returns the file.

    The file appears under its name only when complete, so a process that dies leaves the store unchanged. Its bytes
    depend on nothing but the slide. `source` describes the source of the slide; it is stored in the file's metadata and
    shown in the index. Raises DataError with the problems of the slide.
    """
    raise_if_any(slide.problems())
    folder = Location.at(folder)
    table = slide.table(source)
    file = folder / file_name(slide.slide_id)
    # Features do not compress, and plain bytes can be memory-mapped. Statistics of a single value are useless, and
    # computing them takes longer than everything else.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with (
        file.writing(seal) as stream,
        pq.ParquetWriter(stream, table.schema, write_page_checksum=True, **plain) as writer,
    ):
        writer.write_table(table)
        writer.add_key_value_metadata(UNSEALED)
    return file


def file_name(slide_id: str) -> str:
    """The file name of a slide. Ids come from users' files: only letters, digits and hyphens are safe in a path."""
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
    """Write one cohort of a data folder atomically, replacing an existing cohort of that name.

    `cases` and `expression` are indexed by case_id. `gene_sets` are collections, by name. `attachments` are further
    small files, by name. All cohorts of a folder share its gene sets: a collection can be replaced only while there
    are no other cohorts. Raises InUse; DataError, and then nothing has appeared under the cohort's name.
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
    _, problems = valid_tables(tables, name)
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

    with created_folder(root), locked(root / f".{name}.lock", root / name, "wait for it to end"):
        folder.sweep(f".{name}.*")
        with atomic_folder(root / name, replacing=True) as unfinished:
            for part, table in (("cases", tables.cases), ("expression", tables.expression), ("splits", splits)):
                if table is not None:
                    (unfinished / f"{part}.parquet").write_bytes(parquet(table))
            (unfinished / "dropped.csv").write_bytes(csv_bytes(dropped))
            for attachment, content in (attachments or {}).items():
                (unfinished / attachment).write_bytes(content)
            write_features(unfinished / "features", slides)
            tables = replace(tables, slides=slide_index(Location.at(unfinished / "features")))
            raise_if_any(slides_problems(tables.slides, f"{name}/features") + join_problems(tables, name))
            for file, text in gmts:
                file.write(text.encode())
    return root / name
