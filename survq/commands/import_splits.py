"""survq import splits"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import show_cohort, show_next


@dataclass(frozen=True)
class ImportSplits:
    """Published folds of a cohort whose labels are there, verbatim: of SurvPath, MCAT, PORPOISE, CLAM or MMP.

    Ids are those of cases or slides. Cases that the cohort does not have take no part, and are listed.

    example:  survq import splits ~/SurvPath/splits/5foldcv/tcga_brca data --cohort BRCA

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Location with splits_0.csv, ..., or with folders that end in k=0, ..."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort to give them to."""
    held_out: Literal["val", "test"] | None = None
    """Which cases are held out, where the splits have both; the others then take no part."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.splits import import_splits

        root = Location.at(self.data)
        splits, events, dropped = import_splits(self.src, root, self.cohort, held_out=self.held_out)
        held_out = " ".join(map(str, events))
        show_cohort(self.cohort, f"{len(events)} given folds, with {held_out} events held out", splits.notes, dropped)
        print(f"\nWritten to {root / self.cohort}; who was left out stands in dropped.csv.")
        show_next(self.data, [self.cohort])
        return 0
