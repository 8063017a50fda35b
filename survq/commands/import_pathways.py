"""survq import pathways"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.exits import UsageError


@dataclass(frozen=True)
class ImportPathways:
    """The gene sets of a data folder: GMT files of MSigDB or Reactome, or signature tables; several are joined.

    All cohorts of the folder share them. A pathway counts for a cohort that measures 90 % of its genes, as in the
    paper; what each lacks stands in coverage.csv.

    example:  survq import pathways h.all.v2023.1.Hs.symbols.gmt c2.cp.reactome.v2023.1.Hs.symbols.gmt data

    next:     survq import expression FILE data --cohort BRCA
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ... DATA")]
    """Files of gene sets, in the order wanted; and at the end the data folder."""

    def run(self) -> int:
        from survq.data.gene_sets import COVERAGE
        from survq.data.location import Location
        from survq.importing.pathways import import_pathways

        *files, data = self.files
        if not files:
            raise UsageError("give one file of gene sets or more, and then the data folder")
        imported = import_pathways(files, Location.at(data))
        print(f"{len(imported.pathways)} pathways from {len(files)} files")
        covered = [
            f"{cohort}: covers {count} to {COVERAGE:.0%}; {len(imported.pathways) - count} are left out"
            for cohort, count in imported.covered.items()
        ]
        for line in [*imported.notes, *covered]:
            print(f"    {line}")
        print(f"\nWritten to {data}/pathways.gmt" + (f"; each pathway in {data}/coverage.csv." if covered else "."))
        print(f"Next: survq import expression FILE {data} --cohort NAME")
        return 0
