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
        from survq.exits import UsageError
        from survq.reporting.study_report import write_report
        from survq.text import preview
        from survq.training.results import Results

        folder = self.results.expanduser()
        if not (folder / "study.json").is_file():
            studies = sorted(path.parent.name for path in folder.glob("*/study.json"))
            has = f"it has the studies {preview(studies, 9)}; choose one" if studies else "expected study.json in it"
            raise UsageError(f"{folder}: no results of a study; {has}.")
        for path in write_report(Results(folder)):
            print(f"  written   {path}")
        return 0
