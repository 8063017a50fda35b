"""Cohort: the cases of one cancer type, and what is known of each. All tables are joined by case id.

The data folder that every study reads, on a local path or in a bucket:

    DIR/pathways.gmt
    DIR/<COHORT>/cases.parquet          case_id, time (months), event (bool), site, further columns as they came
    DIR/<COHORT>/expression.parquet     case_id, one float32 column a gene                        (may be missing)
    DIR/<COHORT>/features/*.parquet     one row and one row group a slide, see survq/data/features.py   (likewise)
    DIR/<COHORT>/splits.parquet         repeat, fold, case_id, role: training or validation            (likewise)
    DIR/<COHORT>/dropped.csv            case_id, reason: who was left out, and why                     (likewise)
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from survq.data.features import FeatureStore, Slide, write_features
from survq.data.folder import Folder
from survq.data.pathways import Pathways
from survq.data.problems import DataError, raise_if_any, some

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
        cases = (folder / "cases.parquet").read_table().to_pandas()
        raise_if_any(cases_problems(cases, f"{folder}/cases.parquet"))
        cases = cases.set_index("case_id").sort_index()
        cases["event"] = cases["event"].astype(bool)

        expression, splits, pathways = None, None, Pathways()
        problems: list[str] = []
        if (folder / "expression.parquet").is_file():
            expression = (folder / "expression.parquet").read_table().to_pandas()
            problems += expression_problems(expression, f"{folder}/expression.parquet")
        if (folder / "splits.parquet").is_file():
            splits = (folder / "splits.parquet").read_table().to_pandas()
            problems += splits_problems(splits, f"{folder}/splits.parquet")
        slides = FeatureStore(folder / "features").index
        problems += slides_problems(slides, f"{folder}/features")
        raise_if_any(problems)

        given = Pathways.from_gmt(root / "pathways.gmt") if (root / "pathways.gmt").is_file() else Pathways()
        if expression is not None:
            expression = expression.set_index("case_id").astype(np.float32)
            expression = expression.loc[expression.index.isin(cases.index)].sort_index()
            pathways = given.covered_by(expression.columns, COVERAGE)
        slides = slides[slides["case_id"].isin(cases.index)]
        slides = slides.sort_values(["case_id", "slide_id"])

        dropped = pd.DataFrame(columns=["case_id", "reason"])
        if (folder / "dropped.csv").is_file():
            with (folder / "dropped.csv").filesystem.open_input_stream((folder / "dropped.csv").path) as stream:
                dropped = pd.read_csv(stream, dtype=str)
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
        gone = pd.DataFrame({"case_id": empty, "reason": "neither slides nor expression"})
        kept = self.select([case for case in self.cases.index if case not in set(empty)])
        return replace(kept, dropped=pd.concat([self.dropped, gone], ignore_index=True))

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
        """A hash of everything a result can depend on: outcomes, expression, pathways and features."""
        digest = hashlib.sha256()
        digest.update(self.cases[["time", "event"]].to_csv(float_format="%r").encode())
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


def cases_problems(cases: pd.DataFrame, file: str) -> list[str]:
    if missing := [column for column in ("case_id", "time", "event") if column not in cases]:
        return [f"{file}: lacks the columns {missing}; it has {some(cases.columns, 9)}. Mend: rename or add them."]
    if cases.empty:
        return [f"{file}: holds no case."]
    problems = case_id_problems(cases["case_id"], file)
    for case, time in cases.loc[~(pd.to_numeric(cases["time"], errors="coerce") > 0), ["case_id", "time"]].to_numpy():
        problems.append(
            f"{file}: case {case!r}: time {time!r}; expected months above 0. Mend: correct it or leave it out."
        )
    if not pd.api.types.is_bool_dtype(cases["event"]):
        problems.append(f"{file}: event is {cases['event'].dtype}; expected bool, true where death was observed.")
    elif not cases["event"].any():
        problems.append(f"{file}: no case has an event; nothing can be learnt or ranked. Mend: is the coding reversed?")
    return problems


def case_id_problems(case_ids: pd.Series, file: str) -> list[str]:
    problems = []
    text = case_ids.map(
        lambda case: isinstance(case, str) and case.strip() == case and case.isprintable() and case != ""
    )
    for row in np.flatnonzero(~text):
        problems.append(
            f"{file}: row {row + 1}: case id {case_ids.iloc[row]!r}; expected printable text, no blanks around."
        )
    twice = case_ids[case_ids.duplicated(keep=False)].unique()
    if len(twice):
        problems.append(f"{file}: cases that stand more than once: {some(twice)}. Mend: keep one row a case.")
    return problems


def expression_problems(expression: pd.DataFrame, file: str) -> list[str]:
    if "case_id" not in expression:
        return [f"{file}: lacks the column case_id."]
    problems = case_id_problems(expression["case_id"], file)
    genes = expression.drop(columns="case_id")
    if text := [column for column in genes if not pd.api.types.is_numeric_dtype(genes[column])]:
        problems.append(f"{file}: genes that are not numbers: {some(text)}. Mend: keep numeric columns only.")
        genes = genes.drop(columns=text)
    finite = np.isfinite(genes.to_numpy(dtype=np.float64))
    for row, column in np.argwhere(~finite):
        case, gene = expression["case_id"].iloc[row], genes.columns[column]
        problems.append(f"{file}: case {case!r}, gene {gene!r}: not a finite number. Mend: fill it or drop the gene.")
    return problems


def splits_problems(splits: pd.DataFrame, file: str) -> list[str]:
    if missing := [column for column in ("repeat", "fold", "case_id", "role") if column not in splits]:
        return [f"{file}: lacks the columns {missing}."]
    problems = []
    if unknown := sorted(set(splits["role"]) - {"training", "validation"}):
        problems.append(f"{file}: roles {some(unknown)}; expected training or validation.")
    twice = splits[splits.duplicated(["repeat", "fold", "case_id"])]
    for (repeat, fold), rows in twice.groupby(["repeat", "fold"]):
        problems.append(
            f"{file}: repeat {repeat}, fold {fold}: {some(rows['case_id'])} stand more than once. "
            f"Mend: a case either trains or is held out."
        )
    return problems


def slides_problems(slides: pd.DataFrame, file: str) -> list[str]:
    problems = []
    if twice := list(slides.index[slides.index.duplicated()].unique()):
        problems.append(f"{file}: slides that stand more than once: {some(twice)}. Mend: import the features afresh.")
    for column, what in (("width", "feature widths"), ("encoder", "patch encoders")):
        if slides[column].nunique() > 1:
            groups = ", ".join(f"{value} ({count} slides)" for value, count in slides[column].value_counts().items())
            problems.append(f"{file}: mixed {what}: {groups}. Mend: extract all slides of a cohort with one encoder.")
    if empty := list(slides.index[slides["patches"] == 0]):
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
    Raises DataError before anything is visible under the cohort's name.
    """
    root = Path(root).expanduser()
    problems = cases_problems(cases.reset_index(), f"{name}/cases")
    if expression is not None:
        problems += expression_problems(expression.reset_index(), f"{name}/expression")
    if splits is not None:
        problems += splits_problems(splits, f"{name}/splits")
    if Path(name).name != name or name in ("", ".", ".."):
        problems.append(f"{name!r} cannot be the name of a cohort; expected a plain name such as BLCA.")
    raise_if_any(problems)

    root.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    try:
        _write_parquet(cases.reset_index(names="case_id"), unfinished / "cases.parquet")
        if expression is not None:
            _write_parquet(
                expression.astype(np.float32).reset_index(names="case_id"), unfinished / "expression.parquet"
            )
        if splits is not None:
            _write_parquet(splits, unfinished / "splits.parquet")
        if dropped is not None:
            dropped.to_csv(unfinished / "dropped.csv", index=False)
        for file, content in (attachments or {}).items():
            (unfinished / file).write_bytes(content)
        write_features(unfinished / "features", slides)
        if pathways is not None:
            replace_file(root / "pathways.gmt", pathways.to_gmt().encode())
        unfinished.chmod(0o755)
        replaced = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
        if (root / name).exists():
            os.rename(root / name, replaced / name)
        os.rename(unfinished, root / name)
        shutil.rmtree(replaced)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return root / name


def replace_file(file: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, also after a power cut."""
    handle, unfinished = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(unfinished, 0o644)
    os.replace(unfinished, file)


def _write_parquet(table: pd.DataFrame, file: Path) -> None:
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), file, write_page_checksum=True)
