"""Cohort: the cases of one cancer type, and what is known of each. All tables are joined by case id.

The data folder that every study reads, on a local path or in a bucket:

    DIR/pathways.gmt
    DIR/<COHORT>/cases.parquet          case_id, time (months), event (bool), site, further columns as they came
    DIR/<COHORT>/expression.parquet     case_id, one float32 column a gene                        (may be missing)
    DIR/<COHORT>/features/*.parquet     one row and one row group a slide, see survq/data/features.py   (likewise)
    DIR/<COHORT>/splits.parquet         repeat, fold, case_id, role: training or validation            (likewise)
    DIR/<COHORT>/dropped.csv            case_id, reason: who was left out, and why                     (likewise)

Nobody gets lost: an id in any of these tables is a case of cases.parquet or stands in dropped.csv. A case that has
neither slides nor expression stands in both, until either comes.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.features import INDEX, FeatureStore, Slide, write_features
from survq.data.folder import Folder, replace_file
from survq.data.pathways import Pathways
from survq.data.problems import DataError, raise_if_any, some

NEITHER = "neither slides nor expression"  # the reason of a case that a study cannot use yet
COVERAGE = 0.9  # share of a pathway's genes that must have been measured (section 4.1)


@dataclass(frozen=True)
class InputSpec:
    """The sizes a model is built from. They come from the data."""

    patch_features: int  # width of a patch's feature vector; 0 where the cohort has no slides
    genes: int  # columns of the expression matrix; 0 where the cohort has no expression
    pathways: tuple[tuple[int, ...], ...]  # the expression columns of each pathway's genes
    intervals: int = 4


@dataclass(frozen=True)
class Cohort:
    """The cases of a cohort with an outcome and at least one modality."""

    name: str
    cases: pd.DataFrame  # indexed by case_id: time (months), event, site, ...
    expression: pd.DataFrame | None  # case_id x gene, float32; may lack some of the cases
    slides: pd.DataFrame  # the index of the feature store; may lack some of the cases
    pathways: Pathways  # those that the expression covers, cut to its genes
    splits: pd.DataFrame | None  # repeat, fold, case_id, role
    dropped: pd.DataFrame  # case_id, reason
    features: Folder
    pathways_given: int = 0  # before the coverage rule

    @classmethod
    def load(cls, root: str | Path | Folder, name: str) -> Cohort:
        """Read one cohort of a data folder; cases with neither slides nor expression are left out and listed.

        Raises DataError with everything that is wrong with it.
        """
        root = Folder.at(root)
        folder = root / name
        if not (folder / "cases.parquet").is_file():
            there = cohort_names(root)
            raise DataError(
                [
                    f"{root}: no cohort {name!r}; expected {name}/cases.parquet. It has: {some(there, 9) or 'none'}. "
                    f"Mend: name one of them, or make a data folder with `survq import`."
                ]
            )
        tables, problems = read_tables(folder)
        given = Pathways()
        if (root / "pathways.gmt").is_file():
            try:
                given = Pathways.from_gmt(root / "pathways.gmt")
            except DataError as error:
                problems += error.problems
        raise_if_any(problems)

        assert tables.cases is not None
        cases = tables.cases.set_index("case_id").sort_index()
        cases["event"] = cases["event"].astype(bool)
        expression, pathways = tables.expression, Pathways()
        if expression is not None:
            expression = expression.set_index("case_id").astype(np.float32)
            expression = expression.loc[expression.index.isin(cases.index)].sort_index()
            pathways = given.covered_by(expression.columns, COVERAGE)
        slides = tables.slides[tables.slides["case_id"].isin(cases.index)]
        slides = slides.sort_values(["case_id", "slide_id"])
        splits, dropped = tables.splits, tables.dropped
        cohort = cls(name, cases, expression, slides, pathways, splits, dropped, folder / "features", len(given))
        return cohort._without_empty_cases()

    def _without_empty_cases(self) -> Cohort:
        empty = self.cases.index[~(self.has_slides | self.has_expression)]
        if len(empty) == len(self.cases):
            raise DataError(
                [
                    f"cohort {self.name}: no case has slides or expression, joined by case id. "
                    f"Mend: compare the case ids of its tables; cases.parquet has {some(self.cases.index)}."
                ]
            )
        if empty.empty:
            return self
        gone = pd.DataFrame({"case_id": empty, "reason": NEITHER})
        kept = self.select([case for case in self.cases.index if case not in set(empty)])
        return replace(kept, dropped=pd.concat([_other_reasons(self.dropped), gone], ignore_index=True))

    def select(self, case_ids: Sequence[str]) -> Cohort:
        """The same cohort with these cases only."""
        case_ids = list(case_ids)
        if unknown := [case for case in case_ids if case not in self.cases.index]:
            raise DataError([f"cohort {self.name} has no case {some(unknown)}."])
        expression = self.expression
        if expression is not None:
            expression = expression.loc[expression.index.isin(case_ids)]
        slides = self.slides[self.slides["case_id"].isin(case_ids)]
        return replace(self, cases=self.cases.loc[case_ids], expression=expression, slides=slides)

    @property
    def has_slides(self) -> np.ndarray:
        """(case,), bool."""
        return self.cases.index.isin(self.slides["case_id"])

    @property
    def has_expression(self) -> np.ndarray:
        """(case,), bool."""
        none = np.zeros(len(self.cases), dtype=bool)
        return none if self.expression is None else self.cases.index.isin(self.expression.index)

    @property
    def modalities(self) -> tuple[str, ...]:
        present = {"histology": self.has_slides.any(), "genomics": self.has_expression.any()}
        return tuple(name for name, there in present.items() if there)

    @cached_property
    def spec(self) -> InputSpec:
        widths = self.slides["width"].unique()
        genes = [] if self.expression is None else list(self.expression.columns)
        column = {gene: number for number, gene in enumerate(genes)}
        return InputSpec(
            patch_features=int(widths[0]) if len(widths) else 0,
            genes=len(genes),
            pathways=tuple(tuple(column[gene] for gene in members) for members in self.pathways.genes),
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything a result can depend on: outcomes, folds, expression, pathways and features."""
        digest = hashlib.sha256()
        digest.update(self.cases.filter(["time", "event", "site"]).to_csv().encode())
        if self.splits is not None:
            splits = self.splits[["repeat", "fold", "case_id", "role"]]
            digest.update(splits.sort_values(list(splits)).to_csv(index=False).encode())
        if self.expression is not None:
            digest.update("\t".join([*self.expression.columns, *self.expression.index]).encode())
            digest.update(np.ascontiguousarray(self.expression.to_numpy()).tobytes())
        digest.update(self.pathways.to_gmt().encode())
        digest.update(self.slides[["case_id", "slide_id", "sha256"]].to_csv(index=False).encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.cases)} cases", f"{int(self.cases['event'].sum())} events"]
        if len(self.slides):
            lacking = int((~self.has_slides).sum())
            parts.append(f"{len(self.slides)} slides, {int(self.slides['patches'].sum()):,} patches")
            parts += [f"{lacking} cases without slides"] if lacking else []
        if self.expression is not None:
            lacking = int((~self.has_expression).sum())
            parts.append(f"{self.expression.shape[1]} genes, {len(self.pathways)} of {self.pathways_given} pathways")
            parts += [f"{lacking} cases without expression"] if lacking else []
        if len(self.modalities) == 1:
            missing = "slides" if self.modalities == ("genomics",) else "expression"
            parts.append(f"no {missing}: {self.modalities[0]} alone")
        if len(self.dropped):
            parts.append(f"{len(self.dropped)} cases left out")
        return f"{self.name}: " + ", ".join(parts)


