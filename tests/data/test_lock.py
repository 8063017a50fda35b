"""One process holds a lock at a time; others wait or are refused."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest

from survq.data.lock import InUse, locked

HOLDER = """
import sys
from pathlib import Path
from survq.data.lock import locked
with locked(Path(sys.argv[1]), "it", "wait"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock until its stdin is closed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_waiting_names_the_holder_and_ends_with_the_lock(tmp_path, holder, capsys):
    threading.Timer(0.3, holder.stdin.close).start()
    with locked(tmp_path / ".lock", "it", "end that process if it hangs", wait=True):
        assert holder.wait() == 0
        with pytest.raises(InUse, match=rf"by process {os.getpid()} on "), locked(tmp_path / ".lock", "it", "wait"):
            pytest.fail("held twice")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"survq: waiting: it is in use by process {holder.pid} on ")
    assert line.endswith(". Fix: end that process if it hangs.")
    assert os.listdir(tmp_path) == []


def test_without_waiting_the_lock_is_refused(tmp_path, holder, capsys):
    message = rf"it is in use by process {holder.pid} on .*\. Fix: wait\."
    with pytest.raises(InUse, match=message), locked(tmp_path / ".lock", "it", "wait"):
        pytest.fail("held twice")
    assert capsys.readouterr().err == ""


def _count(folder) -> None:
    for _ in range(50):
        with locked(folder / ".lock", "the number", "wait", wait=True):
            (folder / "number").write_text(str(int((folder / "number").read_text()) + 1))


def test_the_lock_is_exclusive(tmp_path):
    """Each process removes the lock file when done, while others may already have it open."""
    (tmp_path / "number").write_text("0")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_count, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "number").read_text() == "200"
    assert os.listdir(tmp_path) == ["number"]
