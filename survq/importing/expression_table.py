"""Stream tables of expression: only imported values are held in memory, however large the table.

orientation   detected by the position of the case ids: the header (Xena) or a column (SurvPath, MMP, see id_columns.py)
genes         all cells of the other axis; in a table with `GENE_rnaseq` columns (PORPOISE) only those
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from survq.data.barcodes import PRIMARY, is_barcode
from survq.data.problems import DataError
from survq.importing.decompress import OnBytes
from survq.importing.genes import ENSEMBL, GeneMap, are_ensembl
from survq.importing.id_columns import (
    Sample,
    candidate_columns,
    plain,
    samples_of_header,
    samples_of_rows,
)
from survq.importing.missing import MISSING, Missing
from survq.importing.table_format import is_number
from survq.importing.wide_table import WideTable
from survq.text import preview

RNA = "_rnaseq"
ROW_NUMBERS = re.compile(r"|Unnamed: \d+|index")  # the names of pandas' index
FIRST_COLUMNS = 5  # number of columns searched for the case ids, in addition to those with telling names
SYMBOLS = {"genesymbol", "symbol", "hugosymbol", "hgncsymbol", "genename", "externalgenename", "gene"}


@dataclass(frozen=True)
class Reading:
    """How to read a table of expression: what the user stated."""

    gene_map: GeneMap | None = None
    sample_types: Collection[str] = PRIMARY
    case_column: str | None = None
    sample_column: str | None = None
    missing: Missing = MISSING
    progress: OnBytes | None = None

    def symbol(self, name: str) -> str:
        """The symbol of a gene in the table; "" if it has none. Firehose's TP53|7157 is TP53."""
        if self.gene_map is not None:
            return self.gene_map.symbol(name) or ""
        symbol = name.partition("|")[0].strip()
        return "" if symbol in self.missing or symbol == "case_id" else symbol  # the name of the ids' own column


AS_FOUND = Reading()
"""Nothing is stated: all is found by the rules."""


@dataclass(frozen=True)
class SampleTable:
    """The needed symbols in the first sample of each needed case."""

    layout: str
    cases: list[str]
    symbols: list[str]  # may repeat
    values: np.ndarray  # (case, symbol), float32
    measured: set[str]  # the symbols of the whole table
    repeated: dict[str, list[str]]  # case -> the names of its samples; the first was kept
    repeated_agree: bool
    unlabelled: list[str]
    notes: list[str]


def read_table(file: Path, cases: Collection[str], *, needed: Collection[str] | None, reading: Reading) -> SampleTable:
    """The expression of `cases`, for the symbols `needed`, or for all.

    Raises FileNotFoundError; DataError with every invalid row and cell.
    """
    table, cases = WideTable.open(file, reading.missing), set(cases)
    header, others = samples_of_header(table.names, cases)
    in_header = [sample for sample in header if sample.case in cases]
    if in_header and reading.case_column is None and all(is_barcode(sample.name) for sample in in_header):
        return _read_columns_of_samples(table, cases, header, others, needed, reading)
    rows = _samples_of_rows(table, cases, reading, bool(in_header))
    if rows is not None and in_header and reading.case_column is None:
        raise DataError(
            [
                f"{file}: both its header and its column {table.names[rows[1]]!r} hold ids of this cohort. Fix: state "
                f"--case-column if a row is a case; else rename that column to gene."
            ]
        )
    if rows is not None:
        return _read_columns_of_genes(table, cases, *rows, needed, reading)
    if in_header:
        return _read_columns_of_samples(table, cases, header, others, needed, reading)
    first = [cell for cell in table.first_rows[0] if cell] if table.first_rows else []
    raise DataError(
        [
            f"{file}: none of its rows or columns is a case of this cohort. Its header has "
            f"{preview(table.names[1:], 2)}; its first row has {preview(first, 2) or 'no id'}; the cohort has "
            f"{preview(sorted(cases), 2)}. Fix: use the same case ids."
        ]
    )


def _samples_of_rows(
    table: WideTable, cases: Collection[str], reading: Reading, in_header: bool
) -> tuple[list[Sample], int, set[int]] | None:
    stated = (reading.case_column, reading.sample_column)
    candidates = candidate_columns(table.names, FIRST_COLUMNS, stated)
    columns: dict[int, list[str]] = {column: [] for column in candidates}
    for blocks, _ in table.columns(candidates):
        for column, cells in zip(candidates, blocks, strict=True):
            columns[column] += cells
    return samples_of_rows(
        table.names,
        columns,
        cases,
        table.file,
        case_column=reading.case_column,
        sample_column=reading.sample_column,
        in_header=in_header,
    )


