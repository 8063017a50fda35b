"""survq import features"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from survq.exits import DATA


@dataclass(frozen=True)
class ImportFeatures:
    """Import patch features of TRIDENT, CLAM, STAMP, MMP, SurvPath or slide2vec: a folder of .h5 or .pt files.

    Detects the tool from the content of each file. Matches slides to cases by TCGA barcode, or by the table of --cases.
    All files are inspected first: if there are problems, all are listed and nothing is written. Run the same command
    again to resume an interrupted import or to add new slides.

    example:  survq import features ~/trident/20x_224px_0px_overlap/features_uni_v1 data --cohort BLCA

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder of feature files, searched with its subfolders."""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Data folder, or its bucket URI. Import the cohort's labels first."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort of the slides."""
    cases: Annotated[Path | None, arg(metavar="TABLE")] = None
    """CSV with the columns case_id and slide_id; its optional column mpp converts STAMP's micrometres to pixels."""
    encoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Patch encoder, if neither the files nor their folder state it."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to import, by characters 14-15 of the TCGA barcode: 01 primary tumour, 06 metastasis, 11 normal."""
    slide_types: Annotated[tuple[str, ...], arg(metavar="XX ...")] = ("DX",)
    """Slide types to import, by the TCGA barcode: DX diagnostic; TS, BS, MS frozen sections."""
    skip_bad: bool = False
    """Skip and list files that are empty, incomplete, copies or unlike the others."""

    def run(self) -> int:
        from survq.importing.patch_features import import_features

        imported = import_features(
            *(self.src, self.data, self.cohort),
            table=self.cases,
            encoder=self.encoder,
            skip_bad=self.skip_bad,
            sample_types=self.sample_types,
            slide_types=self.slide_types,
        )
        first, *rest = imported.summary()
        print(first)
        for line in rest:
            print(f"    {line}")
        print(f"\nWritten to {imported.features}", end="")
        print("." if imported.skipped is None else f"; {imported.skipped} lists skipped and failed slides.")
        print(f"Next: survq check {shlex.quote(self.data)}")
        return DATA if imported.empty or (imported.failed and not self.skip_bad) else 0
