"""One process at a time: a lock that dies with its holder, and says who that is."""

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
    """Another process works here."""

    exit_code = IN_USE


@contextmanager
def locked(file: Path, what: object, fix: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock that is `file`, which goes when it is given back.

    While another process holds it, raises InUse, with who that is and the mend; or says so on stderr, and waits.
    """
    has_said = False
    while True:
        with file.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                message = f"{what} is in use by {handle.read().strip() or 'another process'}. Fix: {fix}."
                if not wait:
                    raise InUse(message) from None
                if not has_said:
                    print(f"survq: waiting: {message}", file=sys.stderr, flush=True)
                has_said = True
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not _is_still(file, handle.fileno()):
                continue  # its last holder took it away after it was opened here
            handle.truncate(0)
            handle.write(f"process {os.getpid()} on {socket.gethostname()}")
            handle.flush()
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_still(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