def _read_columns_of_samples(
    table: WideTable,
    cases: Collection[str],
    header: Sequence[Sample],
    others: Sequence[int],
    needed: Collection[str] | None,
    reading: Reading,
) -> SampleTable:
    """A table with one row per gene."""
    samples = _Selection.of(header, cases, reading.sample_types)
    samples.raise_if_none(table.file, header)
    kept = list(samples.kept.values())
    gene_column = _gene_column(table, others, reading)

    def needed_rows(text: list[list[str]], cells: list) -> tuple[list[str], list[str], np.ndarray]:
        symbols = [reading.symbol(name) for name in text[0]]
        rows = [row for row, gene in enumerate(symbols) if gene and (needed is None or gene in needed)]
        values = np.column_stack([column.to_numpy(zero_copy_only=False)[rows] for column in cells])
        return text[0], [symbols[row] for row in rows], values.astype(np.float32)

    names = [table.names[column] for column in kept]
    parts = table.read([gene_column], kept, names, needed_rows, reading.progress)
    ids = [name for block, _, _ in parts for name in block if name]
    _refuse_ids(ids, reading.gene_map, table.file)
    measured = set(map(reading.symbol, ids)) - {""}
    unnamed = sum(not reading.symbol(name) for name in ids)
    notes = table.form.notes
    if unnamed and reading.gene_map is not None:
        notes.append(f"{unnamed:,} of {len(ids):,} ids are not in the gene map")
    elif unnamed := sum(not reading.symbol(name) for block, _, _ in parts for name in block):
        notes.append(f"{unnamed:,} rows name no gene and were ignored")
    if more := [table.names[column] for column in others if column != gene_column and table.names[column]]:
        notes.append(f"columns that are no samples were ignored: {preview(more, 9)}")
    values = np.concatenate([part for _, _, part in parts]).T if parts else np.empty((len(kept), 0), np.float32)
    symbols = [gene for _, block, _ in parts for gene in block]
    return samples.table("one row per gene", symbols, values, measured, notes)


def _gene_column(table: WideTable, others: Sequence[int], reading: Reading) -> int:
    """The column that names the gene of a row: by its name, else the first that is not a row number."""
    columns = list(others) or [0]
    cells = {column: [row[column] for row in table.first_rows if column < len(row)] for column in columns}
    columns = [column for column in columns if not (not table.names[column] and all(map(is_number, cells[column])))]
    columns = columns or [0]
    of_ids = [column for column in columns if any(ENSEMBL.fullmatch(cell) for cell in cells.get(column, ()))]
    if reading.gene_map is not None and of_ids:
        return of_ids[0]
    named = [column for column in columns if plain(table.names[column]) in SYMBOLS and column not in of_ids]
    described = [column for column in columns if plain(table.names[column]) == "description"]
    if columns[0] in of_ids or all(map(is_number, cells.get(columns[0], ()))):
        return [*named, *(described if columns[0] in of_ids else ()), columns[0]][0]
    return columns[0]