def cohort_names(root: str | Path | Folder) -> list[str]:
    """The cohorts of a data folder."""
    root = Folder.at(root)
    return [name for name in root.names() if (root / name / "cases.parquet").is_file()]


@dataclass(frozen=True)
class Tables:
    """The tables of a cohort as they lie in its folder; None where there is none, or it cannot be read."""

    cases: pd.DataFrame | None
    expression: pd.DataFrame | None
    splits: pd.DataFrame | None
    slides: pd.DataFrame
    dropped: pd.DataFrame


def read_tables(folder: Folder) -> tuple[Tables, list[str]]:
    """Every table of a cohort that can be read, and all that is wrong with any of them."""
    problems: list[str] = []

    def read(file: str) -> pd.DataFrame | None:
        try:
            return (folder / file).read_table() if (folder / file).is_file() else None
        except DataError as error:
            problems.extend(error.problems)
            return None

    cases, expression, splits = read("cases.parquet"), read("expression.parquet"), read("splits.parquet")
    if not (folder / "cases.parquet").is_file():
        problems.append(f"{folder}/cases.parquet is missing. Mend: import the cohort again.")
    slides, dropped = pd.DataFrame(columns=INDEX), pd.DataFrame(columns=["case_id", "reason"])
    try:
        slides = FeatureStore(folder / "features").index
    except DataError as error:
        problems += error.problems
    try:
        dropped = (folder / "dropped.csv").read_csv(["case_id", "reason"])
    except DataError as error:
        problems += error.problems
    tables = Tables(cases, expression, splits, slides, dropped)
    return tables, problems + table_problems(tables, str(folder))


