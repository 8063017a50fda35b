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
    """Patch features that TRIDENT, CLAM, STAMP, MMP, SurvPath or slide2vec made: a folder of .h5 or .pt files.

    Which tool made a file is seen by what is in it. A slide goes to the case that its TCGA barcode names, or to the
    one that --cases tells. All files are looked at first; where anything is wrong, all of it is named and nothing is
    written. The same command continues an import that ended early, and brings what is new.

    example:  survq import features ~/trident/20x_224px_0px_overlap/features_uni_v1 data --cohort BLCA

    next:     survq check data
    """

    src: Annotated[Positional[Path], arg(metavar="SRC")]
    """Folder with the files, or with folders of them."""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """Data folder, or the address of one in a bucket. It has the cohort already, with its labels."""
    cohort: Annotated[str, arg(metavar="NAME")]
    """Cohort that the slides are of."""
    cases: Annotated[Path | None, arg(metavar="TABLE")] = None
    """CSV with the columns case_id and slide_id; a column mpp makes pixels of STAMP's micrometres."""
    encoder: Annotated[str | None, arg(metavar="NAME")] = None
    """Patch encoder, where neither the files nor their folder name it."""
    skip_bad: bool = False
    """Leave out files that are empty, cut short or unlike the others, and list them."""

    def run(self) -> int:
        from survq.importing.patch_features import import_features

        imported = import_features(
            self.src, self.data, self.cohort, table=self.cases, encoder=self.encoder, skip_bad=self.skip_bad
        )
        first, *rest = imported.summary()
        print(first)
        for line in rest:
            print(f"    {line}")
        print(f"\nIn {imported.features}", end="")
        print("." if imported.skipped is None else f"; who was left out stands in {imported.skipped}.")
        print(f"Next: survq check {shlex.quote(self.data)}")
        return DATA if imported.failed and not self.skip_bad else 0
