"""F25: a bucket that is busy costs time; one that is down or does not answer ends the program, with a sentence."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults  # the SDK of the bucket tries ten times, and waits longer each time
ROOT = Path(__file__).resolve().parents[2]


def check(data: Path, folder: Path, fault: str) -> tuple[int, str, float, Counter]:
    """`survq check --deep` of a data folder in such a bucket: exit code, output, seconds and answers."""
    log = folder / "requests"
    log.touch()
    server = [sys.executable, str(ROOT / "tests/cluster/s3_server.py"), str(data.parent), "127.0.0.1", "0", str(log)]
    with subprocess.Popen([*server, fault], stdout=subprocess.PIPE, text=True) as process:
        try:
            told = {
                **{"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{process.stdout.readline().strip()}"},
                **{"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "-", "AWS_DEFAULT_REGION": "us-east-1"},
                **{"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(ROOT)},
            }
            command = [sys.executable, "-m", "survq.cli", "check", f"s3://bucket/{data.name}", "--deep"]
            start = time.monotonic()
            done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=300)
            took = time.monotonic() - start
        finally:
            process.kill()
    answers = Counter(line.split()[0] for line in log.read_text().splitlines())
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
