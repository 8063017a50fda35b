"""How much of each pathway the cohorts of a data folder measure, as a table beside pathways.gmt."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import pyarrow.parquet as pq

from survq.data.cohort import cohort_names
from survq.data.cohort_files import locked_files
from survq.data.gene_sets import Pathways
from survq.data.location import Location

FILE = "coverage.csv"


def read_pathways(root: Location) -> Pathways:
    """Those of a data folder, before the coverage rule; none where there are none yet."""
    return Pathways.from_gmt(root / "pathways.gmt") if (root / "pathways.gmt").is_file() else Pathways()


def measured_genes(root: Location) -> dict[str, list[str]]:
    """The genes of every cohort that has expression."""
    genes = {}
    for name in cohort_names(root):
        file = root / name / "expression.parquet"
        if file.is_file():
            names = pq.read_schema(file.path, filesystem=file.filesystem).names
            genes[name] = [gene for gene in names if gene != "case_id"]
    return genes


def write_coverage(root: Location) -> dict[str, int]:
    """Write coverage.csv, a row a cohort and pathway; returns how many pathways each cohort covers.

    Names of pathways are free text and may begin like a formula: a blank stands before those.
    """
    with locked_files(root, FILE):
        pathways = read_pathways(root)
        if not len(pathways):
            return {}
        covered, table = _coverage(pathways, measured_genes(root))
        (root / FILE).write(table.encode())
    return covered


def _coverage(pathways: Pathways, cohorts: Mapping[str, Sequence[str]]) -> tuple[dict[str, int], str]:
    """How many pathways each cohort covers, and the table."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["cohort", "pathway", "genes", "measured", "coverage", "kept", "missing"])
    covered = {}
    for cohort, genes in cohorts.items():
        there, kept = set(genes), set(pathways.covered_by(genes).names)
        covered[cohort] = len(kept)
        for name, members, share in zip(pathways.names, pathways.genes, pathways.coverage(there), strict=True):
            missing = " ".join(gene for gene in members if gene not in there)
            safe = f" {name}" if name.startswith(("=", "+", "-", "@")) else name
            table.writerow(
                [cohort, safe, len(members), len(there.intersection(members)), f"{share:.3f}", name in kept, missing]
            )
    return covered, text.getvalue()
