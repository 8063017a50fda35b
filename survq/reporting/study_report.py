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


def write_report(material: Material) -> list[Path]:
    """Write tables/metrics.csv, report.html, report.md and its pictures into a study's folder; returns their paths."""
    results, document = material.results, document_of(material)
    tables, pictures = results.folder / "tables", results.folder / "figures" / "report"
    written = []
    if len(material.metrics):
        tables.mkdir(exist_ok=True)
        replace_file(tables / "metrics.csv", csv_bytes(material.metrics))
        written.append(tables / "metrics.csv")
    if document.pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    for picture in document.pictures:
        replace_file(pictures / f"{picture.name}.png", picture.png)
    for name, content in (("report.md", document.to_markdown("figures/report")), ("report.html", document.to_html())):
        replace_file(results.folder / name, content.encode())
        written.append(results.folder / name)
    return written


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
