"""Files and folders on this machine or in a bucket, through one interface (pyarrow filesystems)."""

from __future__ import annotations

import csv
import io
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from survq.data.problems import BucketUnavailable, DataError, raise_if_any
from survq.exits import UsageError
from survq.text import is_utf8, preview, readable, shortened

UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow may raise for a Parquet file that is truncated, overwritten or damaged."""

MOST_ROWS, MOST_CELLS = 10**7, 1 << 31  # of a table in a data folder
SCHEMES = {"gcs": "gs"}  # pyarrow's name of a filesystem -> scheme of its URIs, where they differ
FORMULA = ("=", "+", "-", "@", "\t")  # the first characters by which a spreadsheet knows a formula
UNFINISHED = ".unfinished"  # suffix of the hidden names of files being written

Seal = Callable[[memoryview], tuple[int, bytes]]
"""See `Location.writing`."""


@dataclass(frozen=True)
class Location:
    """A file or folder: `Location.at("data")`, `Location.at("s3://bucket/data")`, `Location.at("data") / "BLCA"`."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, root: str | Path | Location) -> Location:
        if isinstance(root, Location):
            return root
        if "://" in str(root):
            _refuse_keys(str(root))
            filesystem, path = fs.FileSystem.from_uri(str(root))
            return cls(filesystem, path.rstrip("/"))
        if bucket := re.match(r"(s3|gs|gcs|abfss?|hdfs|https?):/", str(root)):  # a Path has lost a slash
            where = f"{bucket[1]}://{str(root)[bucket.end() :]}"
            raise UsageError(
                f"{where}: a folder of this machine is needed here. Fix: give one, and copy it afterwards."
            )
        if not is_utf8(root):
            raise UsageError(f"{readable(root)}: the name of the folder is not UTF-8. Fix: rename it.")
        return cls(fs.LocalFileSystem(), str(Path(root).expanduser().absolute()))

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        """A local path or a bucket URI, for people and for `at`. Filesystem calls need `path` instead."""
        scheme = SCHEMES.get(self.filesystem.type_name, self.filesystem.type_name)
        return self.path if self.local is not None else f"{scheme}://{self.path}"

    @property
    def local(self) -> Path | None:
        """The path on this machine; None in a bucket."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def is_file(self) -> bool:
        return self._type() == fs.FileType.File

    def is_folder(self) -> bool:
        return self._type() == fs.FileType.Directory

    def _type(self) -> fs.FileType:
        try:
            return self.filesystem.get_file_info(self.path).type
        except OSError as error:  # of a bucket, before anything of it has been read
            if self.local is not None:
                raise
            raise DataError([unreadable(self, error)]) from error

    def names(self) -> list[str]:
        """The names in this folder, sorted, without hidden ones; empty if there is no such folder."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        names = (info.base_name for info in self.filesystem.get_file_info(selector))
        return sorted(name for name in names if not name.startswith((".", "_")))

    @contextmanager
    def writing(self, seal: Seal | None = None) -> Iterator[pa.NativeFile]:
        """A stream into this file. The file appears under its name only when complete; parent folders are created.

        `seal` gets the complete content, and returns a position and the bytes to put there.
        """
        if self.local is None:  # an error while streaming into a bucket would leave a partial file
            output = pa.BufferOutputStream()
            yield output
            content = memoryview(output.getvalue())
            position, replaced = seal(content) if seal else (0, b"")
            with self.filesystem.open_output_stream(self.path) as stream:
                for part in (content[:position], replaced, content[position + len(replaced) :]):
                    stream.write(part)
            return
        self.local.parent.mkdir(parents=True, exist_ok=True)
        with _atomic_file(self.local) as unfinished:
            with pa.OSFile(str(unfinished), "wb") as stream:
                yield stream
            if seal:
                with unfinished.open("r+b") as file:
                    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
                        position, replaced = seal(content)
                    file.seek(position)
                    file.write(replaced)

    def write(self, content: bytes | memoryview) -> None:
        with self.writing() as stream:
            stream.write(content)

    def sweep(self, pattern: str = ".*") -> None:
        """Remove partial files that killed processes have left here. Call it only while holding the lock."""
        for unfinished in list(self.local.glob(pattern + UNFINISHED)) if self.local is not None else ():
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink(missing_ok=True)

    def write_files(self, contents: Mapping[str, bytes | memoryview]) -> None:
        """Write several files of this folder, by name. None appears before all are complete."""
        with ExitStack() as written:
            for name, content in contents.items():
                written.enter_context((self / name).writing()).write(content)

    def read_text(self) -> str:
        with self.filesystem.open_input_stream(self.path) as stream:
            content = stream.read()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError([f"{self}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from error

    def read_csv(self, columns: Sequence[str]) -> pd.DataFrame:
        """A table of text with these columns, as written by `csv_bytes`; without rows if there is no such file.

        The file may have been edited by hand: raises DataError, listing every line with other columns.
        """
        if not self.is_file():
            return pd.DataFrame(columns=columns, dtype=str)
        fix = "Fix: correct it, or remove it and import again."
        lines = csv.reader(io.StringIO(self.read_text(), newline=""), strict=True)
        try:
            rows = [(lines.line_num, row) for row in lines if row]
        except csv.Error as error:
            raise DataError([f"{self}:{lines.line_num}: is not valid CSV ({error}). {fix}"]) from error
        header = rows.pop(0)[1] if rows else []
        if header != list(columns):
            found = preview(header, 9) or "none"
            raise DataError([f"{self}: has the columns {found}; expected {', '.join(columns)}. {fix}"])
        raise_if_any(
            [
                f"{self}:{line}: {len(row)} cells; expected {', '.join(columns)}. {fix}"
                for line, row in rows
                if len(row) != len(columns)
            ]
        )
        return pd.DataFrame([[_unguarded(cell) for cell in row] for _, row in rows], columns=columns, dtype=str)

    def read_table(self) -> pd.DataFrame:
        """A Parquet table. Raises DataError if it cannot be read or fails its checksums."""
        try:
            with self.filesystem.open_input_file(self.path) as source, pq.ParquetFile(source) as parquet:
                rows, columns = parquet.metadata.num_rows, parquet.metadata.num_columns
            if rows > MOST_ROWS or rows * columns > MOST_CELLS:  # equal values take no space in a file
                raise ValueError(f"it states {rows:,} rows and {columns:,} columns")
            # partitioning=None: a folder named `a=b` in the path is not a partition
            table = pq.read_table(
                self.path, filesystem=self.filesystem, partitioning=None, page_checksum_verification=True
            )
            # ignore the index that pandas recorded: a named one is a column, an unnamed one carries no data
            return table.to_pandas(ignore_metadata=True).filter(regex=r"^(?!__index_level_\d+__$)")
        except UNREADABLE as error:
            raise DataError([unreadable(self, error)]) from error


CURES = {
    r"(?i)access.?denied|forbidden|credentials|unauthorized|HTTP status 40[13]": (
        "give every node the right to read it, by a role of the machine, or by the keys of the bucket in the "
        "environment in which Ray starts there"
    ),
}
"""What an error of a bucket says -> what helps."""

NO_ANSWER = (
    r"NETWORK_CONNECTION|curlCode|SLOW_DOWN|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT|INTERNAL_FAILURE|HTTP status 5\d\d|"
    r"(?i:could ?n.t connect|resolve host|timed? ?out)"
)
"""How an error of a bucket reads that is busy, down or out of reach, after all attempts."""


def _refuse_keys(uri: str) -> None:
    """Keys in a URI would be printed, and written to the results."""
    place = uri.partition("://")[2].partition("/")[0]
    if ":" in place.rpartition("@")[0]:
        raise UsageError(
            f"the address of the bucket {place.rpartition('@')[2]!r} contains keys. Fix: give the "
            f"address without them, and the keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
        )


def unreadable(file: object, error: Exception) -> str:
    """The message for an UNREADABLE error of a file. Raises BucketUnavailable if its bucket does not answer at all."""
    if "://" in str(file) and re.search(NO_ANSWER, str(error)):
        raise BucketUnavailable(
            f"{file}: the bucket does not answer ({shortened(str(error))}). Fix: check its address and this machine's "
            f"way to it, and run the same command again."
        ) from error
    fix = next((fix for sign, fix in CURES.items() if re.search(sign, str(error))), "restore it or import it again")
    return f"{file}: cannot be read ({shortened(str(error))}). Fix: {fix}."


def parquet(table: pd.DataFrame) -> memoryview:
    """A table as the bytes of a Parquet file."""
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), content, write_page_checksum=True)
    return content.getbuffer()


