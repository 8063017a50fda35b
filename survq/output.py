"""What is printed never ends a program: a study of two days must not die of a closed terminal or an unknown letter."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

PLAIN = str.maketrans({"±": "+-", "×": "x", "─": "-", "━": "-", "│": "|", "┃": "|", "…": "...", "µ": "u", "≥": ">="})
"""In place of letters that an encoding lacks. Others become question marks."""


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Within the block, what stdout and stderr cannot show is replaced, and what they do not take any more is lost."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Unfailing(stream) for stream in streams)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = streams


class _Unfailing:
    """A text stream around another one, whose writing does not raise."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.translate(PLAIN).encode(encoding, "replace").decode(encoding))
        except OSError:
            self._abandon()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._abandon()

    def _abandon(self) -> None:
        """Write to nowhere from now on: also what is in the buffer, at the end of the program."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def stderr_without(pattern: str) -> Iterator[None]:
    """Keep back what the block writes to stderr, also from C; after it, show all but the lines that match `pattern`."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            os.close(shown)
            written.seek(0)
            lines = [line for line in written if not re.search(pattern.encode(), line)]
            with suppress(OSError):  # nobody reads it any more
                os.write(2, b"".join(lines))
