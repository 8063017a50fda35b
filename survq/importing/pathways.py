"""Pathways of a data folder, from one file or several: GMT as MSigDB and Reactome have it, or signature tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from survq.data.cohort_files import locked_files, read_source
from survq.data.gene_sets import Pathways
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.importing.coverage import measured_genes, read_pathways, write_coverage
from survq.importing.decompress import sha256
from survq.text import preview


@dataclass(frozen=True)
class ImportedPathways:
    pathways: Pathways
    covered: dict[str, int]  # how many of them each cohort of the folder measures to 90 %
    notes: tuple[str, ...]  # for people


def import_pathways(files: Sequence[Path], root: Location) -> ImportedPathways:
    """Write pathways.gmt of a data folder, in the order of the files; pathways that are there are replaced.

    Raises FileNotFoundError; DataError with everything that is wrong with any of the files, and nothing is written.
    """
    pathways = join_files(files)
    sources = [{"file": file.name, "sha256": sha256(file)} for file in files]
    with locked_files(root, "pathways.gmt", "source.json"):
        before = read_pathways(root)
        source = json.dumps({**read_source(root), "pathways": sources}, indent=1)
        root.write_files({"pathways.gmt": pathways.to_gmt().encode(), "source.json": source.encode()})
    sizes = sorted(len(members) for members in pathways.genes)
    genes = {gene for members in pathways.genes for gene in members}
    notes = [f"{len(genes):,} genes, {sizes[0]} to {sizes[-1]} a pathway, median {sizes[len(sizes) // 2]}"]
    same = [names for names in identical(pathways) if len(names) > 1]
    if same:
        pairs = [" = ".join(names) for names in same]
        notes.append(f"{len(same)} groups of pathways have the very same genes, all are kept: {preview(pairs)}")
    new = genes - {gene for members in before.genes for gene in members}
    for cohort in measured_genes(root) if new else ():
        if read_source(root / cohort).get("expression", {}).get("genes_kept") == "those of the pathways":
            notes.append(f"{cohort}: its expression was cut to the genes of other pathways. Fix: import it again")
    return ImportedPathways(pathways, write_coverage(root), tuple(notes))


def join_files(files: Sequence[Path]) -> Pathways:
    """The pathways of several files, one after another. Raises DataError with all that is wrong with any of them."""
    problems: list[str] = []
    sets: dict[str, tuple[str, ...]] = {}
    came_from: dict[str, Path] = {}
    for file in files:
        try:
            read = read_file(file)
        except DataError as error:
            problems += error.problems
            continue
        for name, genes in zip(read.names, read.genes, strict=True):
            if name in sets:
                problems.append(
                    f"{file}: pathway {name!r} stands in {came_from[name]} too. Fix: rename it, or leave a file away."
                )
            sets[name], came_from[name] = genes, file
    raise_if_any(problems)
    return Pathways(tuple(sets), tuple(sets.values()))


def read_file(file: Path) -> Pathways:
    """GMT, or a signature table, told by its name or else by the tabs of its first line."""
    text = Location.at(file).read_text()
    is_gmt = file.suffix == ".gmt" or (file.suffix != ".csv" and "\t" in text.partition("\n")[0])
    pathways = Pathways.from_gmt(file) if is_gmt else Pathways.from_signatures(file)
    genes = [gene for members in pathways.genes for gene in members]
    if sum(gene.isdigit() for gene in genes) > len(genes) / 2:
        raise DataError(
            [
                f"{file}: names its genes by numbers, such as {preview(genes)}; these are Entrez ids. "
                f"Fix: take the file of symbols, such as h.all.v2023.1.Hs.symbols.gmt."
            ]
        )
    return pathways


def identical(pathways: Pathways) -> list[tuple[str, ...]]:
    """The names of pathways, grouped by their genes."""
    by_genes: dict[frozenset[str], list[str]] = {}
    for name, members in zip(pathways.names, pathways.genes, strict=True):
        by_genes.setdefault(frozenset(members), []).append(name)
    return [tuple(names) for names in by_genes.values()]
