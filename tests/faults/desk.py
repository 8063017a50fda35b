"""A desk with a valid data folder, on which a test puts bad inputs and runs a command or a study in this process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import tyro

from survq.cli import main
from survq.data.write import Slide, file_name

ROOT = Path(__file__).resolve().parents[2]
STUDIES = tuple(file.stem for file in (ROOT / "studies").glob("*.py"))
SURVPATH = "case_id,slide_id,survival_months_dss,censorship_dss\n"


@dataclass(frozen=True)
class Desk:
    """DESK/data is a data folder with the cohort C of 24 cases, DESK/results does not exist."""

    folder: Path

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def write(self, name: str, content: str | bytes) -> str:
        """A file on the desk; returns its path."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    # what a user would type

    def labels(self, rows: str | bytes, *flags: str, header: str = SURVPATH) -> list[str]:
        content = rows if isinstance(rows, bytes) else header + rows
        return ["import", "labels", self.write("labels.csv", content), self.data, "--cohort", "NEW", *flags]

    def expression(self, table: str, *flags: str) -> list[str]:
        return ["import", "expression", self.write("expression.tsv", table), self.data, "--cohort", "C", *flags]

    def pathways(self, text: str, name: str = "sets.gmt") -> list[str]:
        return ["import", "pathways", self.write(name, text), self.data]

    def splits(self, *tables: str) -> list[str]:
        for fold, table in enumerate(tables):
            self.write(f"splits/splits_{fold}.csv", table)
        return ["import", "splits", str(self.folder / "splits"), self.data, "--cohort", "C"]

    def features(self, *flags: str) -> list[str]:
        return ["import", "features", str(self.folder / "features"), self.data, "--cohort", "C", *flags]

    def check(self, *flags: str) -> list[str]:
        return ["check", self.data, *flags]

    def study(self, *flags: str, name: str = "query_counts") -> list[str]:
        return [name, "--data", self.data, "--results", str(self.folder / "results"), "--epochs", "1", *flags]

    # what a data folder of another origin may hold

    def table(self, name: str, change) -> None:
        """Change a table of the cohort."""
        file = self.folder / "data/C" / f"{name}.parquet"
        change(pd.read_parquet(file)).to_parquet(file, index=False)

    def h5(self, case: str, features: np.ndarray, encoder: str = "uni_v1", coords: np.ndarray | None = None) -> None:
        """A file of features as TRIDENT writes it."""
        (self.folder / "features").mkdir(exist_ok=True)
        with h5py.File(self.folder / "features" / f"{case}-01Z-00-DX1.h5", "w") as store:
            store.create_dataset("features", data=features).attrs["encoder"] = encoder
            places = np.arange(2 * len(features)).reshape(-1, 2) if coords is None else coords
            store.create_dataset("coords", data=places).attrs.update(
                {"patch_size_level0": 448, "level0_magnification": 40}
            )

    def stored(self, slide: Slide) -> None:
        """A slide in the store, whatever it holds: survq would not write it."""
        pq.write_table(slide.table(), self.folder / "data/C/features" / file_name(slide.slide_id))


def run(arguments: list[str], capsys) -> tuple[int, str]:
    """Run a command of survq or a study as `python -m` would. Returns its exit code and all that it printed."""
    code = run_study(*arguments) if arguments[0] in STUDIES else main(arguments)
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).replace("│", " ").split())


def run_study(name: str, *arguments: str) -> int:
    specification = importlib.util.spec_from_file_location(f"study_{name}", ROOT / "studies" / f"{name}.py")
    study = importlib.util.module_from_spec(specification)
    sys.modules[study.__name__] = study
    specification.loader.exec_module(study)
    try:
        study.main(tyro.cli(typing.get_type_hints(study.main)["settings"], args=arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def copied(template: Path, to: Path) -> Desk:
    shutil.copytree(template, to / "data")
    return Desk(to)
