"""survq report"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Report:
    """Write the report of a study again, from its results folder alone.

    The report is one HTML page that loads nothing, and the same as Markdown: what was asked, cohorts and exclusions,
    metrics with intervals, calibration, figures, hardware, versions and hashes, and the TRIPOD+AI items. Every study
    writes it at its end. It needs neither the data nor a GPU.

    example:  survq report results/query_counts
    """

    results: Annotated[Positional[Path], arg(metavar="RESULTS")]
    """The folder of a study, such as results/query_counts."""

    def run(self) -> int:
        from survq.reporting.report_material import material_of
        from survq.reporting.study_report import write_report

        for path in write_report(material_of(self.results)):
            print(f"  written   {path}")
        return 0
