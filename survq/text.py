"""Text for people: shortened lists and durations."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence

SHOWN = 20  # items of a long list


def itemised(sentences: Sequence[str]) -> list[str]:
    """One line for each of the first sentences, and a last line with the number of the others."""
    more = len(sentences) - SHOWN
    return [f"  - {sentence}" for sentence in sentences[:SHOWN]] + ([f"  ... and {more} more"] if more > 0 else [])


def preview(names: Iterable[object], limit: int = 3) -> str:
    """The first few names, escaped, because ids from users' files may contain anything."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def readable(text: object) -> str:
    """Text that can always be printed and stored: bytes of a path that are not UTF-8 become escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def composed(text: str) -> str:
    """Text in one of the two spellings of letters with marks: macOS writes ä as two characters, others as one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_utf8(path: object) -> bool:
    """Whether the bytes of a path are UTF-8; Python keeps the others as surrogates, which nothing can store."""
    return readable(path) == str(path)


def clock(seconds: float) -> str:
    """A duration as 1:05:09 or 5:09."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def shortened(text: str, limit: int = 500) -> str:
    """A text in one line, without half words."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[:limit].rsplit(" ", 1)[0] + " ..."


def file_name(text: str) -> str:
    """The text itself if it is a valid name of a visible file; else its valid characters and a hash."""
    plain = re.sub(r"[^A-Za-z0-9+\-._]|^\.", "_", text)
    if text == plain and len(text) <= 200:
        return text
    return f"{plain[:180]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