def csv_bytes(table: pd.DataFrame, **options: Any) -> bytes:
    """A table as CSV without its index, or with the `options` of pandas.

    Names come from users' files, and people open these tables in a spreadsheet: text that it would take for a formula
    gets an apostrophe in front. A carriage return, at which readers would begin a new line, becomes \\r.
    """
    guarded = table.rename(columns=_guarded).map(_guarded)
    return guarded.to_csv(**{"index": False, "lineterminator": "\n", **options}).encode()


def _guarded(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.startswith(FORMULA) and not _is_number(cell) else "") + cell.replace("\r", "\\r")


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell in ("-", "+")  # no value
    return True


def replace_file(file: Path, content: bytes) -> None:
    """Replace a file atomically: even after a power failure it has either its old or its new content."""
    with _atomic_file(file) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def created_folder(folder: Path) -> Iterator[None]:
    """Create a folder to write into, with those above it, and remove them again if they stay empty."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in new:
                path.rmdir()


@contextmanager
def atomic_folder(folder: Path, *, replacing: bool = False) -> Iterator[Path]:
    """Yield a hidden folder to fill. It is renamed to `folder` once it is complete on disk, or removed on an error.

    Raises OSError if `folder` exists by then, unless `replacing`: then the old folder is removed. Between the two
    renames neither folder exists, so the caller must be able to create it again.
    """
    unfinished, aside = _hidden(folder), _hidden(folder)
    os.mkdir(unfinished)
    try:
        with _named(folder):
            yield unfinished
        for path in (*unfinished.rglob("*"), unfinished):
            _sync(path)
        if replacing and folder.exists():
            os.rename(folder, aside)
        os.rename(unfinished, folder)
        _sync(folder.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if aside.exists() and not folder.exists():
            os.rename(aside, folder)
        raise


@contextmanager
def _atomic_file(file: Path) -> Iterator[Path]:
    """Yield a hidden file for the new content. It replaces `file` once it is complete on disk."""
    unfinished = _hidden(file)
    # not tempfile, which ignores the umask: the umask decides who may read the data of patients
    handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        with _named(file):
            yield unfinished
            os.fsync(handle)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink()
        raise
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of writing names the file: the operating system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _hidden(path: Path) -> Path:
    """A unique hidden name beside `path`, for its replacement."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
