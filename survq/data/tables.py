"""The tables of a data folder: their files, how to read them, and checks of each table and of all tables together.

Every study reads such a data folder, on a local path or in a bucket:

    DIR/pathways.gmt                    gene sets of all cohorts: the collection "pathways", see survq/data/gene_sets.py
    DIR/gene_sets/<NAME>.gmt            further collections, such as six_groups                            (optional)
    DIR/<COHORT>/cases.parquet          case_id, time (months), event (bool), site, age, sex and stage as in
                                        survq/data/clinical.py, further columns unchanged
    DIR/<COHORT>/expression.parquet     case_id, one float32 column per gene                               (optional)
    DIR/<COHORT>/features/*.parquet     one row and row group per slide, see survq/data/feature_store.py   (optional)
    DIR/<COHORT>/splits.parquet         repeat, fold, case_id, role: training or validation                (optional)
    DIR/<COHORT>/dropped.csv            case_id, reason: excluded cases                                    (optional)

Every id in any of these tables is in cases.parquet or in dropped.csv, so that no case is lost. A case with neither
slides nor expression is in both, until it gets either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from survq.data.barcodes import case_of
from survq.data.clinical import clinical_problems
from survq.data.feature_store import INDEX, slide_index
from survq.data.gene_sets import FOLDER
from survq.data.location import Location
from survq.data.problems import DataError
from survq.text import preview

DROPPED = ["case_id", "reason"]
"""The columns of dropped.csv."""

INCOMPLETE = "incomplete_genes_kept"
"""The entry of source.json with the genes whose unknown values were kept."""

NEITHER = "neither slides nor expression"  # the reason of a case that a study cannot use yet


@dataclass(frozen=True)
class Tables:
    """The tables of a cohort as stored in its folder; None where a table is missing or invalid."""

    cases: pd.DataFrame | None
    expression: pd.DataFrame | None
    splits: pd.DataFrame | None
    slides: pd.DataFrame
    dropped: pd.DataFrame
    incomplete: tuple[str, ...] = ()  # genes that may have unknown values, as their import was asked to keep them


def read_source(folder: Location) -> dict[str, dict]:
    """The origin of each part of a cohort, as recorded by its import; empty if none did."""
    file = folder / "source.json"
    try:
        parts = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise DataError([f"{file}: is not JSON ({error}). Fix: remove it."]) from error
    return {name: facts for name, facts in parts.items() if isinstance(facts, dict)} if isinstance(parts, dict) else {}


def read_tables(folder: Location) -> tuple[Tables, list[str]]:
    """The valid tables of a cohort, and the problems of all its tables, each by itself and joined."""
    problems: list[str] = []

    def read(file: str) -> pd.DataFrame | None:
        try:
            return (folder / file).read_table() if (folder / file).is_file() else None
        except DataError as error:
            problems.extend(error.problems)
            return None

    cases, expression, splits = read("cases.parquet"), read("expression.parquet"), read("splits.parquet")
    if not (folder / "cases.parquet").is_file():
        problems.append(f"{folder}/cases.parquet is missing. Fix: import the cohort again.")
    slides, dropped = pd.DataFrame(columns=INDEX), pd.DataFrame(columns=DROPPED)
    try:
        slides = slide_index(folder / "features")
    except DataError as error:
        problems += error.problems
    try:
        dropped = (folder / "dropped.csv").read_csv(DROPPED)
    except DataError as error:
        problems += error.problems
    incomplete: tuple[str, ...] = ()
    try:
        incomplete = tuple(read_source(folder).get("expression", {}).get(INCOMPLETE, ()))
    except DataError as error:
        problems += error.problems
    tables, found = valid_tables(Tables(cases, expression, splits, slides, dropped, incomplete), str(folder))
    return tables, problems + found


def valid_tables(tables: Tables, folder: str) -> tuple[Tables, list[str]]:
    """The tables without invalid ones, and the problems of all tables, each by itself and joined."""
    checks: dict[str, Callable[[pd.DataFrame, str], list[str]]] = {
        "cases": cases_problems,
        "expression": lambda table, file: expression_problems(table, file, tables.incomplete),
        "splits": splits_problems,
    }
    problems: list[str] = []
    invalid: dict[str, Any] = {}
    for name, check in checks.items():
        table = getattr(tables, name)
        if table is not None and (found := check(table, f"{folder}/{name}.parquet")):
            problems += found
            invalid[name] = None
    problems += slides_problems(tables.slides, f"{folder}/features")
    if list(tables.dropped.columns) != DROPPED:
        problems.append(
            f"{folder}/dropped.csv: has the columns {preview(tables.dropped, 9)}; expected {', '.join(DROPPED)}."
        )
    elif tables.cases is not None and "case_id" in tables.cases and len(tables.cases):
        problems += join_problems(tables, folder)
    return replace(tables, **invalid), problems


def join_problems(tables: Tables, folder: str) -> list[str]:
    """Ids of other tables that are neither cases nor dropped: a sign that the tables do not belong together."""
    assert tables.cases is not None
    cases, dropped = set(tables.cases["case_id"]), set(other_reasons(tables.dropped)["case_id"])
    problems = []
    if both := sorted(str(case) for case in cases & dropped):
        problems.append(f"{folder}/dropped.csv: lists {preview(both)}, which are also in cases.parquet.")
    others = {
        "expression.parquet": tables.expression,
        "splits.parquet": tables.splits,
        "features": tables.slides,
    }
    for file, table in others.items():
        if table is None or "case_id" not in table or table.empty:
            continue
        ids = set(table["case_id"])
        if unknown := sorted(str(case) for case in ids - cases - dropped):
            example = f"; cases.parquet has ids such as {str(min(cases, key=str))!r}"
            none = "" if ids & cases else f"; none of the {len(ids)} ids is in cases.parquet"
            problems.append(
                f"{folder}/{file}: ids that are not in cases.parquet: {preview(unknown)}{example}{none}. "
                f"Fix: correct them, or list them in dropped.csv with a reason."
            )
    return problems


def other_reasons(dropped: pd.DataFrame) -> pd.DataFrame:
    """The rows of dropped.csv with any reason but NEITHER: cases that stay excluded whatever is imported for them."""
    return dropped[dropped["reason"] != NEITHER]


def summarise_dropped(dropped: pd.DataFrame) -> list[str]:
    """Excluded cases, one line per reason, for people; dropped.csv lists them all."""
    lines = []
    for reason, ids in dropped.groupby("reason")["case_id"]:
        until = "until their slides are imported: " if reason == NEITHER else ""
        lines.append(f"excluded, {reason}: {len(ids)}, {until}{preview(ids, 5)}")
    return lines


def cohort_name_problems(name: str) -> list[str]:
    """The name must be safe as the name of a folder."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name) and name != FOLDER:
        return []
    return [f"{name!r} cannot be the name of a cohort; expected a plain name such as BLCA."]


