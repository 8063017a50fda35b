"""One flipped bit anywhere in a feature store is noticed before it changes a number.

A flip in a part of Parquet's own description that nothing reads leaves all that is read as it was, to the last bit; and
a flip in the note of a slide's source makes the slide be imported again.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from survq.data.feature_store import INDEX, read_coordinates, read_index, read_slides
from survq.data.location import Location
from survq.data.problems import DataError
from survq.data.write import Slide, write_features

FLIPS = 300


@pytest.fixture
def store(tmp_path) -> Path:
    random = np.random.default_rng(0)
    write_features(
        tmp_path,
        (
            Slide(
                *(f"TCGA-AA-{number:04d}-01Z-00-DX1", f"TCGA-AA-{number:04d}"),
                random.normal(size=(30 + number, 24)).astype(np.float16),
                random.integers(0, 90_000, (30 + number, 2)).astype(np.int32),
                *(448, 40.0, "uni_v1"),
            )
            for number in range(3)
        ),
    )
    return tmp_path


def content(folder: Location) -> list | None:
    """All that survq reads of a store, to the last bit; None if it names a problem, as `survq check --deep` does."""
    index, problems = read_index(folder)
    rows = index.to_dict("records")
    try:
        bags = [read_slides(folder, [row]).tobytes() for row in rows]
        corners = [read_coordinates(folder, row) for row in rows]
    except DataError:
        return None
    cells = [[str(row[name]) for name in INDEX] for row in rows]
    return None if problems else [cells, bags, [part.tobytes() for part in corners if part is not None]]


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.faults), pytest.param(2, marks=pytest.mark.faults)]
)
def test_no_flipped_bit_of_a_feature_store_changes_what_is_read(store, seed):
    random, whole, found = np.random.default_rng(seed), content(Location.at(store)), Counter()
    assert whole is not None
    files = sorted(store.glob("*.parquet"))
    for _ in range(FLIPS):
        file = files[random.integers(len(files))]
        before = file.read_bytes()
        flipped = bytearray(before)
        flipped[random.integers(len(flipped))] ^= 1 << random.integers(8)
        file.write_bytes(flipped)
        now = content(Location.at(store))
        found["caught" if now is None else "without effect" if now == whole else "wrong"] += 1
        file.write_bytes(before)
    assert found["wrong"] == 0 and found["caught"] > FLIPS / 2, found
