"""Before Ray starts: what may be used of this machine, where a cluster is, and what Ray's errors mean for the user.

Ray itself would wait up to a quarter of an hour for a cluster that is gone, and several minutes on a full disk.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import survq
from survq.exits import UNAVAILABLE, UserError
from survq.text import shortened

JOIN_SECONDS = 45  # a cluster that is up answers within a few
FREE_MB = 100  # that Ray's log and sockets need at least
HERE = "Fix: unset RAY_ADDRESS to run on this machine"
THERE = "on a cluster, start the study on one of its nodes with RAY_ADDRESS=auto, as `ray submit` does"


class RayUnavailable(UserError, ConnectionError):
    """Ray cannot be started on this machine, or its cluster cannot be joined."""

    exit_code = UNAVAILABLE


def usable_cpus() -> int:
    """The CPUs that this process may use: of its affinity, its Slurm job and its container's quota, the smallest."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if (value := os.environ.get(name, "")).isdecimal():
            counts.append(int(value))
            break
    return max(1, min([*counts, *_quota()]))


def job_memory() -> int | None:
    """The bytes of memory that Slurm gives this job on a node; None outside of Slurm, or where it does not say."""
    megabytes = os.environ.get("SLURM_MEM_PER_NODE", "")
    return int(megabytes) * 2**20 if megabytes.isdecimal() and int(megabytes) else None


def _quota(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The whole CPUs that a container's quota allows, under either version of control groups."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / file).read_text() for file in files).split()
            if int(quota) > 0:
                yield max(1, int(quota) // int(period))
        except (OSError, ValueError):
            continue  # no such file, or "max": no quota


def check_address(address: str) -> None:
    """Raise RayUnavailable unless RAY_ADDRESS has the form of a cluster's address and something listens there."""
    said = f"RAY_ADDRESS={address}"
    if address == "auto":
        return
    if address == "local":
        raise RayUnavailable(
            f"{said}: such a Ray listens on all network interfaces. Fix: unset RAY_ADDRESS; survq then starts a "
            f"private Ray on this machine."
        )
    if "://" in address:
        what = "the client's" if address.startswith("ray://") else "the dashboard's"
        raise RayUnavailable(
            f"{said} is {what} address, and a study has to run on the cluster itself. {HERE}; {THERE}."
        )
    parts = re.fullmatch(r"\[?([^\[\]\s]+?)\]?:(\d{1,5})", address)
    if not parts or not 0 < int(parts[2]) < 2**16:
        raise RayUnavailable(f"{said}; expected HOST:PORT of a cluster's head node, or auto. {HERE}; {THERE}.")
    try:
        socket.create_connection((parts[1], int(parts[2])), timeout=15).close()
    except OSError as error:
        raise RayUnavailable(f"{said}: no cluster is there ({error.strerror or error}). {HERE}; {THERE}.") from error


def check_cluster(address: str) -> None:
    """Raise RayUnavailable unless a process can join the cluster within JOIN_SECONDS."""
    probe = "import ray, sys; ray.init(sys.argv[1], logging_level='CRITICAL', log_to_driver=False)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe, address], capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=JOIN_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RayUnavailable(_not_joined(address, f"no answer within {JOIN_SECONDS} seconds")) from error
    if done.returncode:
        raise RayUnavailable(_not_joined(address, reason_of(done.stderr)))


@cache
def versions() -> dict[str, str]:
    """What the results of a process depend on: the code of survq, and the versions of what computes."""
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(file.read_bytes())
    found = {name: metadata.version(name).partition("+")[0] for name in ("ray", "torch", "numpy")}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"survq": f"{survq.__version__} with code {code.hexdigest()[:8]}", "Python": python, **found}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What another process has in place of the versions here, in words; empty if it has the same."""
    differing = (name for name, version in here.items() if there.get(name) != version)
    return ", ".join(f"{name} {there.get(name)} in place of {here[name]}" for name in differing)


def _not_joined(address: str, reason: str) -> str:
    fix = f"{HERE}; on a cluster, see with `ray status` that it is up"
    token = re.search(r"(?i)token|auth|unauthenticated", reason)
    return (
        f"RAY_ADDRESS={address}: the cluster cannot be joined ({reason}). {fix}"
        f"{', and' if token else '; or'} give this process its token (RAY_AUTH_MODE=token and ~/.ray/auth_token)."
    )


@contextmanager
def private_start() -> Iterator[None]:
    """Around the start of a private Ray: raise RayUnavailable if it cannot start here, or if it fails to."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    _check_folder(folder)
    try:
        yield
    except Exception as error:
        reason = reason_of(str(error))
        for sign, explain in CAUSES.items():
            if sign in reason:
                raise RayUnavailable(explain(folder)) from error
        raise RayUnavailable(
            f"Ray cannot be started on this machine ({reason}). Fix: free memory or processes, or set RAY_TMPDIR to "
            f"another folder with a short name; the log is in {folder / 'ray/session_latest/logs'}."
        ) from error


CAUSES: dict[str, Callable[[Path], str]] = {
    "AF_UNIX path length": lambda folder: (
        f"{folder}: its path is too long for the sockets of Ray, which keeps them there. Fix: set RAY_TMPDIR to a "
        f"folder with a short name, such as /tmp."
    ),
}
"""What a start of Ray raises -> what it means."""


def _check_folder(folder: Path) -> None:
    """Raise RayUnavailable unless Ray can write its log and sockets to `folder`/ray."""
    fix = "Fix: set RAY_TMPDIR to a folder with a short name that you may write to, with some gigabytes free."
    place = folder / "ray"
    while not place.exists() and place != place.parent:
        place = place.parent  # Ray creates the others, such that all users may write there
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
        disk = os.statvfs(place)
    except OSError as error:
        raise RayUnavailable(f"{place}: Ray cannot write there ({error.strerror or error}). {fix}") from error
    if (free := disk.f_bavail * disk.f_frsize) < FREE_MB * 2**20:
        raise RayUnavailable(f"{place}: {free / 1e6:.0f} MB are free there, and Ray needs {FREE_MB} at least. {fix}")


def reason_of(text: str) -> str:
    """The message of the last error in what a program wrote, without the log of Ray around it, in one line."""
    lines = [line.strip() for line in text.strip().splitlines()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception): \S", line)]
    said = errors[-1] if errors else next((line for line in lines if line), "no reason given")
    return shortened(re.sub(r"^(\w+\.)*\w*(Error|Exception): ", "", said), 300)
