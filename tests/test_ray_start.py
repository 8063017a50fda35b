"""Before Ray starts: what may be used of the machine, and words for every address and folder that cannot work."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from survq.ray_start import RayUnavailable, _quota, check_address, check_cluster, job_memory, private_start, usable_cpus
from survq.settings import StudySettings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux")
def test_the_cpus_are_those_of_the_process():
    """As under `taskset`, and under Slurm where it binds processes to cores."""
    one = sorted(os.sched_getaffinity(0))[:1]
    program = (
        f"import os; os.sched_setaffinity(0, {one}); from survq.ray_start import usable_cpus; print(usable_cpus())"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True) == "1\n"


def test_the_cpus_and_the_memory_are_those_of_the_slurm_job(monkeypatch):
    assert job_memory() is None
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "64")
    assert 1 <= usable_cpus() <= 64
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "3000")
    assert usable_cpus() == 1 and job_memory() == 3000 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    assert job_memory() is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "250000 100000\n"}, [2]),
        ({"cpu.max": "50000 100000\n"}, [1]),
        ({"cpu.max": "max 100000\n"}, []),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, [4]),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ({}, []),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, quota):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert list(_quota(tmp_path)) == quota


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("local", "listens on all network interfaces. Fix: unset RAY_ADDRESS"),
        ("http://127.0.0.1:8265", "the dashboard's address"),
        ("https://ray.example.org", "the dashboard's address"),
        ("ray://head:10001", "the client's address"),
        ("head", "expected HOST:PORT"),
        ("head:port", "expected HOST:PORT"),
        ("10.0.0.1:6379:1", "no cluster is there"),
        ("10.0.0.1:99999", "expected HOST:PORT"),
        ("no-such-host.invalid:6379", "no cluster is there"),
    ],
)
def test_what_is_no_address_of_a_cluster(address, said):
    with pytest.raises(RayUnavailable) as refused:
        check_address(address)
    message = str(refused.value)
    assert message.startswith(f"RAY_ADDRESS={address}") and said in message and "unset RAY_ADDRESS" in message


def test_a_dead_cluster_is_known_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(RayUnavailable, match=r"no cluster is there .*unset RAY_ADDRESS"):
            check_address(address)
        assert time.monotonic() - start < 10


def test_what_does_not_answer_as_a_cluster_is_given_up(monkeypatch):
    """A port that accepts connections and says nothing, as of a frozen head node."""
    monkeypatch.setattr("survq.ray_start.JOIN_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        check_address(address)
        with pytest.raises(RayUnavailable, match=r"no answer within 2 seconds.*RAY_AUTH_MODE=token"):
            check_cluster(address)


def test_a_folder_in_which_ray_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "ray").write_text("not a folder")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with (
        pytest.raises(RayUnavailable, match=r"ray: Ray cannot write there \(.+\)\. Fix: set RAY_TMPDIR"),
        private_start(),
    ):
        pytest.fail("started")


def test_a_folder_without_space(tmp_path, monkeypatch):
    monkeypatch.setattr("survq.ray_start.FREE_MB", 10**9)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(RayUnavailable, match=r"MB are free there"), private_start():
        pytest.fail("started")


def test_what_ray_raises_becomes_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    said = r"^Ray cannot be started on this machine \(no luck\)\. Fix: free memory .*logs"
    with pytest.raises(RayUnavailable, match=said), private_start():
        raise RuntimeError("no luck\nat all")
    assert list(tmp_path.iterdir()) == [], "Ray makes its folder itself, such that other users may write to it"


def test_the_path_of_ray_is_too_long_for_sockets(tmp_path):
    """Found by Ray's own check."""
    folder = tmp_path / ("a" * 90)
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    program = "from survq.exits import *\nfrom survq.ray_session import connect\nwith exit_on_user_error(): connect(1)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1].startswith(f"survq: {folder}: its path is too long for the sockets of Ray")
    assert "Traceback" not in done.stderr and "RAY_TMPDIR" in done.stderr


@pytest.mark.parametrize("given", ["s3://bucket/results", "gs://bucket", "hdfs://host/path"])
def test_results_in_a_bucket_are_refused(given):
    """A path keeps one of the two slashes: once, results went to a folder named `s3:`."""
    with pytest.raises(ValueError) as refused:
        StudySettings(results=Path(given))
    assert f"--results {given}: results need a folder" in str(refused.value) and "Fix: " in str(refused.value)


STARTING = """
import os, signal, sys
from survq.exits import exit_on_user_error, keeping_signals
with exit_on_user_error("stopped"):
    with keeping_signals():
        if sys.argv[1] == "lost":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except BaseException:
                pass  # as where C calls Python
        else:
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        if sys.argv[1] == "handled otherwise":
            os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[1] == "later":
        os.kill(os.getpid(), signal.SIGTERM)
    print("it went on")
"""


@pytest.mark.parametrize("signal_is", ["lost", "handled otherwise", "later"])
def test_a_signal_while_ray_starts_ends_the_program_with_a_sentence(signal_is):
    """Of these kinds are Ray's handler, and what its start loses. tests/faults/test_start_stopped.py does it to Ray."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", STARTING, signal_is], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "survq: stopped\n")
