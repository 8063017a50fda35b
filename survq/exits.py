"""How a program of survq ends: user errors with a message and an exit code, bugs with a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from survq.output import unfailing_output

USAGE, DATA, MISSING, UNAVAILABLE, STORAGE, IN_USE = 64, 65, 66, 69, 74, 75  # as in sysexits.h


class UserError(Exception):
    """An error that the user can fix. The message states the problem, its place and the fix."""

    exit_code: int


class UsageError(UserError, ValueError):  # a ValueError, because tyro shows those of a dataclass beside the usage
    """An invalid flag, setting or address."""

    exit_code = USAGE


@contextmanager
def exit_on_user_error(interrupted: str = "interrupted") -> Iterator[None]:
    """End the program with a message and an exit code on a user error; `interrupted` is the message after Ctrl-C."""
    with unfailing_output():
        try:
            yield
        except UserError as error:
            exit_with(error, error.exit_code)
        except FileNotFoundError as error:
            exit_with(error, MISSING)
        except OSError as error:
            exit_with(f"{error}{_space(error)}", STORAGE)
        except KeyboardInterrupt:
            exit_with(interrupted, 128 + (_received or signal.SIGINT))


def exit_with(message: object, code: int) -> None:
    """Print the message to stderr and end the program. Raises SystemExit."""
    print(f"survq: {message}", file=sys.stderr)
    sys.exit(code)


def _space(error: OSError) -> str:
    """For a full disk, or a quota: what is free there, and what to do."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    folders = [folder for folder in Path(error.filename or os.curdir).absolute().parents if folder.is_dir()]
    free = f"; {shutil.disk_usage(folders[0]).free:,} bytes are free in {folders[0]}" if error.filename else ""
    return f"{free}. Fix: free space there, and run the same command again."


_received: int = 0  # the signal that ends this process, if other than SIGINT


def end_on_signals() -> None:
    """From now on SIGTERM and SIGHUP end the program like Ctrl-C. Only the main thread may ask for that.

    A hang-up that is ignored, as under nohup, stays ignored.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, terminate)


def terminate(number: int, _: object) -> None:
    """Their handler: a spot instance is reclaimed, a time limit reached, a container stopped, a connection dropped."""
    global _received
    _received = number
    raise KeyboardInterrupt  # the only exception that passes through Ray's waits


@contextmanager
def keeping_signals() -> Iterator[None]:
    """Around code that sets handlers of its own, or loses what a handler raises, as the start of Ray does.

    Signals that arrive within the block end the program at its end at the latest, and so do those after it.
    """
    end_on_signals()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)  # as Python asks for
    before, arrived = signal.set_wakeup_fd(writing), b""
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        end_on_signals()
        with suppress(BlockingIOError):
            arrived = os.read(reading, 100)
        os.close(reading)
        os.close(writing)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if number in arrived:
                terminate(number, None)  # in place of what has been raised, such as the SystemExit of Ray
