"""survq fetch"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import Meter, show_cohort


@dataclass(frozen=True)
class Fetch:
    """Labels and expression of a TCGA cohort from UCSC Xena's public hubs, into DEST/raw and then into the cohort.

    Needs the internet. A download that was cut goes on when the command is run again; each file's address, ETag and
    sha256 stand beside it. Labels that are there stay. Have the pathways there first: then only their genes are kept.

    example:  survq fetch xena BRCA data

    next:     survq import pathways SIGNATURES data; survq check data
    """

    source: Annotated[Positional[Literal["xena"]], arg(metavar="xena")]
    """Where from: the hubs of UCSC Xena."""
    cohort: Annotated[Positional[str], arg(metavar="COHORT")]
    """TCGA cohort, such as BRCA or COADREAD."""
    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder."""
    table: Literal["tcga", "toil", "gdc"] = "tcga"
    """Expression: HiSeqV2 of the TCGA hub; Toil's log2(TPM + 0.001), as SurvPath, 0.7 GB; GDC's log2(TPM + 1)."""
    outcome: Literal["DSS", "OS", "PFI", "DFI"] = "DSS"
    """Which survival, where the cohort has no labels yet."""
    hub: Annotated[str | None, arg(metavar="URL")] = None
    """Address of a mirror of these files, instead of Xena's own; https, or a server on this machine."""

    def run(self) -> int:
        from survq.importing.xena import fetch_xena

        fetched = fetch_xena(self.cohort, self.dest, self.table, endpoint=self.outcome, hub=self.hub, progress=Meter())
        for file, is_new in fetched.files.items():
            print(f"{'fetched' if is_new else 'was there'}: {file}")
        values = fetched.expression.values
        labels = fetched.labels.notes if fetched.labels else ("its labels were there, and stay",)
        show_cohort(
            self.cohort,
            f"{len(fetched.cases)} cases, {fetched.cases['event'].sum()} events; expression of {len(values)}, "
            f"{values.shape[1]:,} genes",
            [*labels, *fetched.expression.notes],
            fetched.dropped,
        )
        print(f"\nWritten to {self.dest / self.cohort}; who was left out stands in dropped.csv.")
        print(f"Next: survq check {self.dest}")
        return 0
