"""The tasks that read patch features into Ray's object store. A block is a table of one row: a case and its features.

This module does not import PyTorch, directly or indirectly: each process that runs such a task would need two to four
seconds of CPU for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from survq.data.feature_store import case_of_row, read_case
from survq.data.location import Location
from survq.data.problems import BucketUnavailable, DataError

PROBLEMS = "problems"  # column, in place of the features that cannot be read
Problems = list[str] | str  # of the data of a case; or of its bucket, which did not answer


def sees(folder: Path, files: set[str]) -> bool:
    """Whether the node of this process sees these files of a folder."""
    return folder.is_dir() and files <= set(os.listdir(folder))


def read_block(cases: pa.Table, folder: Location, dtypes: Sequence[str]) -> pa.Table:
    """`read_case`, or a row with its problems: raised in a task, they would end the study one by one, as tracebacks."""
    try:
        read, problems = read_case(cases, folder, dtypes), None
    except (DataError, BucketUnavailable) as error:
        cells = {dtype: pa.nulls(1, pa.large_binary()) for dtype in dtypes}
        read = pa.table({"case_id": cases["case_id"], "patches": [0], **cells})
        problems = json.dumps(error.problems if isinstance(error, DataError) else str(error))
    return read.append_column(PROBLEMS, pa.array([problems], pa.string()))


def read_and_check(case: dict, settings: dict) -> tuple[pa.Table, Problems]:
    """A block and its problems, from a row of a case and the other arguments of `read_block`."""
    block = read_block(pa.Table.from_pylist([case]), **settings)
    return block, case_and_problems(block)[1]


def keep_copy(block: pa.Table) -> tuple[pa.Table, Problems]:
    """The block itself: as the result of a task, it is kept by the node on which the task ran."""
    return block, case_and_problems(block)[1]


def case_and_problems(block: pa.Table) -> tuple[str, Problems]:
    (problems,) = block[PROBLEMS].to_pylist()
    return case_of_row(block), json.loads(problems) if problems else []
