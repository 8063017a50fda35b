"""The feature store: patch features and coordinates as Parquet, one row and one row group a slide.

Half floats are kept as plain bytes: lists of half floats decode ten times slower.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.folder import UNREADABLE, Folder, unreadable
from survq.data.problems import DataError, raise_if_any

SCHEMA = pa.schema(
    [
        ("slide_id", pa.string()),
        ("case_id", pa.string()),
        ("features", pa.large_binary()),  # float16, (patch, feature), C-order
        ("patches", pa.int32()),
        ("width", pa.int32()),
        ("coordinates", pa.large_binary()),  # int32, (patch, 2): level-0 pixels of the top-left corner; or null
        ("patch_size", pa.int32()),  # side of a patch in level-0 pixels; or null
        ("magnification", pa.float32()),
        ("encoder", pa.string()),
        ("sha256", pa.string()),  # of `features`
    ]
)
INDEX = [name for name in SCHEMA.names if name not in ("features", "coordinates")]


@dataclass(frozen=True)
class Slide:
    """One slide as its patch encoder left it."""

    slide_id: str
    case_id: str
    features: np.ndarray  # (patch, feature), float16
    coordinates: np.ndarray | None = None  # (patch, 2), int32, level-0 pixels of the top-left corner
    patch_size: int | None = None  # level-0 pixels
    magnification: float | None = None
    encoder: str = "unknown"

    def problems(self) -> list[str]:
        found = []
        if self.features.ndim != 2 or 0 in self.features.shape:
            found.append(f"features of shape {self.features.shape}; expected (patch, feature) with at least one patch")
        elif self.features.dtype != np.float16:
            found.append(f"features of type {self.features.dtype}; expected float16")
        elif not np.isfinite(self.features).all():
            patch = int(np.flatnonzero(~np.isfinite(self.features).all(axis=1))[0])
            found.append(f"a feature that is not finite, first in patch {patch}")
        if (
            self.features.ndim == 2
            and self.coordinates is not None
            and self.coordinates.shape != (len(self.features), 2)
        ):
            found.append(f"coordinates of shape {self.coordinates.shape} for {len(self.features)} patches")
        return [f"slide {self.slide_id!r}: {problem}." for problem in found]

    def row(self) -> dict:
        features = np.ascontiguousarray(self.features).tobytes()
        coordinates = self.coordinates
        return {
            "slide_id": self.slide_id,
            "case_id": self.case_id,
            "features": features,
            "patches": self.features.shape[0],
            "width": self.features.shape[1],
            "coordinates": None if coordinates is None else np.ascontiguousarray(coordinates, dtype=np.int32).tobytes(),
            "patch_size": self.patch_size,
            "magnification": self.magnification,
            "encoder": self.encoder,
            "sha256": hashlib.sha256(features).hexdigest(),
        }


def write_features(folder: Path, slides: Iterable[Slide], slides_per_file: int = 64) -> None:
    """Stream slides into `folder`; a file appears under its name only when it is whole.

    Raises DataError with what is wrong with any of the slides, after the last of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slides = iter(slides)
    problems: list[str] = []
    number = 0
    while first := next(slides, None):
        file = folder / f"part-{number:05d}.parquet"
        unfinished = file.with_suffix(".unfinished")
        # features do not compress; leaving them plain lets a reader map them
        with pq.ParquetWriter(unfinished, SCHEMA, compression="none", write_page_checksum=True) as writer:
            for slide in (first, *islice(slides, slides_per_file - 1)):
                problems += slide.problems()
                if not problems:
                    writer.write_table(pa.Table.from_pylist([slide.row()], schema=SCHEMA))
        if problems:
            unfinished.unlink()
            continue
        os.replace(unfinished, file)
        number += 1
    raise_if_any(problems)


