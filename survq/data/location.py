"""Files and folders on this machine or in a bucket, read the same way (pyarrow filesystems)."""

from __future__ import annotations

import csv
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from survq.data.problems import DataError, raise_if_any
from survq.text import preview

UNREADABLE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow may raise for a Parquet file that is cut short, overwritten or damaged."""

SCHEMES = {"gcs": "gs"}  # of filesystems that are not called as their URIs are
UNFINISHED = ".unfinished"  # the end of the hidden names of files that are being written


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
            filesystem, path = fs.FileSystem.from_uri(str(root))
            return cls(filesystem, path.rstrip("/"))
        return cls(fs.LocalFileSystem(), str(Path(root).expanduser().absolute()))

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path}/{name}")

    def __str__(self) -> str:
        """As a person names it, and `at` understands it: a path, or the URI of a bucket. Filesystems want `path`."""
        scheme = SCHEMES.get(self.filesystem.type_name, self.filesystem.type_name)
        return self.path if self.local is not None else f"{scheme}://{self.path}"

    @property
    def local(self) -> Path | None:
        """As a path of this machine; None in a bucket."""
        return Path(self.path) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def is_file(self) -> bool:
        return self.filesystem.get_file_info(self.path).type == fs.FileType.File

    def is_folder(self) -> bool:
        return self.filesystem.get_file_info(self.path).type == fs.FileType.Directory

    def names(self) -> list[str]:
        """What lies directly in this folder, sorted; nothing if it is not there. Hidden names are left out."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        names = (info.base_name for info in self.filesystem.get_file_info(selector))
        return sorted(name for name in names if not name.startswith((".", "_")))

    @contextmanager
    def writing(self) -> Iterator[pa.NativeFile]:
        """A stream into this file, and the folders above it; under its name it is never seen half written."""
        if self.local is None:  # a stream into a bucket would leave half a file where its writer stumbles
            content = pa.BufferOutputStream()
            yield content
            with self.filesystem.open_output_stream(self.path) as stream:
                stream.write(content.getvalue())
            return
        self.local.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(self.local) as unfinished, pa.OSFile(str(unfinished), "wb") as stream:
            yield stream

    def write(self, content: bytes | memoryview) -> None:
        with self.writing() as stream:
            stream.write(content)

    def sweep(self, pattern: str = ".*") -> None:
        """Remove what processes that were killed left half written in here. Only for who works here alone."""
        for unfinished in list(self.local.glob(pattern + UNFINISHED)) if self.local is not None else ():
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink(missing_ok=True)

    def write_files(self, contents: Mapping[str, bytes | memoryview]) -> None:
        """Write several files of this folder, by name; none is seen before all of them have been written."""
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
        """A table of text with these columns; without rows where there is no such file.

        It may have been edited by hand: raises DataError with every line that does not have them.
        """
        if not self.is_file():
            return pd.DataFrame(columns=columns, dtype=str)
        fix = "Fix: correct it, or remove it and import again."
        lines = csv.reader(io.StringIO(self.read_text(), newline=""), strict=True)
        try:
            rows = [(lines.line_num, row) for row in lines if row]
        except csv.Error as error:
            raise DataError([f"{self}:{lines.line_num}: is no table ({error}). {fix}"]) from error
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
        return pd.DataFrame([row for _, row in rows], columns=columns, dtype=str)

    def read_table(self) -> pd.DataFrame:
        """A Parquet table. Raises DataError where it cannot be read, or is not what was written."""
        try:
            # partitioning=None: a folder named `a=b` on the way is just a name
            table = pq.read_table(
                self.path, filesystem=self.filesystem, partitioning=None, page_checksum_verification=True
            )
            # what pandas noted about an index is not needed: a named one is a column, one of numbers is nothing
            return table.to_pandas(ignore_metadata=True).filter(regex=r"^(?!__index_level_\d+__$)")
        except UNREADABLE as error:
            raise DataError([unreadable(self, error)]) from error


def unreadable(file: object, error: Exception) -> str:
    """The sentence for such a file."""
    reason = " ".join(str(error).split())[:120]
    return f"{file}: cannot be read ({reason}). Fix: restore it or import it again."


def parquet(table: pd.DataFrame) -> memoryview:
    """A table as the bytes of a Parquet file."""
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), content, write_page_checksum=True)
    return content.getbuffer()


def replace_file(file: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, also after a power cut."""
    with _replacing(file) as unfinished:
        unfinished.write_bytes(content)


@contextmanager
def appearing(folder: Path, *, replacing: bool = False) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name of `folder` when all of it is on the disk; else nothing is left.

    Raises OSError where there is one of that name by then, unless it is to be replaced: then the old one goes. Between
    the two renames neither is there, so whoever replaces must be able to make it again.
    """
    unfinished, aside = _hidden(folder), _hidden(folder)
    os.mkdir(unfinished)
    try:
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
def _replacing(file: Path) -> Iterator[Path]:
    """A place for the new content, which takes the place of the old when it is on the disk."""
    unfinished = _hidden(file)
    # not by tempfile, whose files are their owner's alone: who may read patients' outcomes is for the umask to say
    handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        yield unfinished
        os.fsync(handle)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink()
        raise
    finally:
        os.close(handle)


def _hidden(path: Path) -> Path:
    """A name beside it that nothing else has, for what is to take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
