"""Expression of a cohort's cases, from whatever table it comes in; streamed, so that memory holds what is kept alone.

orientation   told by where the case ids are: in the header (Xena) or in one of the first columns (SurvPath, MMP)
genes         all cells of the other axis; of a table with `GENE_rnaseq` columns (PORPOISE) those
samples       of the types asked for, 01 (the primary tumour) by default; of several of a case the first, as SurvPath
symbols       of Ensembl ids by a probemap; of several rows of one symbol the one with the highest mean, for copies
              that never vary (those of chromosome Y) would otherwise hide the gene
aliases       a gene of a pathway that is measured under another of its names gets the name of the pathway
kept          the genes of the pathways, unless all are asked for
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.cohort import COVERAGE
from survq.data.folder import Folder
from survq.data.ledger import read_cases, read_dropped, read_source, update_cohort
from survq.data.problems import DataError, some
from survq.importing.barcodes import PRIMARY, case_of, sample_type
from survq.importing.coverage import read_pathways, write_coverage
from survq.importing.genes import Aliases, GeneMap, are_ensembl
from survq.importing.opened import Progress, sha256
from survq.importing.units import HIGHEST_LOGARITHM, guess_unit
from survq.importing.wide_table import columns, header, not_numbers

RNA = "_rnaseq"
FIRST_COLUMNS = 5  # the case ids stand in one of them, where they stand in a column


@dataclass(frozen=True)
class Expression:
    """What a table says of the cases of a cohort."""

    values: pd.DataFrame  # case_id x gene, float32
    unlabelled: tuple[str, ...]  # ids of the same table that are no case
    source: dict  # what it was read from, in which unit, and by which rules
    notes: tuple[str, ...]  # for people


def import_expression(
    file: Path,
    root: Folder,
    cohort: str,
    gene_map: Path | None = None,
    aliases: Path | None = None,
    all_genes: bool = False,
    sample_types: Collection[str] = PRIMARY,
    progress: Progress | None = None,
) -> tuple[Expression, pd.DataFrame]:
    """Put a table's expression into a cohort whose labels are there; returns it, and dropped.csv as it is now.

    Raises DataError with everything that is wrong, and then nothing has been written.
    """
    folder = root / cohort
    cases, pathways = read_cases(folder), read_pathways(root)
    ids_to_symbols = GeneMap.read(gene_map) if gene_map else None
    names = Aliases.read(aliases, ids_to_symbols) if aliases else None
    if names and not len(pathways):
        raise DataError([f"{root}/pathways.gmt is missing: aliases are those of its genes. Mend: import it first."])
    wanted = {gene for members in pathways.genes for gene in members}
    read = read_expression(
        file,
        cases.index,
        None if all_genes or not wanted else wanted,
        wanted,
        ids_to_symbols,
        names,
        sample_types,
        progress,
    )
    for what, used in (("gene_map", gene_map), ("aliases", aliases)):
        if used:
            read.source[what] = {"file": used.name, "sha256": sha256(used)}
    known = {*cases.index, *read_dropped(folder)}
    strangers = [case for case in read.unlabelled if case not in known]
    notes = [*read.notes, *_other_units(root, cohort, read.source["unit"])]
    if len(strangers) > len(read.values):  # a table of many cohorts
        notes.append(f"{len(strangers)} further cases of this table have no label here: not listed, for they are most")
        read.source["further_cases_not_listed"] = len(strangers)
        strangers = []
    if lacking := sorted(set(cases.index) - set(read.values.index)):
        notes.append(f"{len(lacking)} cases of this cohort are not in it: {some(lacking)}")
    dropped = update_cohort(
        folder, {"expression": read.source}, expression=read.values, unlabelled={"expression": strangers}
    )
    write_coverage(root)
    if wanted:
        covered = len(pathways.covered_by(read.values.columns, COVERAGE))
        missing = len(wanted - set(read.values.columns))
        notes.insert(0, f"{covered} of {len(pathways)} pathways are covered to {COVERAGE:.0%}; {missing:,} of their "
                        f"{len(wanted):,} genes are missing, see {root}/coverage.csv")  # fmt: skip
    else:
        notes.append("there is no pathways.gmt yet, so all genes were kept")
    return Expression(read.values, tuple(strangers), read.source, tuple(notes)), dropped


def read_expression(
    file: Path,
    cases: Collection[str],
    kept_genes: Collection[str] | None = None,
    pathway_genes: Collection[str] = (),
    gene_map: GeneMap | None = None,
    aliases: Aliases | None = None,
    sample_types: Collection[str] = PRIMARY,
    progress: Progress | None = None,
) -> Expression:
    """Read the expression of `cases`, by the rules above; all genes unless `kept_genes` says which.

    Raises FileNotFoundError; DataError with every row and cell that cannot be used.
    """
    file, cases = Path(file), set(cases)
    names = header(file)
    aliases = aliases or Aliases()
    needed = None if kept_genes is None else {*kept_genes, *aliases.of_any(kept_genes)}
    if any(case_of(name) in cases for name in names):
        table = _read_columns_of_samples(file, names, cases, needed, gene_map, sample_types, progress)
    else:
        table = _read_columns_of_genes(file, names, cases, needed, gene_map, sample_types, progress)
    symbols, matrix, notes = table.symbols, table.values, list(table.notes)

    values, twice = _one_a_symbol(symbols, matrix)
    renamed, unclear = aliases.renamed(table.measured, pathway_genes)
    values = pd.DataFrame(values, index=pd.Index(table.cases, name="case_id")).rename(columns=renamed)
    if kept_genes is not None:
        values = values[[gene for gene in values if gene in kept_genes]]
    values = values.sort_index()
    if not values.shape[1]:
        raise DataError(
            [
                f"{file}: has none of the {len(kept_genes or ()):,} genes of the pathways; its genes are called "
                f"{some(sorted(table.measured))}, those of the pathways {some(sorted(kept_genes or ()))}. "
                f"Mend: use the same names, or --aliases."
            ]
        )
    found = values.to_numpy()
    unit = guess_unit(found, file.name)
    low, high = float(np.nanmin(found)), float(np.nanmax(found))
    constant = values.columns[(found == found[:1]).all(axis=0)]
    if table.repeated:
        same = "the same in all" if table.repeated_agree else "the first was kept"
        notes.append(f"{len(table.repeated)} cases have several rows or columns, {same}: {some(table.repeated, 9)}")
    if twice:
        notes.append(f"{len(twice)} genes stand in several rows, the highest on average was kept: {some(twice)}")
    if renamed:
        pairs = [f"{one} as {other}" for one, other in sorted(renamed.items())]
        notes.append(f"{len(renamed)} genes were renamed as the pathways have them: {some(pairs, 9)}")
    if unclear:
        notes.append(f"{len(unclear)} genes of the pathways have several readings in the aliases: {some(unclear)}")
    if len(constant):
        notes.append(f"{len(constant)} genes are the same in all cases: {some(constant)}")
    if max(-low, high) > HIGHEST_LOGARITHM:
        beyond = values.columns[np.abs(found).max(axis=0) > HIGHEST_LOGARITHM]
        extreme = values.columns[np.abs(found).max(axis=0).argmax()]
        notes.append(
            f"{len(beyond)} genes go beyond +-{HIGHEST_LOGARITHM:g}, {extreme!r} to {np.abs(found).max():g}: "
            f"not on a log scale, or outliers"
        )
    source = {
        **{"file": file.name, "sha256": sha256(file), "layout": table.layout, "unit": unit},
        **{"lowest": round(low, 4), "highest": round(high, 4), "genes": values.shape[1]},
        **{"genes_in_the_table": len(table.measured), "sample_types": sorted(sample_types)},
        "genes_kept": "all" if kept_genes is None else "those of the pathways",
        "several_rows_of_a_case_first_kept": table.repeated,
        "several_rows_of_a_gene_highest_mean_kept": twice,
        "renamed": renamed,
    }
    return Expression(values, tuple(table.unlabelled), source, tuple(notes))


@dataclass(frozen=True)
class _Table:
    layout: str
    cases: list[str]
    symbols: list[str]  # may repeat
    values: np.ndarray  # (case, symbol), float32
    measured: set[str]  # the symbols of the whole table
    repeated: list[str]
    repeated_agree: bool
    unlabelled: list[str]
    notes: list[str]


def _read_columns_of_samples(
    file: Path,
    names: Sequence[str],
    cases: Collection[str],
    needed: Collection[str] | None,
    gene_map: GeneMap | None,
    sample_types: Collection[str],
    progress: Progress | None,
) -> _Table:
    """A row a gene, its name in the first column."""
    samples = _Samples(cases, sample_types)
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
        raise DataError([f"{file}: no gene in {ids.count('')} rows. Mend: name them or drop them."])
    notes = [f"{unmapped:,} of {len(ids):,} ids are not in the gene map"] if unmapped else []
    values = np.concatenate(parts).T if parts else np.empty((len(kept), 0), np.float32)
    return _Table("a row a gene", samples.kept, symbols, values, measured, samples.repeated, False, samples.unlabelled,
                  [*samples.notes(), *notes])  # fmt: skip


def _read_columns_of_genes(
    file: Path,
    names: Sequence[str],
    cases: Collection[str],
    needed: Collection[str] | None,
    gene_map: GeneMap | None,
    sample_types: Collection[str],
    progress: Progress | None,
) -> _Table:
    """A row a sample, or a slide; genes to the right of the column that names it."""
    first = list(range(min(FIRST_COLUMNS, len(names))))
    hits = np.zeros(len(first), dtype=int)
    examples: list[str] = []
    for cells_of, _ in columns(file, text=first):
        hits += [sum(case_of(cell) in cases for cell in column) for column in cells_of]
        examples = examples or [cell for column in cells_of for cell in column[:1] if cell[:1].isalpha()]
    if not hits.any():
        raise DataError(
            [
                f"{file}: none of its rows or columns is a case of this cohort: its header has {some(names[1:], 2)}, "
                f"its first row {some(examples) or 'no id'}, the cohort {some(sorted(cases), 2)}. "
                f"Mend: use the same case ids."
            ]
        )
    id_column = int(hits.argmax())
    of_rna = [column for column, name in enumerate(names) if name.endswith(RNA)]
    genes = {column: names[column].removesuffix(RNA) for column in of_rna or range(id_column + 1, len(names))}
    _refuse_ids(list(genes.values()), gene_map, file)
    found = {column: gene_map.symbol(name) if gene_map else name for column, name in genes.items()}
    measured = {gene for gene in found.values() if gene}
    kept = {column: gene for column, gene in found.items() if gene and (needed is None or gene in needed)}
    samples = _Samples(cases, sample_types)
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
        raise DataError([f"{file}: no case id in the lines {some(blanks)}. Mend: add them or drop the lines."])
    if kept:
        samples.raise_if_none(file, [])
    matrix = np.concatenate(parts)
    row_of = {case: row for row, case in enumerate(samples.kept)}
    agree = all(np.array_equal(matrix[row_of[case]], values, equal_nan=True) for case, values in later)
    layout = f"a row a slide, genes in the columns *{RNA}" if of_rna else "a row a case"
    return _Table(layout, samples.kept, list(kept.values()), matrix, measured, samples.repeated, agree,
                  samples.unlabelled, samples.notes())  # fmt: skip


class _Samples:
    """Which samples of a table are taken: the first of each case, of the types asked for."""

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

    @property
    def repeated(self) -> list[str]:
        return sorted(self._repeated)

    @property
    def unlabelled(self) -> list[str]:
        return sorted(case for case in self._unlabelled if case)

    def notes(self) -> list[str]:
        other = self.of_other_types
        return [f"{other:,} samples are of other types than {' '.join(sorted(self.types))}"] if other else []

    def raise_if_none(self, file: Path, names: Sequence[str]) -> None:
        if not self._kept:
            raise DataError(
                [
                    f"{file}: none of the samples of these cases is of type {' '.join(sorted(self.types))}"
                    f"{': ' + some(names) if names else ''}. Mend: --sample-types."
                ]
            )


def _refuse_ids(names: Collection[str], gene_map: GeneMap | None, file: Path) -> None:
    if gene_map is None and are_ensembl(names):
        raise DataError(
            [
                f"{file}: its genes are Ensembl ids such as {some(names, 2)}; pathways name symbols. Mend: --gene-map "
                f"with the probemap that Xena offers beside the table (gencode.v23 with Toil, gencode.v36 with GDC)."
            ]
        )
    if gene_map is not None and not are_ensembl(names):
        raise DataError([f"{file}: its genes are no Ensembl ids: {some(names)}. Mend: leave --gene-map away."])


def _one_a_symbol(symbols: Sequence[str], matrix: np.ndarray) -> tuple[dict[str, np.ndarray], list[str]]:
    """The (case,) values of each symbol, and the symbols that stood more than once."""
    mean = matrix.mean(axis=0, dtype=np.float64)
    best: dict[str, int] = {}
    twice: dict[str, None] = {}
    for column, gene in enumerate(symbols):
        if gene in best:
            twice[gene] = None
        if gene not in best or mean[column] > mean[best[gene]]:
            best[gene] = column
    return {gene: matrix[:, column] for gene, column in best.items()}, sorted(twice)


def _other_units(root: Folder, cohort: str, unit: str) -> list[str]:
    """What to say where other cohorts of the folder have their expression in another unit."""
    units: Mapping[str, str] = {
        name: str(facts.get("expression", {}).get("unit", ""))
        for name in root.names()
        if name != cohort and (root / name).is_folder() and (facts := read_source(root / name))
    }
    others = sorted({f"{name}: {other}" for name, other in units.items() if other and other != unit})
    return [f"the unit is {unit}", *([f"OTHER COHORTS HAVE OTHER UNITS: {'; '.join(others)}"] if others else [])]
