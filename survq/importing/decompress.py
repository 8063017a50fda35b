"""Read plain, .gz, .zip, .xz and .bz2 files, detected by their first bytes and not by their names."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from survq.data.problems import DataError
from survq.text import preview

GZIP, ZIP, XZ, BZIP2 = b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ\x00", b"BZh"
TABLE = "Fix: save the table as CSV"
UNPACK = "Fix: unpack it"
OTHER_FORMATS = {
    b"PAR1\x15": ("a Parquet file", TABLE),
    b"ARROW1\x00": ("a Feather file", TABLE),
    b"\x89HDF": ("an HDF5 file", TABLE),
    b"\xd0\xcf\x11\xe0": ("a workbook of old Excel", TABLE),
    b"RDX2\n": ("a file of R objects", "Fix: save the table in R with write.csv"),
    b"RDX3\n": ("a file of R objects", "Fix: save the table in R with write.csv"),
    b"X\n\x00": ("a file of R objects", "Fix: save the table in R with write.csv"),
    b"%PDF": ("a PDF", TABLE),
    b"7z\xbc\xaf": ("a 7z archive", UNPACK),
    b"Rar!": ("a RAR archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", UNPACK),
    b"<": ("a web page or XML", "Fix: download the table itself"),
    b"{": ("JSON", "Fix: download the table as TSV, or gene sets as GMT"),
}
"""First bytes of files that are no text tables -> what they are, and the fix."""

OnBytes = Callable[[str, int, int | None], None]
"""Called with the name of a file, the bytes read or received so far, and all its bytes, if known."""


@contextmanager
def decompress(file: Path, progress: OnBytes | None = None) -> Iterator[IO[bytes]]:
    """A stream of the decompressed content of a file. `progress` counts compressed bytes.

    Raises FileNotFoundError; DataError for a folder, and if an archive is damaged or does not hold exactly one file.
    """
    if file.is_dir():
        held = preview(sorted(path.name for path in file.iterdir())) or "nothing"
        raise DataError([f"{file}: is a folder, which holds {held}; expected a file. Fix: name the file in it."])
    try:
        with _ProgressReader(file, progress) if progress else file.open("rb") as raw:
            first = raw.read(6)
            raw.seek(0)
            if first.startswith(GZIP):
                with gzip.open(raw) as unpacked:
                    yield cast(IO[bytes], _Bounded(cast(IO[bytes], unpacked), file))
            elif first.startswith(XZ):
                with lzma.open(raw) as unxz:
                    yield cast(IO[bytes], _Bounded(cast(IO[bytes], unxz), file))
            elif first.startswith(BZIP2):
                with bz2.open(raw) as unbzip2:
                    yield cast(IO[bytes], _Bounded(cast(IO[bytes], unbzip2), file))
            elif first.startswith(ZIP):
                with zipfile.ZipFile(raw) as archive, archive.open(_only_member(archive, file)) as stream:
                    yield cast(IO[bytes], _Bounded(stream, file))
            else:
                yield raw
    except (
        *(zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
        *(EOFError, NotImplementedError, RuntimeError),
    ) as error:
        raise DataError([f"{file}: cannot be decompressed ({error}). Fix: download or save it again."]) from error


def is_workbook(file: Path) -> bool:
    """Whether a file is an Excel workbook, which is also a zip file."""
    if not file.is_file() or not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return "[Content_Types].xml" in archive.namelist()


def refuse_other_formats(head: bytes, file: Path) -> None:
    """Raises DataError if these first bytes of a file, decompressed, are not those of text."""
    known = [facts for start, facts in OTHER_FORMATS.items() if head.lstrip(b"\xef\xbb\xbf \n").startswith(start)]
    if head[257:262] == b"ustar":
        known = [("a tar archive", UNPACK)]
    for what, fix in known:
        raise DataError([f"{file}: is {what}; expected a text table. {fix}."])


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def most_bytes(file: Path) -> int:
    """The size beyond which the content of a compressed file cannot be a table: one compresses about ten times."""
    return max(1 << 28, 100 * file.stat().st_size)


def too_large(file: Path) -> DataError:
    return DataError([f"{file}: expands to more than {most_bytes(file):,} bytes, as no table does. Fix: unpack it."])


class _Unpacked(io.RawIOBase):
    """The content of a compressed file up to `most_bytes`. Raises DataError beyond them: a forged file has no end."""

    def __init__(self, stream: IO[bytes], file: Path):
        self._stream, self._file, self._most = stream, file, most_bytes(file)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer) -> int:
        content = self._stream.read(len(buffer))
        if self._stream.tell() > self._most:
            raise too_large(self._file)
        buffer[: len(content)] = content
        return len(content)


class _Bounded(io.BufferedReader):
    def __init__(self, stream: IO[bytes], file: Path):
        super().__init__(_Unpacked(stream, file), 1 << 20)


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
    if "[Content_Types].xml" in archive.namelist():
        raise DataError([f"{file}: is a workbook; expected a text table. {TABLE}."])
    if len(members) != 1:
        names = preview(one.filename for one in members) or "nothing"
        raise DataError([f"{file}: holds {names}; expected one table. Fix: unpack it and import the table."])
    return members[0]
