"""A cohort whose tables come one at a time. Each import puts its own, and the books are brought up to date with it.

The books are dropped.csv and source.json. Whatever comes in which order, and however often, the rule at the head of
survq/data/tables.py holds: an id in any of a cohort's tables is a case of cases.parquet or stands in dropped.csv, and
who has neither slides nor expression stands in both.
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

from survq.data.feature_store import FeatureStore
from survq.data.location import UNREADABLE, Location, parquet, unreadable
from survq.data.lock import locked
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import (
    DROPPED,
    NEITHER,
    cases_problems,
    cohort_name_problems,
    expression_problems,
    splits_problems,
)

FILES = ("cases.parquet", "expression.parquet", "splits.parquet", "dropped.csv", "source.json")

WITHOUT_LABEL = {
    "expression": "expression without a label",
    "splits": "in the splits without a label",
    "features": "slides without a label",
}
"""Why somebody is left out who stands in a table yet is no case; all other reasons are those of the labels."""


def cohort_folder(root: str | Path | Location, name: str) -> Location:
    """Where a cohort of a data folder lies, whether it is there or not. Raises DataError for a name that is none."""
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
    """Put the tables that are given in place of those of the cohort at `folder`; the others, and features, stay.

    `folder` is what `cohort_folder` gives, for names of cohorts are people's and must not become any path.

    `source` says what each part was made of, by the name of the part: labels, expression, splits or features; it goes
    into source.json. `cases` and `expression` are indexed by case id. `dropped` gives whom the labels leave out, and
    why; it comes with `cases`. `unlabelled` gives, by part, ids that were seen and not written, for they have no label.
    Ids without a label that are written are found here, those of slides too: who writes features calls this afterwards
    with `source={"features": ...}` and no more. Features may come before the labels, other tables may not.

    Returns dropped.csv as it is now: case_id, reason. Raises DataError, and then nothing has been written.
    """
    problems: list[str] = []
    tables: dict[str, pd.DataFrame] = {}
    if cases is not None:
        tables["cases.parquet"] = cases.reset_index(names="case_id")
        problems += cases_problems(tables["cases.parquet"], f"{folder}/cases.parquet")
    if expression is not None:
        tables["expression.parquet"] = expression.astype(np.float32).reset_index(names="case_id")
        problems += expression_problems(tables["expression.parquet"], f"{folder}/expression.parquet")
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
        reasons = left_out(
            known,
            of_labels=dropped or {},
            before=read_dropped(folder),
            unlabelled=unlabelled or {},
            written=written,
            renewed=source,
        )
        table = pd.DataFrame(sorted(reasons.items()), columns=DROPPED, dtype=object)
        books = {
            "dropped.csv": table.to_csv(index=False).encode(),
            "source.json": json.dumps({**read_source(folder), **source}, indent=1, sort_keys=True).encode(),
        }
        folder.write_files({**{name: parquet(table) for name, table in tables.items()}, **books})
    return table


def left_out(
    known: Collection[str],
    *,
    of_labels: Mapping[str, str],
    before: Mapping[str, str],
    unlabelled: Mapping[str, Iterable[str]],
    written: Mapping[str, Iterable[str]],
    renewed: Collection[str],
) -> dict[str, str]:
    """Who is left out of a cohort, and why. `known` are its cases.

    Of several reasons of one id the first counts:

        of_labels     what the labels that come now say of it
        before        what dropped.csv says, unless the part that this reason is of is `renewed` now
        unlabelled    it came with a part, and was not written, for it has no label
        written       it stands in the table of a part, and has no label

    A case is left out for none of them; but where it has neither slides nor expression, once anybody has.
    """
    part_of = {reason: part for part, reason in WITHOUT_LABEL.items()}
    still = {case: reason for case, reason in before.items() if part_of.get(reason, "labels") not in renewed}
    seen = [dict.fromkeys(ids, WITHOUT_LABEL[part]) for parts in (unlabelled, written) for part, ids in parts.items()]
    reasons = ChainMap(dict(of_labels), still, *seen)  # the first that knows an id answers
    having = {*written["expression"], *written["features"]}
    lacking = [case for case in known if case not in having] if having else []
    return {case: reasons[case] for case in reasons if case not in known} | dict.fromkeys(lacking, NEITHER)


def read_dropped(folder: Location) -> dict[str, str]:
    """The reason of everybody who was left out of a cohort."""
    return dict((folder / "dropped.csv").read_csv(DROPPED).itertuples(index=False))


def labelled(folder: Location) -> set[str]:
    """Whom the labels of a cohort know: its cases, and those whom they leave out."""
    by_labels = {case for case, reason in read_dropped(folder).items() if reason not in WITHOUT_LABEL.values()}
    return {*_case_ids(folder, "cases.parquet", {}), *by_labels}


def read_source(folder: Location) -> dict[str, dict]:
    """What the parts of a cohort were made of, as their imports noted it; empty where none did."""
    file = folder / "source.json"
    try:
        parts = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise DataError([f"{file}: is not JSON ({error}). Fix: remove it."]) from error
    return {name: facts for name, facts in parts.items() if isinstance(facts, dict)} if isinstance(parts, dict) else {}


def read_cases(folder: Location) -> pd.DataFrame:
    """The cases of a cohort, indexed by id: time, event, ... Raises DataError where its labels are not there yet."""
    if not (folder / "cases.parquet").is_file():
        cohort = folder.path.rsplit("/", 1)[-1]
        raise DataError(
            [
                f"{folder}/cases.parquet is missing: labels define the cases of a cohort, so they come first. "
                f"Fix: survq import labels FILE DATA --cohort {cohort}"
            ]
        )
    cases = (folder / "cases.parquet").read_table()
    raise_if_any(cases_problems(cases, f"{folder}/cases.parquet"))
    return cases.set_index("case_id").sort_index()


@contextmanager
def locked_files(folder: Location, *files: str) -> Iterator[None]:
    """These files of a folder for one import after another; what killed ones left of them half written is swept away.

    In a bucket nothing is ever seen half written, and nothing can be locked.
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
    return FeatureStore(folder / "features").index["case_id"].unique()
