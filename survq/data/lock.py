"""One process at a time: a lock that dies with its holder, and says who that is."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from survq.exits import IN_USE, Mendable


class InUse(Mendable):
    """Another process works here."""

    exit_code = IN_USE


@contextmanager
def locked(file: Path, what: object, mend: str) -> Iterator[None]:
    """Hold the lock that is `file`, which goes when it is given back. Raises InUse, with who holds it and the mend."""
    while True:
        handle = file.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise InUse(f"{what} is in use by {holder}. Mend: {mend}.") from None
        if _is_still(file, handle.fileno()):
            break
        handle.close()  # its last holder took it away between the two lines above
    with handle:
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _is_still(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