class FeatureStore:
    """Random access to the slides of a features folder. The index is read once; features only when asked for."""

    def __init__(self, folder: str | Path | Folder):
        self.folder = Folder.at(folder)
        self.index = self._read_index()

    def _read_index(self) -> pd.DataFrame:
        parts, problems = [], []
        for name in self.folder.names():
            if not name.endswith(".parquet"):
                continue
            file = self.folder / name
            try:
                with (
                    file.filesystem.open_input_file(file.path) as source,
                    pq.ParquetFile(source, page_checksum_verification=True) as parquet,
                ):
                    there = {field.name: field.type for field in parquet.schema_arrow}
                    if missing := [field.name for field in SCHEMA if there.get(field.name) != field.type]:
                        problems.append(
                            f"{file}: lacks the columns {missing}, or they have other types. "
                            f"Mend: import the features again."
                        )
                        continue
                    if parquet.num_row_groups != parquet.metadata.num_rows:
                        problems.append(f"{file}: its slides do not have a row group each. Mend: import them again.")
                        continue
                    part = parquet.read(columns=INDEX).to_pandas()
            except UNREADABLE as error:
                problems.append(unreadable(file, error))
                continue
            part["file"] = file.path
            part["row_group"] = np.arange(len(part))
            parts.append(part)
        raise_if_any(problems)
        none = pd.DataFrame(columns=[*INDEX, "file", "row_group"])
        index = pd.concat(parts, ignore_index=True) if parts else none
        return index.set_index("slide_id", drop=False).rename_axis(None)

    def read(self, slide_ids: Sequence[str]) -> np.ndarray:
        """The patch features of the slides, one after another: (patch, feature), float16."""
        return read_slides(self.folder, self.index.loc[list(slide_ids)].to_dict("records"))

    def coordinates(self, slide_id: str) -> np.ndarray | None:
        """(patch, 2), int32: level-0 pixels of each patch's top-left corner; None where the tool left none."""
        return read_coordinates(self.folder, self.index.loc[slide_id].to_dict())


def read_slides(folder: Folder, rows: Sequence[dict]) -> np.ndarray:
    """The features of slides named by rows of the index; every byte is checked against the row's sha256."""
    bags, problems = [], []
    for row in rows:
        buffer = _read_cell(folder, row, "features")
        if buffer is None or hashlib.sha256(buffer).hexdigest() != row["sha256"]:
            problems.append(
                f"{row['file']}: the features of slide {row['slide_id']!r} are not those that were written "
                f"(sha256 differs). Mend: restore the file, or import the slide again."
            )
        elif len(buffer) != 2 * row["patches"] * row["width"]:
            problems.append(
                f"{row['file']}: slide {row['slide_id']!r}: {len(buffer)} bytes of features; expected {row['patches']} "
                f"patches x {row['width']} features x 2 bytes. Mend: import the slide again."
            )
        else:
            bags.append(np.frombuffer(buffer, np.float16).reshape(row["patches"], row["width"]))
    raise_if_any(problems)
    return bags[0] if len(bags) == 1 else np.concatenate(bags)


def read_case(cases: pa.Table, folder: Folder) -> pa.Table:
    """The patches of one case: a row of (case_id, slides as JSON rows of the index) to (case_id, patches, features)."""
    (case,) = cases.to_pylist()
    bag = read_slides(folder, json.loads(case["slides"]))
    features = pa.array([bag.tobytes()], type=pa.large_binary())
    return pa.table({"case_id": [case["case_id"]], "patches": [len(bag)], "features": features})


def case_of_row(table: pa.Table) -> str:
    (case_id,) = table["case_id"].to_pylist()
    return case_id


def read_coordinates(folder: Folder, row: dict) -> np.ndarray | None:
    """The coordinates of the slide named by a row of the index, (patch, 2), int32; None where there are none."""
    buffer = _read_cell(folder, row, "coordinates")
    if buffer is None:
        return None
    if len(buffer) != 8 * row["patches"]:
        raise DataError(
            [
                f"{row['file']}: slide {row['slide_id']!r}: {len(buffer)} bytes of coordinates for {row['patches']} "
                f"patches; expected 8 a patch. Mend: import the slide again."
            ]
        )
    return np.frombuffer(buffer, np.int32).reshape(-1, 2)


def _read_cell(folder: Folder, row: dict, column: str) -> pa.Buffer | None:
    # features have their sha256; the other columns have the checksums of their pages
    verify = column != "features"
    try:
        with (
            folder.filesystem.open_input_file(row["file"]) as source,
            pq.ParquetFile(source, page_checksum_verification=verify) as parquet,
        ):
            (value,) = parquet.read_row_group(int(row["row_group"]), columns=[column]).column(column)
    except UNREADABLE as error:
        raise DataError([unreadable(row["file"], error)]) from error
    return value.as_buffer() if value.is_valid else None
