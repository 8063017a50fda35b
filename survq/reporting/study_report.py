"""The report of a study, from its results folder alone: neither data, nor GPU, nor training is needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import survq
from survq.data.location import csv_bytes, replace_file
from survq.reporting.document import Document, Section
from survq.reporting.report_material import Material
from survq.reporting.report_sections import (
    asked,
    calibration,
    checklist,
    cohorts,
    curves,
    estimates,
    findings,
    missing,
    provenance,
    search,
    survival,
)

METRICS_TABLE, PICTURES = Path("tables/metrics.csv"), Path("figures/report")  # below the folder of a study


def write_report(material: Material) -> list[Path]:
    """Write tables/metrics.csv, report.html, report.md and its pictures into a study's folder.

    Returns the paths of all but the pictures, which the page contains. Files that only an earlier report had are
    deleted.
    """
    folder, document = material.results.folder, document_of(material)
    contents: dict[Path, bytes] = {}
    if len(material.metrics):
        contents[METRICS_TABLE] = csv_bytes(material.metrics)
    contents |= {PICTURES / f"{picture.name}.png": picture.png for picture in document.pictures}
    contents[Path("report.md")] = document.to_markdown(PICTURES.as_posix()).encode()
    contents[Path("report.html")] = document.to_html().encode()
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder / name, content)
    for earlier in report_files(folder):
        if earlier.relative_to(folder) not in contents:
            earlier.unlink()
    return [folder / name for name in contents if name.parent != PICTURES]


def report_files(folder: Path) -> list[Path]:
    """The files of a study's report that exist."""
    named = (folder / name for name in (METRICS_TABLE, "report.md", "report.html"))
    return [*filter(Path.is_file, named), *sorted((folder / PICTURES).glob("*.png"))]


def document_of(material: Material) -> Document:
    """The report. Every number comes from the files of the study; what they lack is left out and said so."""
    sections = [
        Section("What is missing", missing(material)),
        Section("What was asked", asked(material)),
        Section("Cohorts", cohorts(material)),
        Section("What the study found", findings(material)),
        Section("All methods", estimates(material)),
        Section("Survival by risk group", survival(material)),
        Section("Calibration", calibration(material)),
        Section("Learning curves", curves(material)),
        Section("Search", search(material)),
        Section("Settings, versions and hashes", provenance(material)),
        Section("Reporting checklist", checklist()),
    ]
    notices = []
    if material.incomplete:
        notices.append("Incomplete: runs are missing.")
    if material.about.get("simulated", False):
        notices.append("Simulated data: not a scientific result.")
    states = Counter(record.state for record in material.records)
    runs = ", ".join(f"{count} {state}" for state, count in states.items()) or "none has ended"
    return Document(
        title=f"survq study {material.results.folder.absolute().name}",
        notice=" ".join(notices),
        lead=[f"Runs: {runs}. Cohorts: {', '.join(material.cohorts) or 'none'}."],
        sections=[section for section in sections if section.blocks],
        footer=f"Made by survq {survq.__version__} from the files of the study alone. Not a medical device.",
    )
