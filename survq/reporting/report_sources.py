"""What a report was made from, kept beside it: a study whose report is up to date does not write it again.

The report of 500 runs takes longer than all else of a finished study that is started again.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from survq.data.location import replace_file
from survq.reporting.report_material import ABOUT, SETTINGS, Material
from survq.reporting.study_report import METRICS_TABLE, PICTURES, report_files, write_report
from survq.training.record import REPORT
from survq.training.typed_json import to_json

SOURCES = ".report.sources.json"
LIBRARIES = ("lifelines", "matplotlib", "numpy", "pandas", "pillow", "scipy")  # that compute, draw or write the report
PACKAGE = Path(__file__).resolve().parents[1]


def refresh_report(material: Material) -> tuple[list[Path], bool]:
    """Write the report of a study unless it is up to date; returns its files, and whether they were written.

    It is up to date if everything that it depends on, and each of its own files, is as when the report was written. No
    other process may write into the study meanwhile.
    """
    folder = material.results.folder
    sources, known = sources_of(material), _read(folder / SOURCES)
    if known == {"sources": sources, "files": _digests(folder, report_files(folder))}:
        return [file for file in report_files(folder) if file.parent != folder / PICTURES], False
    written = write_report(material)
    state = {"sources": sources, "files": _digests(folder, report_files(folder))}
    replace_file(folder / SOURCES, to_json(state))
    return written, True


def sources_of(material: Material) -> dict[str, str]:
    """Everything that the report of a study depends on: a digest by kind."""
    folder = material.results.folder
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    saved = [file for name in ("tables", "figures") for file in (folder / name).glob("*")]
    files = {
        # the report of a run states the checksums of its other files; they were verified when it was read
        "runs": _digests(folder, (record.folder / REPORT for record in material.records)),
        "settings, plan and exclusions": _digests(folder, (folder / SETTINGS, folder / ABOUT)),
        "tables and figures": _digests(folder, (file for file in saved if file != folder / METRICS_TABLE)),
        "code": _digests(PACKAGE, PACKAGE.rglob("*.py")),
        "versions": versions,
    }
    return {"study": folder.absolute().name, **{kind: _digest(to_json(content)) for kind, content in files.items()}}


def _digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """The digest of each file that exists, by its path below the folder."""
    return {file.relative_to(folder).as_posix(): _digest(file.read_bytes()) for file in files if file.is_file()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(file: Path) -> Mapping:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