def _read_columns_of_genes(
    table: WideTable,
    cases: Collection[str],
    rows: Sequence[Sample],
    case_column: int,
    id_columns: Collection[int],
    needed: Collection[str] | None,
    reading: Reading,
) -> SampleTable:
    """A table with one row per sample or slide, and one column per gene."""
    names, file = table.names, table.file
    samples = _Selection.of([row for row in rows if row.case], cases, reading.sample_types)
    rna_columns = [column for column, name in enumerate(names) if name.endswith(RNA)]
    columns = rna_columns or [
        column for column, name in enumerate(names) if column not in id_columns and not ROW_NUMBERS.fullmatch(name)
    ]
    genes = {column: names[column].removesuffix(RNA) for column in columns}
    _refuse_ids(list(genes.values()), reading.gene_map, file)
    symbols = {column: symbol for column, name in genes.items() if (symbol := reading.symbol(name))}
    text = [] if needed is not None else [column for column in symbols if _holds_text(table, column)]
    measured = {symbol for column, symbol in symbols.items() if column not in text}
    kept = {
        column: symbol
        for column, symbol in symbols.items()
        if column not in text and (needed is None or symbol in needed)
    }
    samples.raise_if_none(file, [])
    named = [bool(row.case) for row in rows]
    done = 0

    def needed_rows(_: list[list[str]], cells: list) -> tuple[int, list[int], np.ndarray]:
        values = np.column_stack([column.to_numpy(zero_copy_only=False) for column in cells]).astype(np.float32)
        return len(values), np.flatnonzero(~np.isnan(values).all(axis=1)).tolist(), values

    parts = [np.empty((0, len(kept)), np.float32)]
    later: dict[int, np.ndarray] = {}
    without_id: list[int] = []
    wanted = {place: case for case, place in samples.kept.items()}
    read = table.read([case_column], list(kept), list(kept.values()), needed_rows, reading.progress) if kept else []
    for count, filled, values in read:
        without_id += [done + row for row in filled if not named[done + row]]
        parts.append(values[[row for row in range(count) if done + row in wanted]])
        later |= {done + row: values[row].copy() for row in range(count) if done + row in samples.further}
        done += count
    if without_id:
        lines = [table.form.above + table.skipped + 2 + row for row in without_id]
        raise DataError([f"{file}: no case id in lines {preview(lines)}. Fix: add it or drop the lines."])
    matrix = np.concatenate(parts)
    row_of = {case: row for row, case in enumerate(samples.kept)}
    agree = all(
        np.array_equal(matrix[row_of[samples.further[place]]], values, equal_nan=True)
        for place, values in later.items()
    )
    layout = f"one row per slide, genes in the columns *{RNA}" if rna_columns else "one row per case"
    notes = table.form.notes
    if text:
        notes.append(f"columns without numbers were ignored: {preview([names[column] for column in text], 9)}")
    return samples.table(layout, list(kept.values()), matrix, measured, notes, agree)


def _holds_text(table: WideTable, column: int) -> bool:
    """Whether none of the first cells of a column is a number."""
    cells = [row[column] for row in table.first_rows if column < len(row) and row[column] not in table.missing]
    return bool(cells) and not any(is_number(cell.replace(",", ".")) for cell in cells)  # 1,5 is said, not passed over


@dataclass
class _Selection:
    """The samples of a table to import: the first of each case, of the given types."""

    types: Collection[str]
    kept: dict[str, int] = field(default_factory=dict)  # case -> its place
    further: dict[int, str] = field(default_factory=dict)  # place -> case, of samples after the first
    names: dict[str, list[str]] = field(default_factory=dict)  # case -> its samples
    unlabelled: dict[str, None] = field(default_factory=dict)
    of_other_types: int = 0

    @classmethod
    def of(cls, samples: Iterable[Sample], cases: Collection[str], types: Collection[str]) -> _Selection:
        found = cls(types)
        for sample in samples:
            if sample.kind not in (None, *types):
                found.of_other_types += 1
                continue
            if sample.case not in cases:
                found.unlabelled[sample.case] = None
            elif sample.case in found.kept:
                found.further[sample.place] = sample.case
                found.names[sample.case].append(sample.name)
            else:
                found.kept[sample.case] = sample.place
                found.names[sample.case] = [sample.name]
        return found

    def table(
        self,
        layout: str,
        symbols: list[str],
        values: np.ndarray,
        measured: set[str],
        notes: list[str],
        repeated_agree: bool = False,
    ) -> SampleTable:
        if other := self.of_other_types:
            notes = [f"{other:,} samples of types other than {' '.join(sorted(self.types))} were ignored", *notes]
        return SampleTable(
            layout=layout,
            cases=list(self.kept),
            symbols=symbols,
            values=values,
            measured=measured,
            repeated={case: self.names[case] for case in sorted(set(self.further.values()))},
            repeated_agree=repeated_agree,
            unlabelled=sorted(case for case in self.unlabelled if case),
            notes=notes,
        )

    def raise_if_none(self, file: Path, samples: Sequence[Sample]) -> None:
        if not self.kept:
            names = preview([sample.name for sample in samples])
            raise DataError(
                [
                    f"{file}: none of the samples of these cases is of type {' '.join(sorted(self.types))}"
                    f"{': ' + names if names else ''}. Fix: state other types with --sample-types."
                ]
            )


def _refuse_ids(names: Collection[str], gene_map: GeneMap | None, file: Path) -> None:
    if gene_map is None and are_ensembl(names):
        raise DataError(
            [
                f"{file}: its genes are Ensembl ids such as {preview(names, 2)}; pathways need symbols. "
                f"Fix: pass Xena's probemap of the table (gencode.v23 for Toil, gencode.v36 for GDC) with --gene-map."
            ]
        )
    if gene_map is not None and not are_ensembl(names):
        raise DataError([f"{file}: its genes are not Ensembl ids: {preview(names)}. Fix: omit --gene-map."])