def table_problems(tables: Tables, folder: str) -> list[str]:
    """All that is wrong with the tables of a cohort, each by itself and joined."""
    problems = []
    if tables.cases is not None:
        problems += cases_problems(tables.cases, f"{folder}/cases.parquet")
    if tables.expression is not None:
        problems += expression_problems(tables.expression, f"{folder}/expression.parquet")
    if tables.splits is not None:
        problems += splits_problems(tables.splits, f"{folder}/splits.parquet")
    problems += slides_problems(tables.slides, f"{folder}/features")
    if list(tables.dropped.columns) != ["case_id", "reason"]:
        problems.append(f"{folder}/dropped.csv: has the columns {some(tables.dropped, 9)}; expected case_id, reason.")
    elif tables.cases is not None and "case_id" in tables.cases and len(tables.cases):
        problems += join_problems(tables, folder)
    return problems


def join_problems(tables: Tables, folder: str) -> list[str]:
    """The ids of other tables that nobody knows, for then the tables may not belong together."""
    assert tables.cases is not None
    cases, dropped = set(tables.cases["case_id"]), set(_other_reasons(tables.dropped)["case_id"])
    problems = []
    if both := sorted(str(case) for case in cases & dropped):
        problems.append(f"{folder}/dropped.csv: {some(both)} are left out, yet stand in cases.parquet.")
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
            like = f"; cases look like {str(min(cases, key=str))!r}"
            none = "" if ids & cases else f"; none of its {len(ids)} ids is a case of cases.parquet"
            problems.append(
                f"{folder}/{file}: ids that are no case: {some(unknown)}{like}{none}. "
                f"Mend: correct them, or list them in dropped.csv with a reason."
            )
    return problems


def _other_reasons(dropped: pd.DataFrame) -> pd.DataFrame:
    """Those who are left out although they have slides or expression, or because they are no case."""
    return dropped[dropped["reason"] != NEITHER]


