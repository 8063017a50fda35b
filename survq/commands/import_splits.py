"""survq import splits"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.commands.console import one_of, show_cohort, show_next


@dataclass(frozen=True)
class ImportSplits:
    """Import published folds unchanged, from SurvPath, MCAT, PORPOISE, CLAM or MMP. Import the cohort's labels first.

    Ids may be those of cases or slides. Cases that are not in the cohort are ignored and listed.

    example:  survq import splits ~/SurvPath/splits/5foldcv/tcga_brca data --cohort BRCA

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder with splits_0.csv, ..., or with subfolders that end in k=0, ..."""
    data: Annotated[Positional[Path], arg(metavar="DATA")]
    """Data folder."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort of the splits."""
    held_out: Annotated[str | None, arg(metavar="{val,test}")] = None
    """Role to hold out, if the splits have both; cases of the other role are then not used."""
    repeats_from: Annotated[str | None, arg(metavar="{files}")] = None
    """files: each file is a repeat with one fold. For splits drawn anew for every file (Monte-Carlo), whose held-out
    cases may overlap."""
    missing: Annotated[tuple[str, ...], arg(metavar="TEXT ...")] = ()
    """Further spellings of an empty cell."""

    def run(self) -> int:
        from survq.data.location import Location
        from survq.importing.missing import Missing
        from survq.importing.splits import import_splits

        root = Location.at(self.data)
        splits, events, dropped = import_splits(
            self.src,
            root,
            self.cohort,
            held_out=one_of("--held-out", self.held_out, ("val", "test")),
            repeats_from_files=one_of("--repeats-from", self.repeats_from, ("files",)) is not None,
            missing=Missing.and_also(self.missing),
        )
        held_out = " ".join(map(str, events)) if len(events) <= 10 else f"{min(events)} to {max(events)}"
        show_cohort(self.cohort, f"{len(events)} folds with {held_out} held-out events", splits.notes, dropped)
        print(f"\nWritten to {root / self.cohort}; dropped.csv lists excluded cases.")
        show_next(self.data, [self.cohort])
        return 0
