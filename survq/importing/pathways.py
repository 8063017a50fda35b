"""Import gene sets into a data folder from one or more files, in any of the shapes of gene_set_files.py."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from survq.data.cohort_files import locked_files, read_source
from survq.data.gene_sets import FOLDER, PATHWAYS, GeneSets, collection_path
from survq.data.hints import gene_name_hints
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.importing.coverage import genes_of, given_gene_sets, measured_genes, write_coverage
from survq.importing.decompress import sha256
from survq.importing.gene_set_files import read_file
from survq.importing.missing import MISSING, Missing
from survq.text import preview


@dataclass(frozen=True)
class ImportedGeneSets:
    """A collection of gene sets that was written into a data folder."""

    sets: GeneSets
    covered: dict[str, int]  # cohort -> number of sets that it covers
    notes: tuple[str, ...]  # for people


def import_gene_sets(
    files: Sequence[Path], root: Location, collection: str = PATHWAYS, missing: Missing = MISSING
) -> ImportedGeneSets:
    """Write or replace a collection of a data folder, in the order of the files.

    If it raises FileNotFoundError or DataError, which lists the problems of all files, nothing has been written.
    """
    path = collection_path(collection)
    others = {name: sets for name, sets in given_gene_sets(root).items() if name != collection}
    known = genes_of(others).union(*measured_genes(root).values())
    sets = join_files(files, known, missing)
    source = {"files": [{"file": file.name, "sha256": sha256(file)} for file in files]}
    with locked_files(root, "pathways.gmt", "source.json"):
        (root / FOLDER).sweep()
        before = genes_of(given_gene_sets(root))
        sources = json.dumps({**read_source(root), collection: source}, indent=1)
        root.write_files({path: sets.to_gmt().encode(), "source.json": sources.encode()})
    sizes = sorted(len(members) for members in sets.genes)
    genes = genes_of({collection: sets})
    notes = [f"{len(genes):,} genes, {sizes[0]} to {sizes[-1]} per set, median {sizes[len(sizes) // 2]}"]
    same = [names for names in identical(sets) if len(names) > 1]
    if same:
        pairs = [" = ".join(names) for names in same]
        notes.append(f"{len(same)} groups of gene sets have identical genes; all are kept: {preview(pairs)}")
    notes += gene_name_hints(sorted(genes))
    for cohort in measured_genes(root) if genes - before else ():
        if read_source(root / cohort).get("expression", {}).get("genes_kept", "all") != "all":
            notes.append(f"{cohort}: its expression has only the genes of other gene sets. Fix: import it again")
    covered = {cohort: counts[collection] for cohort, counts in write_coverage(root).items()}
    return ImportedGeneSets(sets, covered, tuple(notes))


def join_files(files: Sequence[Path], known: Collection[str] = (), missing: Missing = MISSING) -> GeneSets:
    """The gene sets of several files, concatenated; `known` are genes of other tables.

    Raises DataError with the problems of all files.
    """
    problems: list[str] = []
    sets: dict[str, tuple[str, ...]] = {}
    file_of: dict[str, Path] = {}
    for file in files:
        try:
            read = read_file(file, known, missing)
        except DataError as error:
            problems += error.problems
            continue
        for name, genes in zip(read.names, read.genes, strict=True):
            if name in sets:
                problems.append(
                    f"{file}: gene set {name!r} is also in {file_of[name]}. Fix: rename it, or omit one of the files."
                )
            sets[name], file_of[name] = genes, file
    raise_if_any(problems)
    return GeneSets(tuple(sets), tuple(sets.values()))


def identical(sets: GeneSets) -> list[tuple[str, ...]]:
    """The names of gene sets, grouped by their genes."""
    by_genes: dict[frozenset[str], list[str]] = {}
    for name, members in zip(sets.names, sets.genes, strict=True):
        by_genes.setdefault(frozenset(members), []).append(name)
    return [tuple(names) for names in by_genes.values()]