def cohort_name_problems(name: str) -> list[str]:
    """It is the name of a folder, too."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        return []
    return [f"{name!r} cannot be the name of a cohort; expected a plain name such as BLCA."]


def cases_problems(cases: pd.DataFrame, file: str) -> list[str]:
    if missing := [column for column in ("case_id", "time", "event") if column not in cases]:
        return [f"{file}: lacks the columns {missing}; it has {some(cases.columns, 9)}. Mend: rename or add them."]
    if cases.empty:
        return [f"{file}: holds no case."]
    problems = case_id_problems(cases["case_id"], file)
    time = pd.to_numeric(cases["time"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    for case, cell in cases.loc[~(np.isfinite(time) & (time > 0)), ["case_id", "time"]].to_numpy(dtype=object):
        problems.append(
            f"{file}: case {case!r}: time {cell!r}; expected months above 0. Mend: correct it or leave the case out."
        )
    if not pd.api.types.is_numeric_dtype(cases["time"]) and not problems:
        problems.append(f"{file}: time is {cases['time'].dtype}; expected numbers, in months.")
    for case in cases.loc[cases["event"].isna(), "case_id"]:
        problems.append(f"{file}: case {case!r}: no event status. Mend: add it or leave the case out.")
    if not pd.api.types.is_bool_dtype(cases["event"].dropna().infer_objects()):
        problems.append(f"{file}: event is {cases['event'].dtype}; expected bool, true where death was observed.")
    elif not cases["event"].any():
        problems.append(f"{file}: no case has an event; nothing can be learnt or ranked. Mend: is the coding reversed?")
    return problems


def case_id_problems(case_ids: pd.Series, file: str) -> list[str]:
    """An id is text that starts with a letter or digit; two ids of one patient are leakage waiting to happen."""
    problems = []
    for row, case in enumerate(case_ids, start=1):
        if not isinstance(case, str) or not usable_id(case):
            problems.append(
                f"{file}: row {row}: case id {_shortened(case)}; expected up to 200 printable characters, "
                f"the first a letter or digit, no blanks around."
            )
    twice = case_ids[case_ids.duplicated(keep=False)].unique()
    if len(twice):
        problems.append(f"{file}: cases that stand more than once: {some(twice)}. Mend: keep one row a case.")
    for _, ids in case_ids.drop_duplicates().groupby(case_ids.map(_patient)):
        if len(ids) > 1:
            problems.append(f"{file}: {some(ids)} are one patient. Mend: keep one row a patient.")
    return problems


def usable_id(text: str) -> bool:
    return text[:1].isalnum() and text.isprintable() and text.strip() == text and len(text) <= 200


def _patient(case: object) -> str:
    """The patient behind an id: TCGA barcodes name the sample after the twelfth character."""
    name = str(case).upper()
    return name[:12] if name.startswith("TCGA-") else name


def _shortened(value: object) -> str:
    return repr(value) if len(repr(value)) <= 80 else repr(value)[:80] + "..."


def expression_problems(expression: pd.DataFrame, file: str) -> list[str]:
    if "case_id" not in expression:
        return [f"{file}: lacks the column case_id."]
    problems = case_id_problems(expression["case_id"], file)
    genes = expression.drop(columns="case_id")
    if genes.empty:
        problems.append(f"{file}: holds {genes.shape[0]} cases and {genes.shape[1]} genes.")
    if twice := list(genes.columns[genes.columns.duplicated()].unique()):
        return [*problems, f"{file}: genes that stand more than once: {some(twice)}. Mend: keep one column a gene."]
    if text := [column for column in genes if not pd.api.types.is_numeric_dtype(genes[column])]:
        problems.append(f"{file}: genes that are not numbers: {some(text)}. Mend: keep numeric columns only.")
        genes = genes.drop(columns=text)
    finite = np.isfinite(genes.to_numpy(dtype=np.float64, na_value=np.nan))
    for column in np.flatnonzero(~finite.all(axis=0)):
        rows = np.flatnonzero(~finite[:, column])
        problems.append(
            f"{file}: gene {genes.columns[column]!r}: not a finite number in {some(expression['case_id'].iloc[rows])}. "
            f"Mend: fill it or drop the gene."
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
        problems.append(f"{file}: roles {some(unknown)}; expected training or validation.")
    twice = splits[splits.duplicated(["repeat", "fold", "case_id"])]
    for (repeat, fold), rows in twice.groupby(["repeat", "fold"]):
        problems.append(
            f"{file}: repeat {repeat}, fold {fold}: {some(rows['case_id'].unique())} stand more than once. "
            f"Mend: a case either trains or is held out."
        )
    held_out = splits[splits["role"] == "validation"].drop_duplicates(["repeat", "fold", "case_id"])
    for repeat, rows in held_out[held_out.duplicated(["repeat", "case_id"])].groupby("repeat"):
        problems.append(
            f"{file}: repeat {repeat}: {some(rows['case_id'].unique())} are held out in two folds. "
            f"Mend: hold a case out once a repeat."
        )
    return problems


def slides_problems(slides: pd.DataFrame, file: str) -> list[str]:
    problems = []
    ids = slides["slide_id"]
    if odd := [slide for slide in ids if not isinstance(slide, str) or not usable_id(slide)]:
        problems.append(f"{file}: slide ids {some(map(_shortened, odd))}; expected text as for case ids.")
    if twice := list(ids[ids.duplicated()].unique()):
        problems.append(f"{file}: slides that stand more than once: {some(twice)}. Mend: import the features afresh.")
    for column, what in (("width", "feature widths"), ("encoder", "patch encoders")):
        if slides[column].nunique() > 1:
            groups = ", ".join(f"{value} ({count} slides)" for value, count in slides[column].value_counts().items())
            problems.append(f"{file}: mixed {what}: {groups}. Mend: extract all slides of a cohort with one encoder.")
    if empty := list(ids[slides["patches"] == 0]):
        problems.append(f"{file}: slides without patches: {some(empty)}. Mend: leave them out.")
    return problems


def write_cohort(
    root: str | Path,
    name: str,
    *,
    cases: pd.DataFrame,
    expression: pd.DataFrame | None = None,
    slides: Iterable[Slide] = (),
    splits: pd.DataFrame | None = None,
    dropped: pd.DataFrame | None = None,
    pathways: Pathways | None = None,
    attachments: dict[str, bytes] | None = None,
) -> Path:
    """Write one cohort of a data folder, whole or not at all; a cohort of that name that is there is replaced.

    `cases` and `expression` are indexed by case_id. `attachments` are further small files, by name.
    All cohorts of a folder share its pathways: others cannot be put there while there are other cohorts.
    Raises DataError before anything is visible under the cohort's name.
    """
    root = Path(root).expanduser()
    dropped = pd.DataFrame({"case_id": [], "reason": []}, dtype=str) if dropped is None else dropped
    tables = Tables(
        cases=cases.reset_index(names="case_id"),
        expression=None if expression is None else expression.astype(np.float32).reset_index(names="case_id"),
        splits=splits,
        slides=pd.DataFrame(columns=INDEX),
        dropped=dropped,
    )
    problems = table_problems(tables, name)
    problems += cohort_name_problems(name)
    others = [other for other in cohort_names(root) if other != name]
    gmt = root / "pathways.gmt"
    if pathways is not None and others and gmt.is_file() and gmt.read_bytes() != pathways.to_gmt().encode():
        problems.append(f"{gmt}: is there with other pathways, which {some(others)} need. Mend: choose another folder.")
    raise_if_any(problems)

    is_new = not root.exists()
    root.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    try:
        for file, table in (("cases", tables.cases), ("expression", tables.expression), ("splits", splits)):
            if table is not None:
                (unfinished / f"{file}.parquet").write_bytes(parquet(table))
        dropped.to_csv(unfinished / "dropped.csv", index=False)
        for file, content in (attachments or {}).items():
            (unfinished / file).write_bytes(content)
        write_features(unfinished / "features", slides)
        tables = replace(tables, slides=FeatureStore(unfinished / "features").index)
        raise_if_any(slides_problems(tables.slides, f"{name}/features") + join_problems(tables, name))
        if pathways is not None:
            replace_file(gmt, pathways.to_gmt().encode())
        unfinished.chmod(0o755)
        _replace_folder(root / name, unfinished)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_new:
            with suppress(OSError):
                root.rmdir()
        raise
    return root / name


def _replace_folder(folder: Path, by: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    if folder.exists():
        os.rename(folder, aside / folder.name)
    try:
        os.rename(by, folder)
    except OSError:
        if (aside / folder.name).exists():
            os.rename(aside / folder.name, folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def parquet(table: pd.DataFrame) -> memoryview:
    """A table as the bytes of a Parquet file."""
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), content, write_page_checksum=True)
    return content.getbuffer()
