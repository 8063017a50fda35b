"""survq fetch"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import ByteProgress, show_cohort


@dataclass(frozen=True)
class Fetch:
    """Download labels and expression of a TCGA cohort from UCSC Xena into DEST/raw, and import them.

    Run the same command again to resume an interrupted download. The URL, ETag and sha256 of each file are saved
    beside it. Existing labels are kept. Import the pathways first, so that only their genes are kept.

    example:  survq fetch xena BRCA data

    next:     survq import pathways SIGNATURES data; survq check data
    """

    source: Annotated[Positional[Literal["xena"]], arg(metavar="xena")]
    """Source: the public hubs of UCSC Xena."""
    cohort: Annotated[Positional[str], arg(metavar="COHORT")]
    """TCGA cohort, such as BRCA or COADREAD."""
    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder."""
    table: Literal["tcga", "toil", "gdc"] = "tcga"
    """Expression: HiSeqV2 of the TCGA hub; Toil's log2(TPM + 0.001) as in SurvPath, 0.7 GB; GDC's log2(TPM + 1)."""
    outcome: Literal["DSS", "OS", "PFI", "DFI"] = "DSS"
    """Survival endpoint of the labels, if the cohort has none yet."""
    sample_types: Annotated[tuple[str, ...], arg(metavar="NN ...")] = ("01",)
    """Sample types to import, by characters 14-15 of the TCGA barcode; 03 for LAML."""
    hub: Annotated[str | None, arg(metavar="URL")] = None
    """URL of a mirror of Xena's files; https, or a server on this machine."""

    def run(self) -> int:
        from survq.importing.xena import fetch_xena

        fetched = fetch_xena(
            self.cohort,
            self.dest,
            self.table,
            endpoint=self.outcome,
            sample_types=self.sample_types,
            hub=self.hub,
            progress=ByteProgress(),
        )
        for file, is_new in fetched.files.items():
            print(f"{'downloaded' if is_new else 'already downloaded'}: {file}")
        values = fetched.expression.values
        labels = fetched.labels.notes if fetched.labels else ("existing labels kept",)
        show_cohort(
            self.cohort,
            f"{len(fetched.cases)} cases, {fetched.cases['event'].sum()} events; expression of {len(values)} cases, "
            f"{values.shape[1]:,} genes",
            [*labels, *fetched.expression.notes],
            fetched.dropped,
        )
        print(f"\nWritten to {self.dest / self.cohort}; dropped.csv lists excluded cases.")
        print(f"Next: survq check {self.dest}")
        return 0
