"""A bucket is asked twice for the index of a slide and twice for its features, and sends little else."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from survq.data.feature_store import INDEX, read_coordinates, read_index, read_slides
from survq.data.location import Location
from survq.data.ranges import TAIL
from survq.data.write import Slide, write_slide

SERVER = Path(__file__).parents[1] / "cluster" / "s3_server.py"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder, the same folder as a bucket, and a function that returns the requests since the last call of it."""
    folder, log = tmp_path / "served" / "features", tmp_path / "requests"
    folder.mkdir(parents=True)
    log.touch()
    command = [sys.executable, str(SERVER), str(folder.parent), "127.0.0.1", "0", str(log)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.stdout.readline().strip()}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def asked() -> tuple[Counter, int]:
        lines = [line.split() for line in log.read_text().splitlines()]
        log.write_text("")
        of_slides = [(method, int(sent)) for method, path, sent in lines if path.endswith(".parquet")]
        return Counter(method for method, _ in of_slides), sum(sent for _, sent in of_slides)

    yield folder, Location.at("s3://bucket/features"), asked
    server.kill()
    server.wait()


def test_a_slide_takes_two_requests_for_the_index_and_two_for_its_features(bucket):
    folder, stored, asked = bucket
    random = np.random.default_rng(0)
    features = {f"S{i}": random.standard_normal((300 + i, 512)).astype(np.float16) for i in range(3)}
    for name, bag in features.items():
        write_slide(folder, Slide(name, "C", bag, np.ones((len(bag), 2), np.int32), 448, 40.0))

    index, problems = read_index(stored)
    assert not problems and sorted(index.index) == sorted(features)
    requests, sent = asked()
    assert requests == {"HEAD": 3, "GET": 3} and sent <= 3 * TAIL

    rows = index.loc[list(features)].to_dict("records")
    np.testing.assert_array_equal(read_slides(stored, rows), np.concatenate(list(features.values())))
    requests, sent = asked()
    assert requests == {"HEAD": 3, "GET": 3} and sent == sum(bag.nbytes for bag in features.values())
    assert (read_coordinates(stored, rows[0]) == 1).all()


@pytest.mark.parametrize("several", [False, True], ids=["one slide a file", "several slides a file"])
@pytest.mark.parametrize("options", [{}, {"compression": "none", "use_dictionary": False}], ids=["encoded", "plain"])
def test_files_of_other_writers_are_read_whatever_their_layout(bucket, options, several):
    """Compressed or with the index before the features, as survq wrote it before."""
    folder, stored, _ = bucket
    bags = [np.random.default_rng(i).standard_normal((200, 256)).astype(np.float16) for i in range(1 + several)]
    rows = [Slide(f"S{i}", "C", bag).table() for i, bag in enumerate(bags)]
    order = ["slide_id", "case_id", "features", *INDEX[2:], "coordinates"]
    pq.write_table(pa.concat_tables(rows).select(order), folder / "other.parquet", row_group_size=1, **options)
    index, problems = read_index(stored)
    assert not problems and (index["features_end"] > 0).all() == bool(options)
    np.testing.assert_array_equal(read_slides(stored, index.to_dict("records")), np.concatenate(bags))
