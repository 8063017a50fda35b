"""survq import pathways"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.exits import UsageError


@dataclass(frozen=True)
class ImportPathways:
    """Import gene sets from GMT files of MSigDB or Reactome, or from tables; several files are combined.

    Tables may have a set per column or row, a row per set and gene, or a matrix of 0 and 1; the shape is found by where
    the genes are, or the file is refused.

    All cohorts of the data folder share them. As in the paper, a cohort uses only pathways of which it measures at
    least 90 % of the genes; in other collections, one measured gene suffices. coverage.csv lists the missing genes.

    example:  survq import pathways h.all.v2023.1.Hs.symbols.gmt c2.cp.reactome.v2023.1.Hs.symbols.gmt data
              survq import pathways functional_groups.csv data --set six_groups

    next:     survq import expression FILE data --cohort BRCA
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ... DATA")]
    """Files of gene sets, in the order to keep, followed by the data folder."""
    collection: Annotated[str, arg(name="set", metavar="NAME")] = "pathways"
    """Collection to write: pathways, or another collection that a model needs, such as six_groups."""

    missing: Annotated[tuple[str, ...], arg(metavar="TEXT ...")] = ()
    """Further spellings of an empty cell."""

    def run(self) -> int:
        from survq.data.gene_sets import collection_path, least_coverage
        from survq.data.location import Location
        from survq.importing.missing import Missing
        from survq.importing.pathways import import_gene_sets

        *files, data = self.files
        if not files:
            raise UsageError("give one or more files of gene sets, and then the data folder")
        missing = Missing.and_also(self.missing)
        imported = import_gene_sets(files, Location.at(data), self.collection, missing)
        total, least = len(imported.sets), least_coverage(self.collection)
        print(f"{total} {self.collection} from {len(files)} files")
        rule = f"to {least:.0%}" if least else "by at least one gene"
        covered = [
            f"{cohort}: {count} covered {rule}; {total - count} excluded" for cohort, count in imported.covered.items()
        ]
        for line in [*imported.notes, *covered]:
            print(f"    {line}")
        more = f"; coverage in {data}/coverage.csv" if covered else ""
        print(f"\nWritten to {data}/{collection_path(self.collection)}{more}.")
        print(f"Next: survq import expression FILE {data} --cohort NAME")
        return 0
