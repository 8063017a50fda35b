"""survq import survpath"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.commands.console import show_next


@dataclass(frozen=True)
class ImportSurvPath:
    """Import all tables of the SurvPath repository: labels, expression, pathways and splits. It has no slides.

    Tables are joined by case id; dropped.csv lists excluded cases with the reason. If there are problems, all are
    listed and nothing is written.

    example:  survq import survpath ~/SurvPath data --cohorts BLCA COADREAD

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder with datasets_csv/ and splits/."""
    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write. Existing cohorts of the same name are replaced."""
    cohorts: Annotated[tuple[str, ...], arg(metavar="COHORT ...")] = ()
    """Cohorts to import. If omitted: all with labels and expression."""
    expression: str = "xena"
    """Subfolder of datasets_csv/raw_rna_data with the expression."""
    pathways: str = "combine"
    """Pathways: reads datasets_csv/metadata/<pathways>_signatures.csv."""

    def run(self) -> int:
        from survq.importing.survpath import import_survpath

        imported = import_survpath(
            self.src, self.dest, self.cohorts, expression=self.expression, pathways=self.pathways
        )
        for cohort in imported:
            first, *rest = cohort.summary()
            print(f"{cohort.name}: {first}")
            for line in rest:
                print(f"    {line}")
        print(f"\nWritten to {self.dest}; dropped.csv of each cohort lists excluded cases.")
        show_next(self.dest, [cohort.name for cohort in imported])
        return 0
