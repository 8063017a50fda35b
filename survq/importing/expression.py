"""Expression of a cohort's cases, from whatever table it comes in: by which rules it is read, and into the cohort.

    samples    of the types asked for, 01 (the primary tumour) by default; of several of a case the first, as SurvPath
    symbols    of Ensembl ids by a probemap; of several rows of one symbol the one with the highest mean, for copies
               that never vary (those of chromosome Y) would otherwise hide the gene
    aliases    a gene of a gene set that is measured under another of its names gets the name of the gene set
    kept       the genes of all gene sets of the data folder, unless all are asked for
    missing    a cell without a number is refused, with its gene and case

How the tables themselves are read stands in expression_table.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.barcodes import PRIMARY
from survq.data.cohort_files import cohort_folder, labelled, read_cases, read_source, update_cohort
from survq.data.location import Location
from survq.data.problems import DataError
from survq.importing.coverage import genes_of, given_gene_sets, write_coverage
from survq.importing.decompress import OnBytes, sha256
from survq.importing.expression_table import SampleTable, read_table
from survq.importing.genes import Aliases, GeneMap
from survq.importing.units import HIGHEST_LOGARITHM, guess_unit
from survq.text import preview


@dataclass(frozen=True)
class Expression:
    """What a table says of the cases of a cohort."""

    values: pd.DataFrame  # case_id x gene, float32
    unlabelled: tuple[str, ...]  # ids of the same table that are no case
    source: dict  # what it was read from, in which unit, and by which rules
    notes: tuple[str, ...]  # for people


def import_expression(
    file: Path,
    root: Location,
    cohort: str,
    *,
    gene_map: Path | None = None,
    aliases: Path | None = None,
    all_genes: bool = False,
    sample_types: Collection[str] = PRIMARY,
    progress: OnBytes | None = None,
) -> tuple[Expression, pd.DataFrame]:
    """Put a table's expression into a cohort whose labels are there; returns it, and dropped.csv as it is now.

    Raises DataError with everything that is wrong, and then nothing has been written.
    """
    folder = cohort_folder(root, cohort)
    cases, collections = read_cases(folder), given_gene_sets(root)
    ids_to_symbols = GeneMap.read(gene_map) if gene_map else None
    names = Aliases.read(aliases, ids_to_symbols) if aliases else None
    if names and not collections:
        raise DataError([f"{root}: has no gene sets, and aliases are those of their genes. Fix: import them first."])
    wanted = genes_of(collections)
    read = read_expression(
        file,
        cases.index,
        wanted=wanted,
        all_genes=all_genes,
        gene_map=ids_to_symbols,
        aliases=names,
        sample_types=sample_types,
        progress=progress,
    )
    for what, used in (("gene_map", gene_map), ("aliases", aliases)):
        if used:
            read.source[what] = {"file": used.name, "sha256": sha256(used)}
    strangers = sorted(set(read.unlabelled) - labelled(folder))
    notes = [*read.notes, *_other_units(root, cohort, read.source["unit"])]
    if len(strangers) > len(read.values):  # a table of many cohorts
        notes.append(f"{len(strangers)} further cases of this table have no label here: not listed, for they are most")
        read.source["further_cases_not_listed"] = len(strangers)
        strangers = []
    if lacking := sorted(set(cases.index) - set(read.values.index)):
        notes.append(f"{len(lacking)} cases of this cohort are not in it: {preview(lacking)}")
    dropped = update_cohort(
        folder, {"expression": read.source}, expression=read.values, unlabelled={"expression": strangers}
    )
    covered = write_coverage(root)
    if wanted:
        counts = [f"{covered[cohort][name]} of {len(sets)} {name}" for name, sets in collections.items()]
        missing = len(wanted - set(read.values.columns))
        notes.insert(
            0,
            f"covers {', '.join(counts)}; {missing:,} of their {len(wanted):,} genes are missing, "
            f"see {root}/coverage.csv",
        )
    else:
        notes.append("there are no gene sets yet, so all genes were kept")
    return Expression(read.values, tuple(strangers), read.source, tuple(notes)), dropped


def read_expression(
    file: Path,
    cases: Collection[str],
    *,
    wanted: Collection[str] = (),
    all_genes: bool = False,
    gene_map: GeneMap | None = None,
    aliases: Aliases | None = None,
    sample_types: Collection[str] = PRIMARY,
    progress: OnBytes | None = None,
) -> Expression:
    """Read the expression of `cases`, by the rules above.

    `wanted` are the genes of the gene sets, for which aliases are resolved; where there are none, all genes are kept.
    Blank cells become NaN. Raises FileNotFoundError; DataError with every row and cell that cannot be used.
    """
    file, aliases = Path(file), aliases or Aliases()
    kept = None if all_genes or not wanted else set(wanted)
    needed = None if kept is None else kept | aliases.of_any(kept)
    table = read_table(file, cases, needed=needed, gene_map=gene_map, sample_types=sample_types, progress=progress)
    by_symbol, twice = _one_a_symbol(table.symbols, table.values)
    renamed, unclear = aliases.renamed(table.measured, wanted)
    values = pd.DataFrame(by_symbol, index=pd.Index(table.cases, name="case_id")).rename(columns=renamed)
    if kept is not None:
        values = values[[gene for gene in values if gene in kept]]
    values = values.sort_index()
    if not values.shape[1]:
        raise DataError(
            [
                f"{file}: has none of the {len(kept or ()):,} genes of the gene sets; its genes are called "
                f"{preview(sorted(table.measured))}, those of the gene sets {preview(sorted(kept or ()))}. "
                f"Fix: use the same names, or --aliases."
            ]
        )
    found = values.to_numpy()
    source = {
        "file": file.name,
        "sha256": sha256(file),
        "layout": table.layout,
        "unit": guess_unit(found, file.name),
        "lowest": round(float(np.nanmin(found)), 4),
        "highest": round(float(np.nanmax(found)), 4),
        "genes": values.shape[1],
        "genes_in_the_table": len(table.measured),
        "sample_types": sorted(sample_types),
        "genes_kept": "all" if kept is None else "those of the gene sets",
        "several_rows_of_a_case_first_kept": table.repeated,
        "several_rows_of_a_gene_highest_mean_kept": twice,
        "renamed": renamed,
    }
    notes = [*_notes_on_names(table, twice, renamed, unclear), *_notes_on_values(values)]
    return Expression(values, tuple(table.unlabelled), source, tuple(notes))


def _notes_on_names(
    table: SampleTable, twice: Sequence[str], renamed: Mapping[str, str], unclear: Sequence[str]
) -> list[str]:
    """What to say of the cases and genes of a table."""
    notes = list(table.notes)
    if table.repeated:
        same = "the same in all" if table.repeated_agree else "the first was kept"
        notes.append(f"{len(table.repeated)} cases have several rows or columns, {same}: {preview(table.repeated, 9)}")
    if twice:
        notes.append(f"{len(twice)} genes stand in several rows, the highest on average was kept: {preview(twice)}")
    if renamed:
        pairs = [f"{one} as {other}" for one, other in sorted(renamed.items())]
        notes.append(f"{len(renamed)} genes were renamed as in the gene sets: {preview(pairs, 9)}")
    if unclear:
        notes.append(f"{len(unclear)} genes of the gene sets are ambiguous in the aliases: {preview(unclear)}")
    return notes


def _notes_on_values(values: pd.DataFrame) -> list[str]:
    """What to say of genes that never vary, or that are on no log scale."""
    notes = []
    constant = values.columns[(values == values.iloc[0]).all()]
    if len(constant):
        notes.append(f"{len(constant)} genes are the same in all cases: {preview(constant)}")
    highest = values.abs().max()
    beyond = highest[highest > HIGHEST_LOGARITHM]
    if len(beyond):
        notes.append(
            f"{len(beyond)} genes go beyond +-{HIGHEST_LOGARITHM:g}, {beyond.idxmax()!r} to {beyond.max():g}: "
            f"not on a log scale, or outliers"
        )
    return notes


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


def _other_units(root: Location, cohort: str, unit: str) -> list[str]:
    """What to say where other cohorts of the folder have their expression in another unit."""
    units: Mapping[str, str] = {
        name: str(facts.get("expression", {}).get("unit", ""))
        for name in root.names()
        if name != cohort and (root / name).is_folder() and (facts := read_source(root / name))
    }
    others = sorted({f"{name}: {other}" for name, other in units.items() if other and other != unit})
    return [f"the unit is {unit}", *([f"OTHER COHORTS HAVE OTHER UNITS: {'; '.join(others)}"] if others else [])]
