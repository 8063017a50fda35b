"""Stream selected columns of tables that are too wide or long for memory, in blocks of rows.

Columns are selected by position, because headers of expression tables are unreliable: names repeat, and the first one
is arbitrary.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.csv as pc

from survq.data.problems import DataError, raise_if_any
from survq.importing.decompress import OnBytes, decompress
from survq.importing.text_table import MISSING, separator
from survq.text import preview

BLOCK = 1 << 20  # smallest block in bytes; pyarrow reads up to 32 blocks ahead
HEADERS_PER_BLOCK = 16  # a block must hold several rows, and a row of numbers may be four times as long as the header
LONGEST_HEADER = 1 << 26
NULLS = sorted({spelling for word in MISSING for spelling in (word, word.upper(), word.capitalize(), "NaN", "#N/A")})


def header(file: Path) -> list[str]:
    """The cells of the first line. Raises FileNotFoundError; DataError if it is missing or not text."""
    with decompress(file) as stream:
        return _header(stream, file)[0]


def columns(
    file: Path, text: Sequence[int], numbers: Sequence[int] = (), progress: OnBytes | None = None
) -> Iterator[tuple[list[list[str]], list[pa.Array]]]:
    """Blocks of rows: the cells of the columns `text` without surrounding blanks, and those of `numbers` or null.

    Columns are given by position, each once. Raises DataError if a cell is not a number (`not_numbers` finds all of
    them), or at the end with all rows of another length.
    """
    ragged: list[str] = []

    def record_ragged(row: pc.InvalidRow) -> str:
        where = f":{row.number + 1}" if row.number is not None else ""
        ragged.append(f"{file}{where}: {row.actual_columns} cells; the header has {row.expected_columns}.")
        return "skip"

    with decompress(file, progress) as stream:
        names, delimiter, size = _header(stream, file)
        block_size = max(BLOCK, HEADERS_PER_BLOCK * size)
        types = {str(column): pa.string() for column in text} | {str(column): pa.float64() for column in numbers}
        try:
            reader = pc.open_csv(
                stream,
                pc.ReadOptions(
                    use_threads=False, block_size=block_size, column_names=list(map(str, range(len(names))))
                ),
                pc.ParseOptions(delimiter=delimiter, invalid_row_handler=record_ragged),
                pc.ConvertOptions(column_types=types, include_columns=list(types), null_values=NULLS),
            )
            for block in reader:
                cells = [[str(cell).strip() for cell in block[str(column)].to_pylist()] for column in text]
                yield cells, [block[str(column)] for column in numbers]
        except StopIteration:
            return
        except pa.ArrowInvalid as error:
            raise DataError(
                [f"{file}: cannot be read as a table ({_reason(error)}). Fix: save it as UTF-8 text."]
            ) from error
    raise_if_any(ragged)


def not_numbers(file: Path, text: int, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    """A problem for every cell of these columns that is not a number. `text` is the column that names a row."""
    problems = []
    with decompress(file) as stream:
        _, delimiter, _ = _header(stream, file)
        lines = (line.decode("utf-8", "replace") for line in stream)
        for row in csv.reader(lines, delimiter=delimiter):
            for column, name in zip(numbers, names, strict=True):
                cell = row[column].strip() if column < len(row) else ""
                try:
                    float(cell or "nan")
                except ValueError:
                    if cell.lower() not in MISSING:
                        problems.append(
                            f"{file}: {row[text].strip()[:60]!r}, {name!r}: {cell[:60]!r} is not a number. "
                            f"Fix: correct it."
                        )
    return problems


def _header(stream: IO[bytes], file: Path) -> tuple[list[str], str, int]:
    """The cells of the header, their separator, and its size in bytes."""
    content = stream.readline(LONGEST_HEADER)
    try:
        line = content.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError([f"{file}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from error
    if not line.strip():
        raise DataError([f"{file}: is empty."])
    delimiter = separator(line)
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    if len(cells) < 2:
        raise DataError(
            [f"{file}: has one column, {preview(cells)}; expected commas or tabs between cells. Fix: save it as CSV."]
        )
    return cells, delimiter, len(content)


def _reason(error: Exception) -> str:
    """The message without the row that pyarrow shows, as it holds data of a patient."""
    return str(error).split(": ")[0].split("\n")[0][:120]
