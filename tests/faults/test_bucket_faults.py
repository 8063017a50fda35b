"""F25: a bucket that is busy costs time; one that is down or does not answer ends the program, with a sentence."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults  # the SDK of the bucket tries ten times, and waits longer each time
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def bucket(data: Path, log: Path, fault: str = "") -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """A server of this data folder as s3://bucket/NAME, and the environment in which a program reads it."""
    log.touch()
    server = [sys.executable, str(ROOT / "tests/cluster/s3_server.py"), str(data.parent), "127.0.0.1", "0", str(log)]
    with subprocess.Popen([*server, fault], stdout=subprocess.PIPE, text=True) as process:
        told = {
            **{"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{process.stdout.readline().strip()}"},
            **{"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "-", "AWS_DEFAULT_REGION": "us-east-1"},
            **{"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(ROOT)},
        }
        try:
            yield process, {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | told
        finally:
            process.kill()


def check(data: Path, folder: Path, fault: str) -> tuple[int, str, float, Counter]:
    """`survq check --deep` of a data folder in such a bucket: exit code, output, seconds and answers."""
    with bucket(data, folder / "requests", fault) as (_, told):
        command = [sys.executable, "-m", "survq.cli", "check", f"s3://bucket/{data.name}", "--deep"]
        start = time.monotonic()
        done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=300)
        took = time.monotonic() - start
    answers = Counter(line.split()[0] for line in (folder / "requests").read_text().splitlines())
    return done.returncode, done.stdout + done.stderr, took, answers


def test_a_busy_bucket_is_read_to_the_end(tiny_folder, tmp_path):
    code, said, _, answers = check(tiny_folder, tmp_path, "busy")
    assert code == 0 and "No problems found" in said, said
    assert answers["GET"] > 100


@pytest.mark.parametrize("fault", ["down", "stalled"])
def test_a_bucket_without_answers_ends_the_program_with_a_sentence(tiny_folder, tmp_path, fault):
    code, said, took, _ = check(tiny_folder, tmp_path, fault)
    assert code == 74 and "s3://bucket" in said and "Fix: " in said and "Traceback" not in said, said
    assert len(said.splitlines()) == 1 and took < 240, (took, said)


def test_a_study_waits_once_for_a_bucket_that_falls_silent(tiny_folder, tmp_path):
    """After its tables have been read, and before its 60 slides: none of them would be answered."""
    study = [str(ROOT / "studies/query_counts.py"), "--data", f"s3://bucket/{tiny_folder.name}", "--epochs", "1"]
    with bucket(tiny_folder, tmp_path / "requests") as (server, told):
        command = [sys.executable, *study, "--folds", "2", "--cpus", "1", "--results", str(tmp_path / "results")]
        with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while not process.stdout.readline().startswith("ray on"):
                assert process.poll() is None, process.stderr.read()
            server.send_signal(signal.SIGUSR1)
            _, said = process.communicate(timeout=400)
    requests = [line.split() for line in (tmp_path / "requests").read_text().splitlines()]
    asked = {path for what, path, _ in requests if what == "SILENT"}
    assert process.returncode == 74 and said.startswith("survq: s3://bucket/") and len(said.splitlines()) == 1, said
    assert "the bucket does not answer" in said and "Fix: " in said
    assert 1 <= len(asked) <= 3, "a slide was waited for, and no others after it"
