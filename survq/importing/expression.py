"""Import gene expression into a cohort, by these rules:

    samples    only those of the given types, by default 01 (primary tumour); the first of a case, as in SurvPath
    symbols    Ensembl ids are mapped by a probemap; of several rows of one symbol, the one with the fewest missing
               values and among those with the highest mean is kept, because constant copies (on chromosome Y) would
               otherwise hide the gene
    aliases    a gene of a gene set that was measured under another of its names is renamed as in the gene set
    genes      those of all gene sets of the data folder, or all on request
    missing    a missing value is an error, stated with its gene and case; on request such genes are left out, or kept:
               then a fold reads the mean of its training cases

See expression_table.py for reading the tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from survq.data.cohort_files import cohort_folder, labelled, read_cases, read_source, update_cohort
from survq.data.hints import gene_name_hints
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import INCOMPLETE, expression_problems
from survq.importing.coverage import genes_of, given_gene_sets, write_coverage
from survq.importing.decompress import sha256
from survq.importing.expression_table import AS_FOUND, Reading, SampleTable, read_table
from survq.importing.genes import Aliases, GeneMap
from survq.importing.units import HIGHEST_LOGARITHM, guess_unit
from survq.text import preview


@dataclass(frozen=True)
class Expression:
    """The expression of the cases of a cohort in a table."""

    values: pd.DataFrame  # case_id x gene, float32
    unlabelled: tuple[str, ...]  # ids in the table that are not cases
    source: dict  # file, unit and rules, for source.json
    notes: tuple[str, ...]  # for people


def import_expression(
    file: Path,
    root: Location,
    cohort: str,
    *,
    gene_map: Path | None = None,
    aliases: Path | None = None,
    all_genes: bool = False,
    reading: Reading = AS_FOUND,
    incomplete_genes: Literal["error", "drop", "keep"] = "error",
) -> tuple[Expression, pd.DataFrame]:
    """Import the expression in a table into a cohort with labels. Returns it, and the new dropped.csv.

    If it raises DataError, which lists all problems, nothing has been written.
    """
    folder = cohort_folder(root, cohort)
    cases, collections = read_cases(folder), given_gene_sets(root)
    ids_to_symbols = GeneMap.read(gene_map) if gene_map else None
    reading = replace(reading, gene_map=ids_to_symbols)
    names = Aliases.read(aliases, ids_to_symbols) if aliases else None
    if names and not collections:
        raise DataError([f"{root}: has no gene sets, and aliases are for their genes. Fix: import gene sets first."])
    wanted = genes_of(collections)
    read = read_expression(
        file,
        cases.index,
        wanted=wanted,
        all_genes=all_genes,
        aliases=names,
        reading=reading,
        incomplete_genes=incomplete_genes,
    )
    for what, used in (("gene_map", gene_map), ("aliases", aliases)):
        if used:
            read.source[what] = {"file": used.name, "sha256": sha256(used)}
    unlabelled = sorted(set(read.unlabelled) - labelled(folder))
    notes = [*read.notes, *_unit_notes(root, cohort, read.source["unit"])]
    if len(unlabelled) > len(read.values):  # a table of many cohorts
        notes.append(
            f"{len(unlabelled)} further ids have no label in this cohort; as the majority, they are not listed"
        )
        read.source["further_cases_not_listed"] = len(unlabelled)
        unlabelled = []
    if missing_cases := sorted(set(cases.index) - set(read.values.index)):
        notes.append(f"{len(missing_cases)} cases of the cohort are not in the table: {preview(missing_cases)}")
    dropped = update_cohort(
        folder, {"expression": read.source}, expression=read.values, unlabelled={"expression": unlabelled}
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
    return Expression(read.values, tuple(unlabelled), read.source, tuple(notes)), dropped


def read_expression(
    file: Path,
    cases: Collection[str],
    *,
    wanted: Collection[str] = (),
    all_genes: bool = False,
    aliases: Aliases | None = None,
    reading: Reading = AS_FOUND,
    incomplete_genes: Literal["error", "drop", "keep"] = "error",
) -> Expression:
    """Read the expression of `cases` by the rules above.

    `wanted` are the genes of the gene sets, for which aliases are resolved; without gene sets, all genes are kept.
    Raises FileNotFoundError; DataError with every invalid row and cell.
    """
    file, aliases = Path(file), aliases or Aliases()
    kept = None if all_genes or not wanted else set(wanted)
    needed = None if kept is None else kept | aliases.of_any(kept)
    table = read_table(file, cases, needed=needed, reading=reading)
    by_symbol, repeated_genes = _one_per_symbol(table.symbols, table.values, table.cases)
    renamed, ambiguous = aliases.renamed(table.measured, wanted)
    values = pd.DataFrame(by_symbol, index=pd.Index(table.cases, name="case_id")).rename(columns=renamed)
    if kept is not None:
        values = values[[gene for gene in values if gene in kept]]
    values = values.sort_index()
    if not values.shape[1] and kept is None:
        raise DataError([f"{file}: has no column of numbers. Fix: use a table of expression."])
    if not values.shape[1]:
        raise DataError(
            [
                f"{file}: has none of the {len(kept or ()):,} genes of the gene sets; its genes are named "
                f"{preview(sorted(table.measured))}, those of the gene sets {preview(sorted(kept or ()))}. "
                f"Fix: use the same names, or --aliases."
            ]
        )
    values, incomplete = _complete(values, incomplete_genes, file)
    kept_incomplete = incomplete if incomplete_genes == "keep" else []
    raise_if_any(expression_problems(values.reset_index(names="case_id"), str(file), kept_incomplete))
    found = values.where(np.isfinite(values)).to_numpy()
    source = {
        "file": file.name,
        "sha256": sha256(file),
        "layout": table.layout,
        "unit": guess_unit(found, file.name),
        "lowest": round(float(np.nanmin(found)), 4),
        "highest": round(float(np.nanmax(found)), 4),
        "genes": values.shape[1],
        "genes_in_the_table": len(table.measured),
        "sample_types": sorted(reading.sample_types),
        "genes_kept": "all" if kept is None else "those of the gene sets",
        "several_rows_of_a_case_first_kept": list(table.repeated),
        "kept_of_several": {case: names[0] for case, names in table.repeated.items()},
        "incomplete_genes_left_out": [] if kept_incomplete else incomplete,
        INCOMPLETE: kept_incomplete,
        "several_rows_of_a_gene_highest_mean_kept": repeated_genes,
        "renamed": renamed,
    }
    notes = [*_name_notes(table, repeated_genes, renamed, ambiguous), *_value_notes(values)]
    if incomplete:
        what = "kept; a fold reads the means of its training cases" if kept_incomplete else "left out"
        notes.append(f"{len(incomplete)} genes with missing values were {what}: {preview(incomplete)}")
    return Expression(values, tuple(table.unlabelled), source, tuple(notes))


def _name_notes(
    table: SampleTable, repeated_genes: Sequence[str], renamed: Mapping[str, str], ambiguous: Sequence[str]
) -> list[str]:
    """Notes on repeated cases and genes, and on renamed genes."""
    notes = list(table.notes)
    if table.repeated:
        kept = "all equal" if table.repeated_agree else "the first was kept"
        named = [_kept_of(case, names) for case, names in table.repeated.items()]
        notes.append(f"{len(table.repeated)} cases have several rows or columns, {kept}: {preview(named, 9)}")
    if repeated_genes:
        count, some = len(repeated_genes), preview(repeated_genes)
        notes.append(f"{count} genes have several rows; the one with the highest mean was kept: {some}")
    if renamed:
        pairs = [f"{one} as {other}" for one, other in sorted(renamed.items())]
        notes.append(f"{len(renamed)} genes were renamed as in the gene sets: {preview(pairs, 9)}")
    if ambiguous:
        notes.append(f"{len(ambiguous)} genes of the gene sets have ambiguous aliases: {preview(ambiguous)}")
    return notes


def _kept_of(case: str, names: Sequence[str]) -> str:
    """A case with the sample that was kept, and those that were not, as far as their names differ."""
    return f"{names[0]} before {' '.join(names[1:])}" if len(set(names)) > 1 else case


def _complete(values: pd.DataFrame, wanted: str, file: Path) -> tuple[pd.DataFrame, list[str]]:
    """The genes with a finite value for every case, or all on request; and the names of the others."""
    finite = np.isfinite(values.to_numpy())
    incomplete = list(values.columns[~finite.all(axis=0)])
    fix = "Fix: fill in the values, or use --incomplete-genes drop, or keep."
    cases = values.index[~finite.any(axis=1)]
    if len(incomplete) == values.shape[1] and (len(cases) or wanted != "keep"):
        of = f"no gene has a finite number for {preview(cases)}" if len(cases) else "no gene has a number for all cases"
        raise DataError([f"{file}: {of}. Fix: fill in the values, or leave out these cases."])
    if wanted == "drop":
        return values.drop(columns=incomplete), incomplete
    if wanted == "keep":
        unknown = values.columns[~finite.any(axis=0)]
        return values.drop(columns=unknown), [gene for gene in incomplete if gene not in set(unknown)]
    problems = [
        f"{file}: gene {gene!r}: not a finite number for {preview(values.index[~np.isfinite(values[gene])])}. {fix}"
        for gene in incomplete
    ]
    raise_if_any(problems)
    return values, []


def _value_notes(values: pd.DataFrame) -> list[str]:
    """Notes on genes that are constant, or not on a log scale."""
    notes = gene_name_hints(values)
    constant = values.columns[(values == values.iloc[0]).all()]
    if len(constant):
        notes.append(f"{len(constant)} genes have the same value in all cases: {preview(constant)}")
    highest = values.abs().max()
    beyond = highest[highest > HIGHEST_LOGARITHM]
    if len(beyond):
        notes.append(
            f"{len(beyond)} genes exceed +-{HIGHEST_LOGARITHM:g}, up to {beyond.max():g} in {beyond.idxmax()!r}: "
            f"not on a log scale, or outliers"
        )
    return notes


def _one_per_symbol(
    symbols: Sequence[str], matrix: np.ndarray, cases: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The (case,) values of each symbol in its best column, and the symbols with several columns.

    The best has the fewest missing values, then the highest mean, then the highest values of the first cases by id,
    so that the order of rows and columns decides nothing.
    """
    columns: dict[str, list[int]] = {}
    for column, gene in enumerate(symbols):
        columns.setdefault(gene, []).append(column)
    order = np.argsort(np.asarray(cases, dtype=object))

    def worth(column: int) -> tuple:
        values = matrix[order, column].astype(np.float64)
        present = values[np.isfinite(values)]
        return len(present), present.sum() / max(1, len(present)), *np.nan_to_num(values)

    best = {gene: max(same, key=worth) if len(same) > 1 else same[0] for gene, same in columns.items()}
    repeated = sorted(gene for gene, same in columns.items() if len(same) > 1)
    return {gene: matrix[:, column] for gene, column in best.items()}, repeated


def _unit_notes(root: Location, cohort: str, unit: str) -> list[str]:
    """Notes on the unit, with a warning if other cohorts of the folder have another one."""
    units: Mapping[str, str] = {
        name: str(facts.get("expression", {}).get("unit", ""))
        for name in root.names()
        if name != cohort and (root / name).is_folder() and (facts := read_source(root / name))
    }
    others = sorted({f"{name}: {other}" for name, other in units.items() if other and other != unit})
    return [f"unit: {unit}", *([f"WARNING: other cohorts have other units: {'; '.join(others)}"] if others else [])]
