"""How a program of survq ends: what its user can mend is a sentence and an exit code, a bug is a traceback."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USAGE, DATA, MISSING, STORAGE, IN_USE = 64, 65, 66, 74, 75  # as sysexits.h has them


class UserError(Exception):
    """What the user can mend. The message says what, where and how; `exit_code` is what the program ends with."""

    exit_code: int


class UsageError(UserError, ValueError):  # a ValueError: tyro shows those of a dataclass of flags beside its usage
    """What was asked for cannot be done: by a flag, a setting or an address."""

    exit_code = USAGE


@contextmanager
def exit_on_user_error(interrupted: str = "interrupted") -> Iterator[None]:
    """End the program with a sentence and an exit code for what its user can mend; `interrupted` is that of Ctrl-C."""
    try:
        yield
    except UserError as error:
        end(error, error.exit_code)
    except FileNotFoundError as error:
        end(error, MISSING)
    except OSError as error:
        end(error, STORAGE)
    except KeyboardInterrupt:
        end(interrupted, 128 + (_received or signal.SIGINT))


def end(sentence: object, code: int) -> None:
    """End the program. Raises SystemExit."""
    print(f"survq: {sentence}", file=sys.stderr)
    sys.exit(code)


_received: int = 0  # the signal that ends this process, where it is not Ctrl-C


def terminate(number: int, _: object) -> None:
    """What to do on SIGTERM: a spot instance goes away, a queue's time is up, a container is stopped."""
    global _received
    _received = number
    raise KeyboardInterrupt  # the only exception that Ray lets through while it waits