def cases_problems(cases: pd.DataFrame, file: str) -> list[str]:
    if missing := [column for column in ("case_id", "time", "event") if column not in cases]:
        return [f"{file}: lacks the columns {missing}; it has {preview(cases.columns, 9)}. Fix: rename or add them."]
    if cases.empty:
        return [f"{file}: holds no cases."]
    problems = case_id_problems(cases["case_id"], file)
    time = pd.to_numeric(cases["time"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for case, cell in cases.loc[~(np.isfinite(time) & (time > 0)), ["case_id", "time"]].to_numpy(dtype=object):
        problems.append(
            f"{file}: case {case!r}: time {cell!r}; expected months above 0. Fix: correct it or remove the case."
        )
    if not pd.api.types.is_numeric_dtype(cases["time"]) and not problems:
        problems.append(f"{file}: time is {cases['time'].dtype}; expected numbers, in months.")
    for case in cases.loc[cases["event"].isna(), "case_id"]:
        problems.append(f"{file}: case {case!r}: no event status. Fix: add it or remove the case.")
    if not pd.api.types.is_bool_dtype(cases["event"].dropna().infer_objects()):
        problems.append(f"{file}: event is {cases['event'].dtype}; expected bool, true if death was observed.")
    elif not cases["event"].any():
        problems.append(
            f"{file}: no case has an event; no model can be trained or evaluated. "
            f"Fix: check whether the coding is reversed."
        )
    return [*problems, *clinical_problems(cases, file)]


def case_id_problems(case_ids: pd.Series, file: str) -> list[str]:
    """Ids are text that starts with a letter or digit. Two ids of one patient would leak between folds."""
    problems = []
    for row, case in enumerate(case_ids, start=1):
        if not isinstance(case, str) or not usable_id(case):
            problems.append(
                f"{file}: row {row}: case id {_shortened(case)}; expected up to 200 printable characters, "
                f"starting with a letter or digit, without surrounding blanks."
            )
    repeated = case_ids[case_ids.duplicated(keep=False)].unique()
    if len(repeated):
        problems.append(f"{file}: cases listed more than once: {preview(repeated)}. Fix: keep one row per case.")
    patients = case_ids.map(lambda case: case_of(str(case).upper()))
    for _, ids in case_ids.drop_duplicates().groupby(patients):
        if len(ids) > 1:
            problems.append(f"{file}: {preview(ids)} are one patient. Fix: keep one row per patient.")
    return problems


def usable_id(text: str) -> bool:
    return text[:1].isalnum() and text.isprintable() and text.strip() == text and len(text) <= 200


def _shortened(value: object) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "..."


def expression_problems(expression: pd.DataFrame, file: str, incomplete: Collection[str] = ()) -> list[str]:
    """Problems of a table of expression. Genes that are `incomplete` may have unknown values, NaN."""
    if "case_id" not in expression:
        return [f"{file}: lacks the column case_id."]
    problems = case_id_problems(expression["case_id"], file)
    genes = expression.drop(columns="case_id")
    if genes.empty:
        problems.append(f"{file}: holds {genes.shape[0]} cases and {genes.shape[1]} genes.")
    if repeated := list(genes.columns[genes.columns.duplicated()].unique()):
        return [*problems, f"{file}: genes listed more than once: {preview(repeated)}. Fix: keep one column per gene."]
    if text := [column for column in genes if not pd.api.types.is_numeric_dtype(genes[column])]:
        problems.append(f"{file}: columns that are not numeric: {preview(text)}. Fix: keep numeric columns only.")
        genes = genes.drop(columns=text)
    values = genes.to_numpy(dtype=np.float64, na_value=np.nan)
    finite = np.isfinite(values) | (np.isnan(values) & np.isin(genes.columns, list(incomplete)))
    for column in np.flatnonzero(~finite.all(axis=0)):
        rows = np.flatnonzero(~finite[:, column])
        problems.append(
            f"{file}: gene {genes.columns[column]!r}: not a finite number for "
            f"{preview(expression['case_id'].iloc[rows])}. "
            f"Fix: fill in the values or drop the gene."
        )
    return problems


def splits_problems(splits: pd.DataFrame, file: str) -> list[str]:
    if missing := [column for column in ("repeat", "fold", "case_id", "role") if column not in splits]:
        return [f"{file}: lacks the columns {missing}."]
    problems = []
    for column in ("repeat", "fold"):
        if not pd.api.types.is_integer_dtype(splits[column]):
            problems.append(f"{file}: {column} is {splits[column].dtype}; expected whole numbers.")
    if unknown := sorted(set(splits["role"].map(str)) - {"training", "validation"}):
        problems.append(f"{file}: roles {preview(unknown)}; expected training or validation.")
    repeated = splits[splits.duplicated(["repeat", "fold", "case_id"])]
    for (repeat, fold), rows in repeated.groupby(["repeat", "fold"]):
        problems.append(
            f"{file}: repeat {repeat}, fold {fold}: {preview(rows['case_id'].unique())} are listed more than once. "
            f"Fix: give each case one role."
        )
    held_out = splits[splits["role"] == "validation"].drop_duplicates(["repeat", "fold", "case_id"])
    for repeat, rows in held_out[held_out.duplicated(["repeat", "case_id"])].groupby("repeat"):
        problems.append(
            f"{file}: repeat {repeat}: {preview(rows['case_id'].unique())} are held out in two folds. "
            f"Fix: hold out each case once per repeat."
        )
    return problems


def slides_problems(slides: pd.DataFrame, file: str) -> list[str]:
    problems = []
    ids = slides["slide_id"]
    if unusable := [slide for slide in ids if not isinstance(slide, str) or not usable_id(slide)]:
        problems.append(f"{file}: slide ids {preview(map(_shortened, unusable))}; expected text as for case ids.")
    if repeated := list(ids[ids.duplicated()].unique()):
        problems.append(
            f"{file}: slides listed more than once: {preview(repeated)}. Fix: remove the folder and import it again."
        )
    for column, what in (("width", "feature widths"), ("encoder", "patch encoders")):
        if slides[column].nunique() > 1:
            groups = ", ".join(f"{value} ({count} slides)" for value, count in slides[column].value_counts().items())
            problems.append(f"{file}: mixed {what}: {groups}. Fix: extract all slides of a cohort with one encoder.")
    if empty := list(ids[slides["patches"] == 0]):
        problems.append(f"{file}: slides without patches: {preview(empty)}. Fix: remove them.")
    return problems
