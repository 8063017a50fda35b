"""One process holds a lock at a time; others wait or are refused."""

import multiprocessing
import os
import platform
import socket
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


WITHOUT_LOCKS = """
import ctypes, platform, struct
# a filter of system calls: flock fails as on a file system without locks (ENOSYS)
number = {"x86_64": 73, "aarch64": 32}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
assert libc.prctl(22, 2, program, 0, 0) == 0, "no seccomp"
"""


@pytest.fixture
def without_locks(tmp_path):
    """without_locks(): start a process that holds the lock until its stdin is closed, where flock does not exist."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the filter of system calls is written for Linux")
    started = []

    def start() -> subprocess.Popen:
        command = [sys.executable, "-c", WITHOUT_LOCKS + HOLDER, str(tmp_path / ".lock")]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_without_locks_of_the_file_system_a_second_process_is_refused(tmp_path, without_locks):
    first = without_locks()
    assert first.stdout.readline() == "held\n"
    second = without_locks()
    said = second.communicate(timeout=60)[1].splitlines()[-1]
    assert f"it is in use by process {first.pid} on {socket.gethostname()}. Fix: wait; or, if that process" in said
    assert f"delete {tmp_path / '.lock.held'}" in said
    first.communicate(timeout=60)
    assert os.listdir(tmp_path) == []


def test_without_locks_of_the_file_system_a_killed_process_is_not_missed(tmp_path, without_locks):
    first = without_locks()
    assert first.stdout.readline() == "held\n"
    first.kill()
    first.wait()
    second = without_locks()
    assert second.stdout.readline() == "held\n"
    second.communicate(timeout=60)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", ["another-machine", socket.gethostname()], ids=["machine", "container"])
def test_without_locks_of_the_file_system_a_process_of_elsewhere_has_to_be_looked_after(tmp_path, without_locks, host):
    """A container may have the name of its host: that there is no such process here says nothing about it."""
    (tmp_path / ".lock.held").write_text(f"process 4194305 on {host}\n(of another container)")
    said = without_locks().communicate(timeout=60)[1].splitlines()[-1]
    assert f"in use by process 4194305 on {host}. Fix: " in said and (tmp_path / ".lock.held").exists()


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
