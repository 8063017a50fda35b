"""The feature store: patch features and coordinates as Parquet, one row and one row group per slide.

Slides may share files. survq writes one file per slide, so that many processes can write at the same time, and finished
slides can be skipped after a restart. Half floats are stored as plain bytes: lists of half floats decode ten times
slower.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.location import UNREADABLE, Location, unreadable
from survq.data.problems import DataError, raise_if_any
from survq.data.ranges import opened_parquet

SCHEMA = pa.schema(
    [
        ("features", pa.large_binary()),  # float16, (patch, feature), C-order
        ("coordinates", pa.large_binary()),  # int32, (patch, 2): top-left corner in level-0 pixels; or null
        # the index: last in a file, where one request to a bucket finds it
        ("slide_id", pa.string()),
        ("case_id", pa.string()),
        ("patches", pa.int32()),
        ("width", pa.int32()),
        ("patch_size", pa.int32()),  # side of a patch in level-0 pixels; or null
        ("magnification", pa.float32()),  # of level 0, rounded: 40 for a scan at 40x; or null
        ("encoder", pa.string()),
        ("sha256", pa.string()),  # of `features`
    ]
)
INDEX_THREADS = 16  # metadata of files read in parallel, as each read from a bucket has a high latency
INDEX = [name for name in SCHEMA.names if name not in ("features", "coordinates")]
SOURCE = b"source"  # key of the file's metadata that describes the source of its slide
TO_READ = ("file", "row_group", "features_end", "slide_id", "patches", "width", "sha256")
"""What `read_slides` needs of a row of the index. `features_end` is a place in the file; 0 if features are encoded."""


def slide_index(folder: Location) -> pd.DataFrame:
    """The index of a features folder, see `read_index`. Raises DataError where any of its files cannot be read."""
    index, problems = read_index(folder)
    raise_if_any(problems)
    return index


def read_index(folder: Location) -> tuple[pd.DataFrame, list[str]]:
    """INDEX, source, file, row_group and features_end of the readable slides, by id; and the problems of the others."""
    files = [folder / name for name in folder.names() if name.endswith(".parquet")]
    with ThreadPoolExecutor(INDEX_THREADS) as threads:
        read = list(threads.map(_read_index, files))
    where = [("source", pa.string()), ("file", pa.string()), ("row_group", pa.int64()), ("features_end", pa.int64())]
    none = pa.schema([*(SCHEMA.field(name) for name in INDEX), *where]).empty_table()
    index = pa.concat_tables([none, *(part for part, _ in read if part is not None)]).to_pandas()
    problems = [problem for _, problems in read for problem in problems]
    return index.set_index("slide_id", drop=False).rename_axis(None), problems


def _read_index(file: Location) -> tuple[pa.Table | None, list[str]]:
    """The rows of one file without features and coordinates, or None; and its problems."""
    try:
        with opened_parquet(file) as parquet:
            types = {field.name: field.type for field in parquet.schema_arrow}
            if missing := [field.name for field in SCHEMA if types.get(field.name) != field.type]:
                fix = "Fix: import the features again."
                return None, [f"{file}: lacks the columns {missing}, or they have other types. {fix}"]
            if not 0 < parquet.num_row_groups == parquet.metadata.num_rows:
                return None, [f"{file}: does not have one row group per slide. Fix: import the features again."]
            source = (parquet.schema_arrow.metadata or {}).get(SOURCE, b"").decode()
            part = parquet.read(columns=INDEX, use_threads=False).select(INDEX).replace_schema_metadata()
            ends = [_features_end(parquet.metadata.row_group(group)) for group in range(parquet.num_row_groups)]
    except UNREADABLE as error:
        return None, [unreadable(file, error)]
    further: dict[str, list] = {"source": [source] * len(part), "file": [file.path] * len(part)}
    further |= {"row_group": [*range(len(part))], "features_end": ends}
    for name, values in further.items():
        part = part.append_column(name, pa.array(values, pa.string() if name in ("source", "file") else pa.int64()))
    return part, []


def _features_end(group: pq.RowGroupMetaData) -> int:
    """Where the features of a row group end in its file, if they are stored as they are; otherwise 0."""
    columns = (group.column(number) for number in range(group.num_columns))
    features = next((column for column in columns if column.path_in_schema == "features"), None)
    if features is None:  # another name: the file is damaged
        return 0
    end = features.data_page_offset + features.total_compressed_size
    plain = features.compression == "UNCOMPRESSED" and not features.has_dictionary_page
    return end if plain and 0 < end < 1 << 62 else 0  # a damaged file may state any number


def read_slides(folder: Location, rows: Sequence[dict]) -> np.ndarray:
    """The features of the slides of these rows of the index, concatenated and verified by their sha256."""
    slides, problems = [], []
    for row in rows:
        file = file_of(folder, row)
        buffer = _whole(_read_plain(file, row), row) or _whole(_read_cell(file, row, "features"), row)
        if buffer is None:
            problems.append(
                f"{file}: the features of slide {row['slide_id']!r} have changed since they were written "
                f"(sha256 differs). Fix: restore the file, or import the slide again."
            )
        elif len(buffer) != 2 * row["patches"] * row["width"]:
            problems.append(
                f"{file}: slide {row['slide_id']!r}: {len(buffer)} bytes of features; expected {row['patches']} "
                f"patches x {row['width']} features x 2 bytes. Fix: import the slide again."
            )
        else:
            slides.append(np.frombuffer(buffer, np.float16).reshape(row["patches"], row["width"]))
    raise_if_any(problems)
    return slides[0] if len(slides) == 1 else np.concatenate(slides)


def _whole(buffer: pa.Buffer | None, row: dict) -> pa.Buffer | None:
    """The features, if they are those that were written."""
    return buffer if buffer is not None and hashlib.sha256(buffer).hexdigest() == row["sha256"] else None


def read_case(cases: pa.Table, folder: Location, dtypes: Sequence[str]) -> pa.Table:
    """One row (case_id, slides as JSON rows of the index) to one row (case_id, patches, and a column per dtype).

    `dtypes` are float16, as stored, and bfloat16.
    """
    (case,) = cases.to_pylist()
    bag = read_slides(folder, json.loads(case["slides"]))
    cells = {dtype: binary_cell(bag if dtype == "float16" else _as_bfloat16(bag)) for dtype in dtypes}
    return pa.table({"case_id": [case["case_id"]], "patches": [len(bag)], **cells})


def _as_bfloat16(bag: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, which NumPy lacks: as uint16."""
    import torch  # slow to import, and only needed for this conversion

    from survq.data.half_floats import as_tensor, converted

    return converted(as_tensor(bag), torch.bfloat16).view(torch.uint16).numpy()


