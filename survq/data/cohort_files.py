"""Import the tables of a cohort one at a time. Each import also updates the records dropped.csv and source.json.

In any order, and however often tables are imported, the rule in the docstring of survq/data/tables.py holds: every id
in the tables of a cohort is in cases.parquet or in dropped.csv, and a case with neither slides nor expression is in
both.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from survq.data.feature_store import slide_index
from survq.data.location import UNREADABLE, Location, csv_bytes, parquet, unreadable
from survq.data.lock import locked
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import (
    DROPPED,
    INCOMPLETE,
    NEITHER,
    cases_problems,
    cohort_name_problems,
    expression_problems,
    read_source,
    splits_problems,
)

FILES = ("cases.parquet", "expression.parquet", "splits.parquet", "dropped.csv", "source.json")

WITHOUT_LABEL = {
    "expression": "expression without a label",
    "splits": "in the splits without a label",
    "features": "slides without a label",
}
"""The reasons of ids that are in a table of a part, but not in the labels. All other reasons come from the labels."""


def cohort_folder(root: str | Path | Location, name: str) -> Location:
    """The folder of a cohort, existing or not. Raises DataError for an invalid name."""
    raise_if_any(cohort_name_problems(name))
    return Location.at(root) / name


def update_cohort(
    folder: Location,
    source: Mapping[str, dict],
    *,
    cases: pd.DataFrame | None = None,
    dropped: Mapping[str, str] | None = None,
    expression: pd.DataFrame | None = None,
    splits: pd.DataFrame | None = None,
    unlabelled: Mapping[str, Iterable[str]] | None = None,
) -> pd.DataFrame:
    """Replace the given tables of the cohort at `folder`; keep its other tables and its features.

    `folder` must come from `cohort_folder`, which makes sure that a name given by the user cannot be another path.

    `source` describes the origin of each part (labels, expression, splits or features) for source.json. `cases` and
    `expression` are indexed by case id. `dropped` maps the ids that the labels exclude to their reasons; pass it with
    `cases`. `unlabelled` lists, by part, ids that were read but not written, because they have no label. Written ids
    without a label are found here, including those of slides: after writing features, call this with only
    `source={"features": ...}`. Features may be imported before the labels, other tables may not.

    Returns the new dropped.csv: case_id, reason. If it raises DataError, nothing has been written.
    """
    problems: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    if cases is not None:
        tables["cases.parquet"] = cases.reset_index(names="case_id")
        problems += cases_problems(tables["cases.parquet"], f"{folder}/cases.parquet")
    if expression is not None:
        tables["expression.parquet"] = expression.astype(np.float32).reset_index(names="case_id")
        incomplete = source.get("expression", {}).get(INCOMPLETE, ())
        problems += expression_problems(tables["expression.parquet"], f"{folder}/expression.parquet", incomplete)
    if splits is not None:
        tables["splits.parquet"] = splits
        problems += splits_problems(splits, f"{folder}/splits.parquet")
    raise_if_any(problems)

    with locked_files(folder, *FILES):
        known = set(_case_ids(folder, "cases.parquet", tables))
        written = {
            part: set(_slides(folder) if part == "features" else _case_ids(folder, f"{part}.parquet", tables))
            for part in WITHOUT_LABEL
        }
        reasons = exclusions(
            known,
            by_labels=dropped or {},
            previous=read_dropped(folder),
            unlabelled=unlabelled or {},
            written=written,
            renewed=source,
        )
        table = pd.DataFrame(sorted(reasons.items()), columns=DROPPED, dtype=object)
        records = {
            "dropped.csv": csv_bytes(table),
            "source.json": json.dumps({**read_source(folder), **source}, indent=1, sort_keys=True).encode(),
        }
        folder.write_files({**{name: parquet(table) for name, table in tables.items()}, **records})
    return table


def exclusions(
    known: Collection[str],
    *,
    by_labels: Mapping[str, str],
    previous: Mapping[str, str],
    unlabelled: Mapping[str, Iterable[str]],
    written: Mapping[str, Iterable[str]],
    renewed: Collection[str],
) -> dict[str, str]:
    """The ids excluded from a cohort, with their reasons. `known` are its cases.

    If an id has several reasons, the first in this order counts:

        by_labels     the new labels exclude it
        previous      dropped.csv excludes it, for a reason of a part that is not `renewed` now
        unlabelled    it was read with a part but not written, because it has no label
        written       it is in the table of a part, but has no label

    None of these reasons excludes a case. A case is excluded only if it has neither slides nor expression while any
    other id has.
    """
    part_of = {reason: part for part, reason in WITHOUT_LABEL.items()}
    kept = {case: reason for case, reason in previous.items() if part_of.get(reason, "labels") not in renewed}
    seen = [dict.fromkeys(ids, WITHOUT_LABEL[part]) for parts in (unlabelled, written) for part, ids in parts.items()]
    reasons = ChainMap(dict(by_labels), kept, *seen)
    with_input = {*written["expression"], *written["features"]}
    without_input = [case for case in known if case not in with_input] if with_input else []
    return {case: reasons[case] for case in reasons if case not in known} | dict.fromkeys(without_input, NEITHER)


def read_dropped(folder: Location) -> dict[str, str]:
    """The excluded ids of a cohort, with their reasons."""
    return dict((folder / "dropped.csv").read_csv(DROPPED).itertuples(index=False))


def labelled(folder: Location) -> set[str]:
    """All ids in the labels of a cohort: its cases, and those that the labels exclude."""
    by_labels = {case for case, reason in read_dropped(folder).items() if reason not in WITHOUT_LABEL.values()}
    return {*_case_ids(folder, "cases.parquet", {}), *by_labels}


def read_cases(folder: Location) -> pd.DataFrame:
    """The cases of a cohort, indexed by id: time, event, ... Raises DataError if it has no labels yet."""
    if not (folder / "cases.parquet").is_file():
        cohort = folder.path.rsplit("/", 1)[-1]
        raise DataError(
            [
                f"{folder}/cases.parquet is missing: labels define the cases, so import them first. "
                f"Fix: survq import labels FILE DATA --cohort {cohort}"
            ]
        )
    cases = (folder / "cases.parquet").read_table()
    raise_if_any(cases_problems(cases, f"{folder}/cases.parquet"))
    return cases.set_index("case_id").sort_index()


@contextmanager
def locked_files(folder: Location, *files: str) -> Iterator[None]:
    """Lock these files of a folder for one import, and remove partial copies that killed imports have left.

    In a bucket there are neither locks nor partial files.
    """
    if folder.local is None:
        yield
        return
    folder.local.mkdir(parents=True, exist_ok=True)
    with locked(folder.local / ".books.lock", folder, "wait, or end that process if it hangs", wait=True):
        for file in files:
            folder.sweep(f".{file}.*")
        yield


def _case_ids(folder: Location, file: str, new: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    if file in new:
        return new[file]["case_id"].unique()
    if not (folder / file).is_file():
        return []
    try:
        table = pq.read_table(
            (folder / file).path, filesystem=folder.filesystem, columns=["case_id"], partitioning=None
        )
        return table["case_id"].unique().to_pylist()
    except UNREADABLE as error:
        raise DataError([unreadable(folder / file, error)]) from error


def _slides(folder: Location) -> Iterable[str]:
    return slide_index(folder / "features")["case_id"].unique()
