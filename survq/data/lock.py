"""A lock between processes. It ends with the process that holds it, and names that process."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from survq.exits import IN_USE, UserError


class InUse(UserError):
    """Another process holds the lock."""

    exit_code = IN_USE


@contextmanager
def locked(file: Path, what: object, fix: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `file`, which is removed on release.

    If another process holds it, raise InUse, which names that process; or with `wait`, notify on stderr and wait.
    """
    notified = False
    while True:
        with file.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                message = f"{what} is in use by {handle.read().strip() or 'another process'}. Fix: {fix}."
                if not wait:
                    raise InUse(message) from None
                if not notified:
                    print(f"survq: waiting: {message}", file=sys.stderr, flush=True)
                notified = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_same_file(file, handle.fileno()):
                continue  # its last holder removed it after this process had opened it
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_same_file(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
