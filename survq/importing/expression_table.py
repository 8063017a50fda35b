"""Stream tables of expression: only imported values are held in memory, however large the table.

orientation   detected by the position of the case ids: the header (Xena) or one of the first columns (SurvPath, MMP)
genes         all cells of the other axis; in a table with `GENE_rnaseq` columns (PORPOISE) only those
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from survq.data.barcodes import case_of, sample_type
from survq.data.problems import DataError
from survq.importing.decompress import OnBytes
from survq.importing.genes import GeneMap, are_ensembl
from survq.importing.wide_table import columns, header, not_numbers
from survq.text import preview

RNA = "_rnaseq"
FIRST_COLUMNS = 5  # number of columns searched for the case ids


@dataclass(frozen=True)
class SampleTable:
    """The needed symbols in the first sample of each needed case."""

    layout: str
    cases: list[str]
    symbols: list[str]  # may repeat
    values: np.ndarray  # (case, symbol), float32
    measured: set[str]  # the symbols of the whole table
    repeated: list[str]
    repeated_agree: bool
    unlabelled: list[str]
    notes: list[str]


def read_table(
    file: Path,
    cases: Collection[str],
    *,
    needed: Collection[str] | None,
    gene_map: GeneMap | None,
    sample_types: Collection[str],
    progress: OnBytes | None,
) -> SampleTable:
    """The expression of `cases` in samples of `sample_types`, for the symbols `needed`, or for all.

    Raises FileNotFoundError; DataError with every invalid row and cell.
    """
    names, cases = header(file), set(cases)
    in_header = any(case_of(name) in cases for name in names)
    read = _read_columns_of_samples if in_header else _read_columns_of_genes
    samples = _Samples(cases, sample_types)
    return read(file, names, samples, needed=needed, gene_map=gene_map, progress=progress)


def _read_columns_of_samples(
    file: Path,
    names: Sequence[str],
    samples: _Samples,
    *,
    needed: Collection[str] | None,
    gene_map: GeneMap | None,
    progress: OnBytes | None,
) -> SampleTable:
    """A table with one row per gene, named in the first column."""
    kept = [column for column, name in enumerate(names) if column > 0 and samples.take(name)]
    samples.raise_if_none(file, names[1:])
    ids: list[str] = []
    symbols: list[str] = []
    parts: list[np.ndarray] = []
    measured: set[str] = set()
    unmapped = 0
    try:
        for (block,), cells in columns(file, [0], kept, progress):
            ids += block
            found = [gene_map.symbol(name) if gene_map else name for name in block]
            measured.update(filter(None, found))
            unmapped += found.count(None)
            rows = [row for row, gene in enumerate(found) if gene and (needed is None or gene in needed)]
            if not rows:
                continue
            symbols += [gene for gene in (found[row] for row in rows) if gene]
            part = np.column_stack([column.to_numpy(zero_copy_only=False)[rows] for column in cells])
            parts.append(part.astype(np.float32))
    except DataError as error:
        raise DataError(not_numbers(file, 0, kept, [names[column] for column in kept]) or error.problems) from error
    _refuse_ids(ids, gene_map, file)
    if "" in ids:
        raise DataError([f"{file}: {ids.count('')} rows do not name a gene. Fix: name it or drop the rows."])
    notes = [f"{unmapped:,} of {len(ids):,} ids are not in the gene map"] if unmapped else []
    values = np.concatenate(parts).T if parts else np.empty((len(kept), 0), np.float32)
    return samples.table("one row per gene", symbols, values, measured, notes)


def _read_columns_of_genes(
    file: Path,
    names: Sequence[str],
    samples: _Samples,
    *,
    needed: Collection[str] | None,
    gene_map: GeneMap | None,
    progress: OnBytes | None,
) -> SampleTable:
    """A table with one row per sample or slide, named in one of the first columns; genes in the columns after it."""
    first = list(range(min(FIRST_COLUMNS, len(names))))
    hits = np.zeros(len(first), dtype=int)
    examples: list[str] = []
    for cells_of, _ in columns(file, text=first):
        hits += [sum(case_of(cell) in samples.cases for cell in column) for column in cells_of]
        examples = examples or [cell for column in cells_of for cell in column[:1] if cell[:1].isalpha()]
    if not hits.any():
        raise DataError(
            [
                f"{file}: none of its rows or columns is a case of this cohort. Its header has "
                f"{preview(names[1:], 2)}; its first row has {preview(examples) or 'no id'}; the cohort has "
                f"{preview(sorted(samples.cases), 2)}. Fix: use the same case ids."
            ]
        )
    id_column = int(hits.argmax())
    rna_columns = [column for column, name in enumerate(names) if name.endswith(RNA)]
    genes = {column: names[column].removesuffix(RNA) for column in rna_columns or range(id_column + 1, len(names))}
    _refuse_ids(list(genes.values()), gene_map, file)
    found = {column: gene_map.symbol(name) if gene_map else name for column, name in genes.items()}
    measured = {gene for gene in found.values() if gene}
    kept = {column: gene for column, gene in found.items() if gene and (needed is None or gene in needed)}
    parts = [np.empty((0, len(kept)), np.float32)]
    later: list[tuple[str, np.ndarray]] = []
    blanks: list[str] = []
    line = 1
    try:
        for (block,), cells in columns(file, [id_column], list(kept), progress) if kept else ():
            blanks += [str(line + row) for row, name in enumerate(block, start=1) if not name]
            line += len(block)
            values = np.column_stack([column.to_numpy(zero_copy_only=False) for column in cells]).astype(np.float32)
            rows = []
            for row, name in enumerate(block):
                if samples.take(name):
                    rows.append(row)
                elif samples.is_repeated(name):
                    later.append((case_of(name), values[row].copy()))
            parts.append(values[rows])
    except DataError as error:
        raise DataError(not_numbers(file, id_column, list(kept), list(kept.values())) or error.problems) from error
    if blanks:
        raise DataError([f"{file}: no case id in lines {preview(blanks)}. Fix: add it or drop the lines."])
    if kept:
        samples.raise_if_none(file, [])
    matrix = np.concatenate(parts)
    row_of = {case: row for row, case in enumerate(samples.kept)}
    agree = all(np.array_equal(matrix[row_of[case]], values, equal_nan=True) for case, values in later)
    layout = f"one row per slide, genes in the columns *{RNA}" if rna_columns else "one row per case"
    return samples.table(layout, list(kept.values()), matrix, measured, [], agree)


class _Samples:
    """The samples of a table to import: the first of each case, of the given types."""

    def __init__(self, cases: Collection[str], types: Collection[str]):
        self.cases, self.types = cases, types
        self._kept: dict[str, None] = {}
        self._repeated: dict[str, None] = {}
        self._unlabelled: dict[str, None] = {}
        self.of_other_types = 0

    def take(self, name: str) -> bool:
        case = case_of(name)
        if sample_type(name) not in (None, *self.types):
            self.of_other_types += 1
        elif case not in self.cases:
            self._unlabelled[case] = None
        elif case in self._kept:
            self._repeated[case] = None
        else:
            self._kept[case] = None
            return True
        return False

    def is_repeated(self, name: str) -> bool:
        return case_of(name) in self._repeated and sample_type(name) in (None, *self.types)

    @property
    def kept(self) -> list[str]:
        return list(self._kept)

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
            cases=self.kept,
            symbols=symbols,
            values=values,
            measured=measured,
            repeated=sorted(self._repeated),
            repeated_agree=repeated_agree,
            unlabelled=sorted(case for case in self._unlabelled if case),
            notes=notes,
        )

    def raise_if_none(self, file: Path, names: Sequence[str]) -> None:
        if not self._kept:
            raise DataError(
                [
                    f"{file}: none of the samples of these cases is of type {' '.join(sorted(self.types))}"
                    f"{': ' + preview(names) if names else ''}. Fix: state other types with --sample-types."
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
