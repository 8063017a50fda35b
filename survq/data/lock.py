"""A lock between processes. It ends with the process that holds it, and names that process.

Some shared file systems (Lustre and NFS, mounted in some ways) have no such locks. There a marker file is the lock, and
it stays if its process is killed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from survq.exits import IN_USE, UserError

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
PATIENCE = 1.0  # seconds between looks at a marker file


class InUse(UserError):
    """Another process holds the lock."""

    exit_code = IN_USE


@contextmanager
def locked(file: Path, what: object, fix: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file`, which is removed on release.

    If another process holds it, raise InUse, which names that process; or with `wait`, notify on stderr and wait.
    """
    notified = marker = False
    while True:
        with file.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                notified = _refuse_or_notify(handle.read(), what, fix, wait, notified)
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                marker = True
            if marker:
                with _marked(file, what, fix, wait):
                    yield
                return
            if not _is_same_file(file, handle.fileno()):
                continue  # its last holder removed it after this process had opened it
            handle.truncate(0)
            with suppress(OSError):  # a note for people; a full disk shows itself where it matters
                os.write(handle.fileno(), _this_process().encode())
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


@contextmanager
def _marked(file: Path, what: object, fix: str, wait: bool) -> Iterator[None]:
    """Hold the lock by a file beside it that only one process can create."""
    marker, notified = file.with_name(file.name + ".held"), False
    while True:
        try:
            handle = os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            break
        except FileExistsError:
            holder = _read(marker)
            if _has_ended(holder):
                _remove(marker, holder)
                continue
            known = f"{fix}; or, if that process has ended, delete {marker}: this file system has no locks"
            notified = _refuse_or_notify(holder, what, known, wait, notified)
            time.sleep(PATIENCE)
    with os.fdopen(handle, "w") as opened:
        opened.write(_this_process())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        marker.unlink(missing_ok=True)


def _refuse_or_notify(holder: str, what: object, fix: str, wait: bool, notified: bool) -> bool:
    who = holder.partition("\n")[0].strip() or "another process"
    message = f"{what} is in use by {who}. Fix: {fix}."
    if not wait:
        raise InUse(message)
    if not notified:
        print(f"survq: waiting: {message}", file=sys.stderr, flush=True)
    return True


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}\n{_numbers_of_processes()}"


def _numbers_of_processes() -> str:
    """What a process number belongs to. A container may share its name with its machine, or with another container."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # macOS
        return ""


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _remove(marker: Path, holder: str) -> None:
    """Remove the marker of a holder that has ended, unless another process has done so and put up its own."""
    aside = marker.with_name(f"{marker.name}-{os.getpid()}")
    with suppress(FileNotFoundError):
        marker.rename(aside)
        if _read(aside) == holder:
            aside.unlink()
        else:
            aside.rename(marker)


def _has_ended(holder: str) -> bool:
    """Whether the holder was a process of this machine, and is no more. Of other machines that cannot be known."""
    process = re.fullmatch(r"process (\d+) on (.+)\n(.*)", holder)
    if not process or process.groups()[1:] != (socket.gethostname(), _numbers_of_processes()):
        return False
    try:
        os.kill(int(process[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _is_same_file(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
