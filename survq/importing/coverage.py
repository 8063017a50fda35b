"""The coverage of each gene set by the genes that the cohorts of a data folder measure, as a table.

DIR/coverage.csv    cohort, collection, gene_set, genes, measured, coverage, kept, missing: one row per cohort with
                    expression, collection and gene set
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pandas as pd
import pyarrow.parquet as pq

from survq.data.cohort import cohort_names
from survq.data.cohort_files import locked_files
from survq.data.gene_sets import GeneSets, least_coverage, read_collections
from survq.data.location import Location, csv_bytes
from survq.data.problems import raise_if_any

FILE = "coverage.csv"
COLUMNS = ["cohort", "collection", "gene_set", "genes", "measured", "coverage", "kept", "missing"]


def given_gene_sets(root: Location) -> dict[str, GeneSets]:
    """The collections of a data folder, before the coverage rule. Raises DataError with the problems of all of them."""
    collections, problems = read_collections(root)
    raise_if_any(problems)
    return collections


def genes_of(collections: Mapping[str, GeneSets]) -> set[str]:
    """The genes of all sets of these collections."""
    return {gene for sets in collections.values() for members in sets.genes for gene in members}


def measured_genes(root: Location) -> dict[str, list[str]]:
    """The measured genes of every cohort with expression."""
    genes = {}
    for name in cohort_names(root):
        file = root / name / "expression.parquet"
        if file.is_file():
            names = pq.read_schema(file.path, filesystem=file.filesystem).names
            genes[name] = [gene for gene in names if gene != "case_id"]
    return genes


def write_coverage(root: Location) -> dict[str, dict[str, int]]:
    """Write coverage.csv. Returns the number of covered gene sets by cohort and collection."""
    with locked_files(root, FILE):
        collections = given_gene_sets(root)
        if not collections:
            return {}
        covered: dict[str, dict[str, int]] = {}
        rows: list[list] = []
        for cohort, genes in measured_genes(root).items():
            covered[cohort] = {}
            for collection, sets in collections.items():
                kept = set(sets.covered_by(genes, least_coverage(collection)).names)
                covered[cohort][collection] = len(kept)
                rows += [[cohort, collection, *row] for row in _coverage(sets, set(genes), kept)]
        (root / FILE).write(csv_bytes(pd.DataFrame(rows, columns=COLUMNS)))
    return covered


def _coverage(sets: GeneSets, measured: set[str], kept: Collection[str]) -> Iterator[list]:
    """The rows of a cohort and collection, without the first two columns."""
    for name, members, share in zip(sets.names, sets.genes, sets.coverage(measured), strict=True):
        missing = " ".join(gene for gene in members if gene not in measured)
        yield [name, len(members), len(measured.intersection(members)), f"{share:.3f}", name in kept, missing]
