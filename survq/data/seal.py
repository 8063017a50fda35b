"""A checksum of a whole Parquet file, inside it: it also finds damage in parts that nothing reads.

The footer holds the entry "survq-checksum": "crc32=01234567". It is the checksum of the file with eight zeros there.
"""

from __future__ import annotations

import zlib

from survq.data.location import UNREADABLE, Location, unreadable

KEY, MARK, ZEROS = b"survq-checksum", b"crc32=", b"00000000"
TAIL = 2**14  # bytes at the end of a file, among which the entry is
BLOCK = 2**24  # bytes read at a time

UNSEALED = {KEY: MARK + ZEROS}
"""What to add to the metadata of a file that is going to be sealed."""


def seal(content: memoryview) -> tuple[int, bytes]:
    """Where the checksum of a complete file stands, and the checksum."""
    start = max(0, len(content) - TAIL)
    return start + bytes(content[start:]).rindex(MARK) + len(MARK), b"%08x" % zlib.crc32(content)


def seal_problem(file: Location) -> str | None:
    """Why a file cannot be as it was written; None if its checksum is right, or if it has none."""
    try:
        with file.filesystem.open_input_file(file.path) as source:
            start, found = max(0, source.size() - TAIL), 0
            for begin in range(0, start, BLOCK):
                found = zlib.crc32(source.read_at(min(BLOCK, start - begin), begin), found)
            tail = source.read_at(TAIL, start)
    except UNREADABLE as error:
        return unreadable(file, error)
    if KEY not in tail and MARK not in tail:  # written by others, or by an early survq
        return None
    before, _, after = tail.rpartition(MARK)
    stated, rest = after[: len(ZEROS)], after[len(ZEROS) :]
    if stated == b"%08x" % zlib.crc32(before + MARK + ZEROS + rest, found):
        return None
    return (
        f"{file}: has changed since it was written (its checksum differs). Fix: restore the file, or remove it and "
        f"import its slide again."
    )
