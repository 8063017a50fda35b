"""Tables too wide or long to hold: the columns that are needed, streamed a block at a time.

Columns go by position, for headers of expression tables cannot be trusted: names repeat, and the first is anything.
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

BLOCK = 1 << 20  # bytes at least; pyarrow reads up to 32 blocks ahead
HEADERS_A_BLOCK = 16  # for a row of numbers may be four times as long as the names above it
LONGEST_HEADER = 1 << 26
NULLS = sorted({spelling for word in MISSING for spelling in (word, word.upper(), word.capitalize(), "NaN", "#N/A")})


def header(file: Path) -> list[str]:
    """The cells of the first line. Raises FileNotFoundError; DataError where there is none, or it is no text."""
    with decompress(file) as stream:
        return _header(stream, file)[0]


def columns(
    file: Path, text: Sequence[int], numbers: Sequence[int] = (), progress: OnBytes | None = None
) -> Iterator[tuple[list[list[str]], list[pa.Array]]]:
    """Blocks of rows: the cells of some columns as text without blanks around, those of others as numbers or null.

    Columns are given by position, each once. Raises DataError naming rows of another length, which are passed over
    until the end, or that there is a cell that is no number; `not_numbers` finds out which.
    """
    ragged: list[str] = []

    def note(row: pc.InvalidRow) -> str:
        where = f":{row.number + 1}" if row.number is not None else ""
        ragged.append(f"{file}{where}: is no table: {row.actual_columns} cells; the header has {row.expected_columns}.")
        return "skip"

    with decompress(file, progress) as stream:
        names, mark, size = _header(stream, file)
        block_size = max(BLOCK, HEADERS_A_BLOCK * size)
        types = {str(column): pa.string() for column in text} | {str(column): pa.float64() for column in numbers}
        try:
            reader = pc.open_csv(
                stream,
                pc.ReadOptions(
                    use_threads=False, block_size=block_size, column_names=list(map(str, range(len(names))))
                ),
                pc.ParseOptions(delimiter=mark, invalid_row_handler=note),
                pc.ConvertOptions(column_types=types, include_columns=list(types), null_values=NULLS),
            )
            for block in reader:
                cells = [[str(cell).strip() for cell in block[str(column)].to_pylist()] for column in text]
                yield cells, [block[str(column)] for column in numbers]
        except StopIteration:
            return
        except pa.ArrowInvalid as error:
            raise DataError(
                [f"{file}: is no table that can be read ({_reason(error)}). Fix: save it as UTF-8 text."]
            ) from error
    raise_if_any(ragged)


def not_numbers(file: Path, text: int, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
    """A sentence for every cell of these columns that is no number. `text` is the column that names a row."""
    problems = []
    with decompress(file) as stream:
        _, mark, _ = _header(stream, file)
        lines = (line.decode("utf-8", "replace") for line in stream)
        for row in csv.reader(lines, delimiter=mark):
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
    """Its cells, what separates them, and how many bytes it takes."""
    content = stream.readline(LONGEST_HEADER)
    try:
        line = content.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError([f"{file}: is not UTF-8 text ({error.reason}). Fix: save it as UTF-8."]) from error
    if not line.strip():
        raise DataError([f"{file}: is empty."])
    mark = separator(line)
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]
    if len(cells) < 2:
        raise DataError(
            [f"{file}: has one column, {preview(cells)}; expected cells separated by commas or tabs. Fix: save it so."]
        )
    return cells, mark, len(content)


def _reason(error: Exception) -> str:
    """Without the row that pyarrow shows: it is a patient's."""
    return str(error).split(": ")[0].split("\n")[0][:120]
