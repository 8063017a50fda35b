"""Import published splits into training and held-out cases from the files of other projects.

    SRC/splits_0.csv, ...           one file per fold, ids in the columns train and val or test (SurvPath, MCAT, CLAM)
    SRC/*k=0/train.csv, test.csv    one folder per fold, one row per slide (MMP)

Ids are those of cases or slides; slide ids are shortened to their case. The number in a name is the fold, or on request
the repeat, for splits that were drawn anew for every file (Monte-Carlo).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from survq.data.barcodes import case_of
from survq.data.cohort_files import cohort_folder, labelled, read_cases, update_cohort
from survq.data.folds import fold_problems, given_folds
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import splits_problems
from survq.importing.decompress import sha256
from survq.importing.missing import MISSING, Missing
from survq.importing.text_table import read_text_table
from survq.text import preview

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class Splits:
    table: pd.DataFrame  # repeat, fold, case_id, role
    places: Mapping[str, str]  # case id -> its first occurrence: file, line and column
    source: dict
    notes: tuple[str, ...] = ()


def import_splits(
    source: Path,
    root: Location,
    cohort: str,
    *,
    held_out: str | None = None,
    repeats_from_files: bool = False,
    missing: Missing = MISSING,
) -> tuple[Splits, list[int], pd.DataFrame]:
    """Import published splits into a cohort with labels, whose other tables are kept.

    Returns the splits, the number of held-out events per fold, and the new dropped.csv. If it raises FileNotFoundError
    or DataError, which lists all problems, nothing has been written.
    """
    folder = cohort_folder(root, cohort)
    cases = read_cases(folder)
    splits = read_splits(source, held_out, repeats_from_files=repeats_from_files, missing=missing)
    known = labelled(folder)
    ids = set(splits.table["case_id"])
    if not ids & set(cases.index):
        raise DataError(
            [
                f"{source}: none of its {len(ids)} ids is a case of this cohort: {preview(sorted(ids), 2)}; the cohort "
                f"has {preview(cases.index, 2)}. Fix: use the splits of this cohort."
            ]
        )
    raise_if_any(_held_out_twice(splits.table, source) or splits_problems(splits.table, str(source)))
    folds = given_folds(splits.table, list(cases.index))
    raise_if_any([f"{source}: {problem}" for problem in fold_problems(folds, cases)])
    events = [int(cases.loc[list(fold.validation), "event"].sum()) for fold in folds]
    notes = list(splits.notes)
    if repeats_from_files:
        times = splits.table.loc[splits.table["role"] == "validation", "case_id"].value_counts()
        notes.append(
            f"{len(folds)} repeats, one of each file: {len(times)} cases are held out, {(times > 1).sum()} of them in "
            f"several repeats"
        )
    if unlabelled := sorted(ids - known):
        notes.append(f"{len(unlabelled)} ids have no label and are ignored: {preview(unlabelled)}")
    if excluded := sorted((ids & known) - set(cases.index)):
        notes.append(f"{len(excluded)} ids are excluded by the labels and ignored: {preview(excluded)}")
    if unsplit := sorted(set(cases.index) - {case for fold in folds for case in fold.validation}):
        notes.append(f"{len(unsplit)} cases are not held out in any fold: {preview(unsplit)}")
    dropped = update_cohort(folder, {"splits": splits.source}, splits=splits.table)
    return Splits(splits.table, splits.places, splits.source, tuple(notes)), events, dropped


def _held_out_twice(table: pd.DataFrame, source: Path) -> list[str]:
    """A problem if a case is held out in two folds of a repeat, with the option for splits that are no folds."""
    held_out = table[table["role"] == "validation"]
    twice = held_out.loc[held_out.duplicated(["repeat", "case_id"]), "case_id"].unique()
    if not len(twice):
        return []
    return [
        f"{source}: {preview(twice)} are held out in two folds. Fix: hold out each case once; or, if each file is a "
        f"split of its own (Monte-Carlo), add --repeats-from files."
    ]


def read_splits(
    source: Path, held_out: str | None = None, *, repeats_from_files: bool = False, missing: Missing = MISSING
) -> Splits:
    """Read all folds of a folder. `held_out` selects val or test, if there are both.

    With `repeats_from_files` each file, or folder of files, is a repeat with one fold. Raises FileNotFoundError;
    DataError with the problems of all files.
    """
    if source.is_file():
        raise DataError([f"{source}: is a file; expected the folder of all folds. Fix: give {source.parent}."])
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; expected one with splits_0.csv, ... or *k=0/ in it.")
    tables = {
        int(match[1]): [file]
        for file in source.iterdir()
        if (match := re.fullmatch(r"splits_(\d+)\.csv", file.name)) and file.is_file()
    }
    read = _read_columns
    if not tables:
        folders = [source] if re.search(r"k=\d+$", source.name) else source.iterdir()
        tables = {
            int(match[1]): sorted(folder.glob("*.csv"))
            for folder in folders
            if (match := re.search(r"k=(\d+)$", folder.name)) and folder.is_dir()
        }
        read = _read_files
    if not tables:
        held = preview(sorted(path.name for path in source.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"{source}: holds no splits but {held}; expected splits_0.csv, ... or folders *k=0/ with train.csv and "
            f"test.csv. Fix: name the files so."
        )
    rows: dict[tuple[int, int, str, str], str] = {}
    problems: list[str] = []
    unused: set[str] = set()
    roles: dict[str, int] = {}
    for fold, files in sorted(tables.items()):
        try:
            ids = read(files, missing)
            role = _held_out(set(ids), held_out, files[0] if files else source / f"k={fold}")
        except DataError as error:
            problems += error.problems
            continue
        roles.setdefault(role, fold)
        unused |= set(ids) - {"train", role}
        for column, name in (("train", "training"), (role, "validation")):
            for case, place in ids[column].items():
                rows.setdefault((fold, 0, case, name) if repeats_from_files else (0, fold, case, name), place)
    if len(roles) > 1:
        names = " and ".join(f"{role} (fold {fold})" for role, fold in roles.items())
        problems.append(f"{source}: held-out cases are named {names}. Fix: use one name in all folds.")
    raise_if_any(problems)
    table = pd.DataFrame(list(rows), columns=["repeat", "fold", "case_id", "role"])
    table = table.sort_values(["repeat", "fold", "role", "case_id"], ignore_index=True)
    notes = [f"the cases under {preview(sorted(unused))} are not used"] if unused else []
    facts = {
        "layout": "one file per fold" if read is _read_columns else "one folder per fold",
        "held_out": next(iter(roles)),
        "repeats": "one of each file" if repeats_from_files else "one",
        "files": {str(file.relative_to(source)): sha256(file) for files in tables.values() for file in files},
    }
    places: dict[str, str] = {}
    for (_, _, case, _), place in rows.items():
        places.setdefault(case, place)
    return Splits(table, places, facts, tuple(notes))


def _read_columns(files: Sequence[Path], missing: Missing) -> dict[str, dict[str, str]]:
    """Column -> case -> its place, from one table per fold. Empty columns other than train are ignored."""
    (file,) = files
    table = read_text_table(file, needed=["train"], missing=missing)
    columns: dict[str, dict[str, str]] = {}
    for name in ("train", *HELD_OUT):
        if name in table:
            ids = {case_of(cell): f"{file}:{line}: {name}" for line, cell in table[name].items() if cell}
            columns |= {name: ids} if ids or name == "train" else {}
    return columns


def _read_files(files: Sequence[Path], missing: Missing) -> dict[str, dict[str, str]]:
    """Role -> case -> its place, from one table per role."""
    columns = {}
    for file in files:
        if file.stem in ("train", *HELD_OUT):
            table = read_text_table(file, needed=["case_id"], missing=missing)
            columns[file.stem] = {
                case_of(cell): f"{file}:{line}: case_id" for line, cell in table["case_id"].items() if cell
            }
    return columns


def _held_out(columns: set[str], asked: str | None, file: Path) -> str:
    present = sorted(columns & set(HELD_OUT))
    if "train" not in columns or not present or (asked is not None and asked not in present):
        raise DataError(
            [f"{file}: holds {preview(sorted(columns)) or 'nothing'}; expected train and {asked or 'val or test'}."]
        )
    if asked is None and len(present) > 1:
        raise DataError([f"{file}: has val and test. Fix: choose with --held-out val or --held-out test."])
    return asked or present[0]
