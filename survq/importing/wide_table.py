"""Stream selected columns of tables that are too wide or long for memory, in blocks of rows.

Columns are selected by position, because headers of expression tables are unreliable: names repeat, and the first one
is arbitrary.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.csv as pc

from survq.data.problems import DataError, raise_if_any
from survq.importing.decompress import OnBytes
from survq.importing.missing import MISSING, Missing
from survq.importing.table_format import BLOCK, Format, format_of, is_number, text_lines
from survq.importing.text_table import by_row
from survq.text import composed, preview, shortened

Part = TypeVar("Part")

HEADERS_PER_BLOCK = 16  # a block must hold several rows, and a row of numbers may be four times as long as the header


@dataclass(frozen=True)
class WideTable:
    """A table whose header has been read. Lines are counted as in the file."""

    file: Path
    form: Format
    skipped: int = 0  # rows below the header that belong to it
    missing: Missing = MISSING
    _spellings: set[str] = field(default_factory=set)  # of missing cells, found on the way

    @classmethod
    def open(cls, file: Path, missing: Missing = MISSING) -> WideTable:
        """Raises FileNotFoundError; DataError if the file is empty, is not text, or has one column."""
        form = format_of(file)
        return cls(file, form, _second_header(form, file, missing), missing)

    @property
    def names(self) -> list[str]:
        return self.form.names

    @property
    def first_rows(self) -> list[list[str]]:
        return self.form.rows[self.skipped :]

    def columns(
        self, text: Sequence[int], numbers: Sequence[int] = (), progress: OnBytes | None = None
    ) -> Iterator[tuple[list[list[str]], list[pa.Array]]]:
        """Blocks of rows: the cells of the columns `text`, "" if missing, and those of `numbers`, or null.

        Columns are given by position, each once. Raises DataError if a cell is not a number (`not_numbers` finds all
        of them), or at the end with all rows of another length.
        """
        lengths: dict[int, str] = {}
        rows = 0
        types = {str(column): pa.string() for column in text} | {str(column): pa.float64() for column in numbers}
        above = self.form.above + 1 + self.skipped

        def another_length(row: pc.InvalidRow) -> str:
            cells = self.form.cells(row.text)
            if not cells or not self.missing.all(cells):
                lengths[above + (row.number or 0)] = f"{row.actual_columns} cells"
            return "skip"

        with text_lines(self.file, above, progress) as stream:
            try:
                reader = pc.open_csv(
                    stream,
                    pc.ReadOptions(
                        use_threads=False,
                        block_size=max(BLOCK, HEADERS_PER_BLOCK * self.form.size),
                        column_names=list(map(str, range(len(self.names)))),
                    ),
                    pc.ParseOptions(delimiter=self.form.separator, invalid_row_handler=another_length),
                    pc.ConvertOptions(
                        column_types=types,
                        include_columns=list(types),
                        null_values=sorted({*self.missing.spellings, *self._spellings}),
                    ),
                )
                for block in reader:
                    rows += len(block)
                    cells = [self._text(block[str(column)]) for column in text]
                    yield cells, [block[str(column)] for column in numbers]
            except StopIteration:
                pass
            except pa.ArrowInvalid as error:
                raise DataError(
                    [f"{self.file}: cannot be read as a table ({_reason(error)}). Fix: save it as UTF-8 text."]
                ) from error
        fix = "put a separator between all cells, and quote cells that hold one"
        tail = f"; the header has {len(self.names)}"
        raise_if_any(by_row(self.file, lengths, rows + len(lengths), tail, fix))

    def read(
        self,
        text: Sequence[int],
        numbers: Sequence[int],
        names: Sequence[str],
        of_block: Callable[[list[list[str]], list[pa.Array]], Part],
        progress: OnBytes | None = None,
    ) -> list[Part]:
        """What `of_block` makes of each block of these columns; `names` are those of the columns of numbers.

        Raises DataError with every cell that is not a number.
        """
        known = len(self._spellings)
        try:
            return [of_block(cells, values) for cells, values in self.columns(text, numbers, progress)]
        except DataError as error:
            raise_if_any(self.not_numbers(text[0], numbers, names))
            if len(self._spellings) == known:
                raise error
        return [of_block(cells, values) for cells, values in self.columns(text, numbers, progress)]

    def _text(self, cells: pa.Array) -> list[str]:
        found = [composed(str(cell).strip()) for cell in cells.to_pylist()]
        if odd := next((cell for cell in found if "\n" in cell or ('"' in cell and "\\" in cell)), None):
            raise DataError(
                [f"{self.file}: a quote is not closed, or not doubled, in {odd[:60]!r}. Fix: write it as two quotes."]
            )
        return ["" if cell in self.missing else cell for cell in found]

    def not_numbers(self, text: int, numbers: Sequence[int], names: Sequence[str]) -> list[str]:
        """A problem for every cell of these columns that is not a number. `text` is the column that names a row.

        Missing cells that are not among the usual spellings are learnt, so that `columns` reads them afterwards.
        """
        problems: list[str] = []
        rows = wrong_rows = 0
        with text_lines(self.file, self.form.above + 1 + self.skipped) as stream:
            lines = (line.decode("utf-8", "replace") for line in stream)
            for row in csv.reader(lines, delimiter=self.form.separator):
                if len(row) <= text:  # said as a row of another length
                    continue
                rows += 1
                before = len(problems)
                for column, name in zip(numbers, names, strict=True):
                    cell = row[column] if column < len(row) else ""
                    if cell in self.missing:
                        self._spellings.add(cell)
                    elif not is_number(cell.strip()):
                        problems.append(
                            f"{self.file}: {row[text].strip()[:60]!r}, {name!r}: {cell.strip()[:60]!r} is not a "
                            f"number. Fix: correct it."
                        )
                wrong_rows += len(problems) > before
        if wrong_rows == rows > 1:
            first = problems[0].partition(f"{self.file}: ")[2].partition(" Fix: ")[0]
            return [
                f"{self.file}: all {rows} rows have cells that are not numbers, first {first} "
                f"Fix: write numbers such as 12.5, with a decimal point, and leave out columns of text."
            ]
        return problems


def _second_header(form: Format, file: Path, missing: Missing) -> int:
    """The number of rows, 0 or 1, that are a second header, such as Firehose's `gene_id, normalized_count, ...`.

    Raises DataError if it names several kinds of values: a sample has one value of a gene.
    """
    if len(form.rows) < 2:
        return 0
    first, second = ({cell for cell in row[1:] if cell not in missing} for row in form.rows[:2])
    if not first or any(map(is_number, first)) or not any(map(is_number, second)) or len(first) > 3:
        return 0
    if len(first) > 1:
        raise DataError(
            [
                f"{file}: its second line names several kinds of values, {preview(sorted(first))}; expected one value "
                f"of a gene per sample. Fix: keep the columns of one kind."
            ]
        )
    return 1


def _reason(error: Exception) -> str:
    """The message without the row that pyarrow shows, as it holds data of a patient."""
    return shortened(str(error).split(": ")[0].split("\n")[0], 120)
