"""How a text table is written, found from its first lines; the same for small tables and for those that are streamed.

encoding     UTF-8 or, with a byte order mark, UTF-16; lines end in any way
above        lines that start with `#` stand above the header, unless the last of them is the header itself; so do the
             two lines of a GCT file
separators   tab, comma, semicolon, bar or blank: the one that gives all lines as many cells as the header
row names    R writes no name for them, so its header is one cell short
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from survq.data.problems import DataError
from survq.importing.decompress import OnBytes, decompress, refuse_other_formats
from survq.text import composed, preview

SEPARATORS = ("\t", ",", ";", "|", " ")
LINES = 6  # rows below the header that are looked at
HEAD = 1 << 16
LONGEST_LINE = 1 << 26
BLOCK = 1 << 20
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

csv.field_size_limit(LONGEST_LINE)  # of a list of genes in a cell, for example


@dataclass(frozen=True)
class Format:
    above: int  # lines above the header
    separator: str
    names: list[str]  # of the columns
    rows: list[list[str]]  # the first rows
    size: int  # bytes of the header
    row_names: bool = False  # whether the first column is R's, which has no name

    @property
    def notes(self) -> list[str]:
        """What a reader took for granted, for people."""
        taken = f"the header has one name less than the rows have cells: taken for R's, with {self.names[1]!r} second"
        return [taken] * self.row_names

    def cells(self, line: str) -> list[str]:
        return _cells(line, self.separator) or []


def format_of(file: Path, needed: Collection[str] = ()) -> Format:
    """The format of a table. `needed` are columns that its header should have.

    Raises FileNotFoundError; DataError if the file is empty, is not text, or has one column.
    """
    with text_lines(file) as stream:
        comments: list[str] = []
        lines: list[str] = []
        while len(lines) <= LINES and (content := stream.readline(LONGEST_LINE)):
            if len(content) == LONGEST_LINE:
                raise DataError([f"{file}: has a line of more than {LONGEST_LINE:,} bytes. Fix: save it as CSV again."])
            line = decoded(content, file).rstrip("\r\n")
            if not lines and (line.startswith("#") or not line.strip() or _is_gct(comments)):
                comments.append(line)
            elif line.strip():
                lines.append(line)
    if not lines:
        if not any(comment.strip() for comment in comments):
            raise DataError([f"{file}: is empty."])
        lines, comments = comments[-1:], comments[:-1]
    separator = _separator(lines)
    rows = [_cells(line, separator) or [] for line in lines]
    header = _cells(comments[-1], separator) if comments else None
    if header and len(header) > 1 and len(header) == len(rows[0]) and _is_header(header, rows, needed):
        comments, rows = comments[:-1], [[header[0].removeprefix("#").strip(), *header[1:]], *rows]
    names, *rows = rows
    row_names = bool(rows) and all(len(row) == len(names) + 1 for row in rows)
    if row_names and all(not row[-1] for row in rows):
        raise DataError(
            [
                f"{file}: its rows have one cell more than its header, and the last is blank. Fix: remove the "
                f"separator at the end of each row, or name the first column."
            ]
        )
    names = ["", *names] if row_names else names
    if len(names) < 2:
        raise DataError(
            [f"{file}: has one column, {preview(names)}; expected commas or tabs between cells. Fix: save it as CSV."]
        )
    return Format(len(comments), separator, names, rows, len(lines[0].encode()), row_names)


@contextmanager
def text_lines(file: Path, skip: int = 0, progress: OnBytes | None = None) -> Iterator[IO[bytes]]:
    """The text of a file as a stream of UTF-8 with lines that end in a line feed, from line `skip` on.

    Raises FileNotFoundError; DataError if it is not text.
    """
    with decompress(file, progress) as raw:
        head = raw.read(HEAD)
        refuse_other_formats(head, file)
        wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if not wide and b"\x00" in head:
            raise DataError([f"{file}: is not text. Fix: save the table as CSV."])
        raw.seek(0)
        stream = raw
        if wide or re.search(rb"\r(?!\n)", head[:-1]):
            stream = cast(IO[bytes], io.BufferedReader(_Translated(raw, "utf-16" if wide else "utf-8-sig", file)))
        elif head.startswith(codecs.BOM_UTF8):
            raw.read(len(codecs.BOM_UTF8))
        for _ in range(skip):
            stream.readline(LONGEST_LINE)
        yield stream


def decoded(content: bytes, file: Path) -> str:
    """A line as text, its letters composed. Raises DataError if it is not UTF-8."""
    try:
        return composed(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError([f"{file}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from error


def is_number(cell: str) -> bool:
    """Digits with a decimal point; not Python's 1_000, and not a comma."""
    return NUMBER.fullmatch(cell) is not None


class _Translated(io.RawIOBase):
    """Another encoding as UTF-8, and lone carriage returns as line feeds."""

    def __init__(self, raw: IO[bytes], encoding: str, file: Path):
        self._raw, self._file, self._rest = raw, file, b""
        decoder = codecs.getincrementaldecoder(encoding)()
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._rest:
            content = self._raw.read(BLOCK)
            try:
                text = self._decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                raise DataError([f"{self._file}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from None
            self._rest = text.encode()
            if not content:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _is_gct(above: Sequence[str]) -> bool:
    """Whether these lines are the first of a GCT file: #1.2, then the numbers of rows and columns."""
    return len(above) == 1 and above[0].split("\t")[0].strip() == "#1.2"


def _is_header(header: list[str], rows: list[list[str]], needed: Collection[str]) -> bool:
    """Whether a line that starts with `#` is the header of these rows, and no comment above it."""
    names = {header[0].removeprefix("#").strip(), *header[1:]}
    if needed and names >= set(needed):
        return True
    return any(is_number(cell) for cell in rows[0]) and not any(is_number(name) for name in names)


def _separator(lines: Sequence[str]) -> str:
    """The separator that gives all lines as many cells as the header, or R's one more; of several the one with the most
    cells, a blank only without any other.
    """
    counts = {mark: [len(_cells(line, mark) or ()) for line in lines] for mark in SEPARATORS}
    fits = {
        mark: header
        for mark, (header, *rows) in counts.items()
        if header > 1 and (set(rows) <= {header} or set(rows) == {header + 1})
    }
    if fits:
        return max(fits, key=lambda mark: (mark != " ", fits[mark]))
    of_one_column = [mark for mark, (header, *rows) in counts.items() if header == 1 and set(rows) == {2}]
    if of_one_column:  # and R's row names
        return of_one_column[0]
    return next((mark for mark in SEPARATORS[:3] if counts[mark][0] > 1), ",")


def _cells(line: str, separator: str) -> list[str] | None:
    """The cells of a line without surrounding blanks; None if it is not valid with this separator."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
    except (csv.Error, StopIteration):
        return None
