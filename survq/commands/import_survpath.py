"""survq import survpath"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.commands.console import show_next


@dataclass(frozen=True)
class ImportSurvPath:
    """All tables of the SurvPath repository at once: labels, expression, pathways and splits; it has no slides.

    Tables are joined by case id; whoever is left out is listed in dropped.csv with the reason. When anything is
    wrong, all of it is named and nothing is written.

    example:  survq import survpath ~/SurvPath data --cohorts BLCA COADREAD

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Location with datasets_csv/ and splits/ in it."""
    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write. A cohort that is there is replaced."""
    cohorts: Annotated[tuple[str, ...], arg(metavar="COHORT ...")] = ()
    """Cohorts to import. By default all that have both labels and expression."""
    expression: str = "xena"
    """Location of datasets_csv/raw_rna_data with the expression."""
    pathways: str = "combine"
    """Which <pathways>_signatures.csv of datasets_csv/metadata."""

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
        print(f"\nWritten to {self.dest}; who was left out stands in each cohort's dropped.csv.")
        show_next(self.dest, [cohort.name for cohort in imported])
        return 0
