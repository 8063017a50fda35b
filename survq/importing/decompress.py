"""Read plain, .gz and .zip files, detected by their first bytes and not by their names."""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from survq.data.problems import DataError
from survq.text import preview

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"

OnBytes = Callable[[str, int, int | None], None]
"""Called with the name of a file, the bytes read or received so far, and all its bytes, if known."""


@contextmanager
def decompress(file: Path, progress: OnBytes | None = None) -> Iterator[IO[bytes]]:
    """A stream of the decompressed content of a file. `progress` counts compressed bytes.

    Raises FileNotFoundError; DataError if an archive is damaged or does not hold exactly one file.
    """
    try:
        with _ProgressReader(file, progress) if progress else file.open("rb") as raw:
            first = raw.read(4)
            raw.seek(0)
            if first.startswith(GZIP):
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            elif first == ZIP:
                with zipfile.ZipFile(raw) as archive, archive.open(_only_member(archive, file)) as stream:
                    yield stream
            else:
                yield raw
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError([f"{file}: cannot be decompressed ({error}). Fix: download or save it again."]) from error


def is_workbook(file: Path) -> bool:
    """Whether a file is an Excel workbook, which is also a zip file."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return "[Content_Types].xml" in archive.namelist()


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _ProgressReader(io.BufferedReader):
    def __init__(self, file: Path, progress: OnBytes):
        super().__init__(io.FileIO(file))
        self._update = lambda: progress(file.name, self.tell(), file.stat().st_size)

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._update()
        return content


def _only_member(archive: zipfile.ZipFile, file: Path) -> zipfile.ZipInfo:
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        names = preview(one.filename for one in members) or "nothing"
        raise DataError([f"{file}: holds {names}; expected one table. Fix: unpack it and import the table."])
    return members[0]
