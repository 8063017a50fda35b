"""The slide of a feature file, and the case of a slide: by TCGA barcode, or by a table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from survq.data.barcodes import DIAGNOSTIC, PRIMARY, case_of, is_barcode, other_specimen
from survq.data.patch_sizes import BELIEVABLE, believable
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import usable_id
from survq.importing.text_table import numbers, read_text_table
from survq.text import composed, preview

FILES = (".h5", ".hdf5", ".pt", ".pth")
IMAGES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif"),
    *(".vms", ".vmu", ".svslide", ".dcm", ".czi", ".isyntax", ".qptiff"),
)


@dataclass(frozen=True)
class Name:
    """A slide, its case, and its micrometres per level-0 pixel if a table states them."""

    slide_id: str
    case_id: str
    mpp: float | None = None


@dataclass(frozen=True)
class Wanted:
    """The slides of a cohort: those of its cases, of these sample types and slide types by their TCGA barcode."""

    case_ids: Collection[str]
    sample_types: tuple[str, ...] = PRIMARY
    slide_types: tuple[str, ...] = DIAGNOSTIC

    def named(self, slide_id: str, name_of: Callable[[str], Name | None]) -> Name | None:
        """The name of the slide with this id in its file name, its case spelt as in the cohort; None if unknown.

        Raises DataError for ids that the cohort's tables cannot hold.
        """
        name = name_of(slide_id)
        if name is None:
            return None
        if not usable_id(name.slide_id):
            fix = "rename its file; expected printable text that starts with a letter or digit"
            raise DataError([f"slide {name.slide_id[:80]!r}: cannot be an id. Fix: {fix}."])
        return replace(name, case_id=self._spellings.get(composed(name.case_id), name.case_id))

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {composed(case): case for case in self.case_ids}

    def reason_against(self, name: Name | None) -> str | None:
        """Why a slide is skipped; None if it is not. `name` is None if the table lacks it."""
        if name is None:
            return "the slide is not in the table"
        if name.case_id not in self.case_ids:
            return "the case is not in cases.parquet"
        return other_specimen(name.slide_id, self.sample_types, self.slide_types)


def stem(file_name: str) -> str:
    """The slide id in a file name: TCGA-AA-0001-01Z-00-DX1.UUID.svs.h5 -> TCGA-AA-0001-01Z-00-DX1.UUID.

    Ids contain dots, so only known suffixes are removed.
    """
    file_name = composed(file_name)
    for endings in (FILES, IMAGES, ("_patches",)):
        ending = next((end for end in endings if file_name.lower().endswith(end)), "")
        file_name = file_name[: len(file_name) - len(ending)]
    return file_name


def by_barcode(slide_id: str) -> Name | None:
    """The case of a TCGA slide. Raises DataError for other names."""
    if not is_barcode(slide_id):
        raise DataError(
            [
                f"slide {slide_id[:80]!r}: its case is unknown, because its name is not a TCGA barcode. "
                f"Fix: pass a table with the columns case_id and slide_id with --cases."
            ]
        )
    return Name(slide_id, case_of(slide_id))


class SlideTable:
    """A table with the columns case_id and slide_id, and optionally mpp. Letter case of slide ids is ignored."""

    def __init__(self, rows: Iterable[Name]):
        self._rows = {row.slide_id.lower(): row for row in rows}

    @classmethod
    def read(cls, file: str | Path) -> SlideTable:
        """Raises FileNotFoundError; DataError with every invalid row, and every row that contradicts another."""
        table = read_text_table(file, needed=["case_id", "slide_id"])
        problems = []
        for column in ("case_id", "slide_id"):
            problems += [
                f"{file}:{line}: {column} {cell[:60]!r}; expected printable text that starts with a letter or digit."
                for line, cell in table[column].items()
                if not usable_id(cell)
            ]
        sizes = [None] * len(table)
        if "mpp" in table:
            found, unreadable = numbers(table["mpp"], file)
            problems += unreadable
            problems += [
                f"{file}:{line}: mpp {size:g}; expected micrometres per pixel, from {BELIEVABLE[0]:g} to "
                f"{BELIEVABLE[1]:g}, such as 0.25. Fix: correct it, or leave the cell blank."
                for line, size in found.items()
                if not np.isnan(size) and not believable(size)
            ]
            sizes = [None if np.isnan(size) else size for size in found]
        rows: dict[str, Name] = {}
        for line, case, slide, size in zip(table.index, table["case_id"], table["slide_id"], sizes, strict=True):
            row = Name(stem(slide), composed(case), size)
            if rows.setdefault(row.slide_id.lower(), row) != row:
                problems.append(
                    f"{file}:{line}: slide {slide[:80]!r} has other values in a row above. Fix: make its rows agree."
                )
        raise_if_any(problems)
        return cls(rows.values())

    def __call__(self, slide_id: str) -> Name | None:
        """The row of a slide, or None. The UUID after a barcode may be missing in the table or in the name.

        Raises DataError if several rows match.
        """
        name = slide_id.lower()
        if (row := self._rows.get(name)) is not None:
            return Name(slide_id, row.case_id, row.mpp)
        longer = [row for key, row in self._rows.items() if key.startswith(f"{name}.")]
        if len(longer) == 1:
            return longer[0]
        if longer:
            names = preview([row.slide_id for row in longer])
            raise DataError(
                [f"slide {slide_id[:80]!r}: the table has {names}. Fix: name the file like its slide in the table."]
            )
        parts = name.split(".")
        for count in range(len(parts) - 1, 0, -1):
            if (row := self._rows.get(".".join(parts[:count]))) is not None:
                return Name(slide_id, row.case_id, row.mpp)
        return None
