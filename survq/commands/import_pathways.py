"""survq import pathways"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.exits import UsageError


@dataclass(frozen=True)
class ImportPathways:
    """Import pathways from GMT files of MSigDB or Reactome, or from signature tables; several files are combined.

    All cohorts of the data folder share them. As in the paper, a cohort uses the pathways of which it measures at
    least 90 % of the genes; coverage.csv lists the missing genes.

    example:  survq import pathways h.all.v2023.1.Hs.symbols.gmt c2.cp.reactome.v2023.1.Hs.symbols.gmt data

    next:     survq import expression FILE data --cohort BRCA
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE ... DATA")]
    """Files of gene sets, in the order to keep, followed by the data folder."""

    def run(self) -> int:
        from survq.data.gene_sets import COVERAGE
        from survq.data.location import Location
        from survq.importing.pathways import import_pathways

        *files, data = self.files
        if not files:
            raise UsageError("give one or more files of gene sets, and then the data folder")
        imported = import_pathways(files, Location.at(data))
        print(f"{len(imported.pathways)} pathways from {len(files)} files")
        covered = [
            f"{cohort}: {count} covered to {COVERAGE:.0%}; {len(imported.pathways) - count} excluded"
            for cohort, count in imported.covered.items()
        ]
        for line in [*imported.notes, *covered]:
            print(f"    {line}")
        print(f"\nWritten to {data}/pathways.gmt" + (f"; coverage in {data}/coverage.csv." if covered else "."))
        print(f"Next: survq import expression FILE {data} --cohort NAME")
        return 0