def binary_cell(content: np.ndarray) -> pa.Array:
    """A column of one cell with the bytes of an array, which are not copied."""
    ends = np.array([0, content.nbytes], np.int64)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(content)])


def case_of_row(table: pa.Table) -> str:
    (case_id,) = table["case_id"].to_pylist()
    return case_id


def read_coordinates(folder: Location, row: dict) -> np.ndarray | None:
    """The coordinates of the slide of a row of the index, (patch, 2), int32; None if it has none."""
    file = file_of(folder, row)
    buffer = _read_cell(file, row, "coordinates")
    if buffer is None:
        return None
    if len(buffer) != 8 * row["patches"]:
        raise DataError(
            [
                f"{file}: slide {row['slide_id']!r}: {len(buffer)} bytes of coordinates for {row['patches']} "
                f"patches; expected 8 per patch. Fix: import the slide again."
            ]
        )
    return np.frombuffer(buffer, np.int32).reshape(-1, 2)


def file_of(folder: Location, row: dict) -> Location:
    """The file of the slide of a row of the index."""
    return Location(folder.filesystem, row["file"])


def _read_plain(file: Location, row: dict) -> pa.Buffer | None:
    """The bytes where the features of a row end, in one request; None if they are not stored as they are."""
    count = 2 * row["patches"] * row["width"]
    try:
        with file.filesystem.open_input_file(file.path) as source:
            if not 0 < count < row["features_end"] <= source.size():
                return None
            source.seek(row["features_end"] - count)
            return source.read_buffer(count)
    except UNREADABLE as error:
        raise DataError([unreadable(file, error)]) from error


def _read_cell(file: Location, row: dict, column: str) -> pa.Buffer | None:
    # features are verified by their sha256, the other columns by page checksums
    verify = column != "features"
    try:
        with (
            file.filesystem.open_input_file(file.path) as source,
            # read in pieces, or the cell would be in memory twice
            pq.ParquetFile(source, page_checksum_verification=verify, buffer_size=2**20, pre_buffer=False) as parquet,
        ):
            group = parquet.read_row_group(int(row["row_group"]), columns=[column], use_threads=False)
            (value,) = group.column(column)
    except UNREADABLE as error:
        raise DataError([unreadable(file, error)]) from error
    return value.as_buffer() if value.is_valid else None
