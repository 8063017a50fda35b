"""Import from the layout of the SurvPath repository (Jaume et al., CVPR 2024, arXiv:2304.06819). It has no slides.

    SRC/datasets_csv/metadata/tcga_blca.csv                   labels, a row a slide
    SRC/datasets_csv/metadata/combine_signatures.csv          pathways, a column each
    SRC/datasets_csv/raw_rna_data/xena/blca/rna_clean.csv     expression, a row a case and a column a gene
    SRC/splits/5foldcv/tcga_blca/splits_0.csv                 case ids in the columns train and val; may be missing

Everything is joined by case id. The outcome is disease-specific survival, as in the paper.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from survq.data.cohort import COVERAGE, Tables, table_problems, write_cohort
from survq.data.features import INDEX
from survq.data.folder import Folder
from survq.data.folds import given_folds
from survq.data.pathways import Pathways
from survq.data.problems import DataError, raise_if_any, some
from survq.importing.labels import read_labels
from survq.importing.text_table import read_text_table

FLOOR = np.log2(0.001)  # the lowest value of Xena's log2(TPM + 0.001)
ROLES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Imported:
    """One cohort, read and joined, not yet written."""

    name: str
    cases: pd.DataFrame  # indexed by case_id: time, event, site, ...
    expression: pd.DataFrame  # case_id x gene
    splits: pd.DataFrame | None
    dropped: pd.DataFrame  # case_id, reason
    pathways: Pathways  # all that were given
    source: dict  # what the cohort was made of, for source.json
    notes: tuple[str, ...]

    def tables(self) -> Tables:
        return Tables(
            self.cases.reset_index(),
            self.expression.reset_index(),
            self.splits,
            slides=pd.DataFrame(columns=INDEX),
            dropped=self.dropped,
        )

    def summary(self) -> list[str]:
        """Lines for people."""
        covered = self.pathways.covered_by(self.expression.columns, COVERAGE)
        lines = [
            f"{len(self.cases)} cases, {self.cases['event'].sum()} events, {self.expression.shape[1]} genes, "
            f"{len(covered)} of {len(self.pathways)} pathways covered",
        ]
        if self.splits is not None:
            folds = given_folds(self.splits, list(self.cases.index))
            held_out = [int(self.cases.loc[list(fold.validation), "event"].sum()) for fold in folds]
            lines.append(f"{len(folds)} given folds, with {' '.join(map(str, held_out))} events held out")
        for reason, count in self.dropped["reason"].value_counts().items():
            lines.append(f"left out, {reason}: {count}")
        return [*lines, *self.notes]


def import_survpath(
    source: str | Path,
    destination: str | Path,
    cohorts: Sequence[str] = (),
    expression: str = "xena",
    pathways: str = "combine",
) -> list[Imported]:
    """Write cohorts of a SurvPath folder as a data folder; all that have labels and expression, unless named.

    Raises FileNotFoundError, and DataError with everything that is wrong; then nothing has been written.
    """
    source, destination = Path(source).expanduser(), Path(destination).expanduser()
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; expected one with datasets_csv/ and splits/ in it.")
    names = _cohorts(source, cohorts, expression)
    pathways_file = _pathways_file(source, pathways)
    imported: list[Imported] = []
    problems = _in_the_way(destination, names)
    given = Pathways()
    try:
        given = Pathways.from_signatures(pathways_file)
    except DataError as error:
        problems += error.problems
    for name in names:
        try:
            cohort = _read_cohort(source, name, expression, given, pathways_file)
            problems += table_problems(cohort.tables(), name)
            imported.append(cohort)
        except DataError as error:
            problems += error.problems
    raise_if_any(problems)

    for cohort in imported:
        write_cohort(
            destination,
            cohort.name,
            cases=cohort.cases,
            expression=cohort.expression,
            splits=cohort.splits,
            dropped=cohort.dropped,
            pathways=given,
            attachments={"source.json": json.dumps(cohort.source, indent=1).encode()},
        )
    return imported


def _labels_file(source: Path, name: str) -> Path:
    return source / "datasets_csv" / "metadata" / f"tcga_{name.lower()}.csv"


def _expression_file(source: Path, name: str, kind: str) -> Path:
    return source / "datasets_csv" / "raw_rna_data" / kind / name.lower() / "rna_clean.csv"


def _cohorts(source: Path, asked: Sequence[str], kind: str) -> list[str]:
    """The cohorts to import, in capitals. Raises FileNotFoundError naming every file that lacks."""
    labelled = [
        file.stem.removeprefix("tcga_").upper() for file in sorted(_labels_file(source, "*").parent.glob("tcga_*.csv"))
    ]
    whole = [name for name in labelled if _expression_file(source, name, kind).is_file()]
    if not asked and not whole:
        kinds = sorted(
            folder.name for folder in (source / "datasets_csv" / "raw_rna_data").glob("*") if folder.is_dir()
        )
        raise FileNotFoundError(
            f"{source}: no cohort with labels and {kind!r} expression. It has labels of {some(labelled, 9) or 'none'}, "
            f"and expression of the kinds {some(kinds, 9) or 'none'}."
        )
    names = list(dict.fromkeys(name.upper() for name in asked)) or whole
    lacking = [
        file
        for name in names
        for file in (_labels_file(source, name), _expression_file(source, name, kind))
        if name not in labelled or not file.is_file()
    ]
    if lacking:
        raise FileNotFoundError(
            f"no such files: {some(lacking, 9)}. Cohorts that are whole: {some(whole, 9) or 'none'}."
        )
    return names


def _pathways_file(source: Path, name: str) -> Path:
    folder = source / "datasets_csv" / "metadata"
    there = sorted(file.name.removesuffix("_signatures.csv") for file in folder.glob("*_signatures.csv"))
    if name not in there:
        raise FileNotFoundError(f"{folder}: no pathways {name!r}; it has {some(there, 9) or 'none'}.")
    return folder / f"{name}_signatures.csv"


def _in_the_way(destination: Path, names: Sequence[str]) -> list[str]:
    """The patch features that an import would remove."""
    return [
        f"{destination / name}: has {count} files of patch features, which this import would remove. "
        f"Mend: choose another folder, or move them away."
        for name in names
        if (count := len(list((destination / name / "features").glob("*.parquet"))))
    ]


def _read_cohort(source: Path, name: str, kind: str, pathways: Pathways, pathways_file: Path) -> Imported:
    """Raises DataError with all that is wrong with the cohort's files."""
    problems = []
    labels, expression = None, None
    labels_file, expression_file = _labels_file(source, name), _expression_file(source, name, kind)
    try:
        further = set(_header(labels_file))
        labels = read_labels(
            labels_file,
            time="survival_months_dss",
            censorship="censorship_dss",
            text=["site", *further.intersection(["oncotree_code"])],
            figures=sorted(further.intersection(["age", "is_female"])),
        )
    except DataError as error:
        problems += error.problems
    try:
        expression, repeated = read_expression(expression_file)
    except DataError as error:
        problems += error.problems
    splits_files = sorted((source / "splits" / "5foldcv" / f"tcga_{name.lower()}").glob("splits_*.csv"))
    splits, split_problems = _read_splits(splits_files, labels.case_ids if labels else None)
    problems += split_problems
    if labels is not None and expression is not None and not labels.case_ids.intersection(expression.index):
        turned = " Its columns are case ids: transpose it." if labels.case_ids.intersection(expression.columns) else ""
        problems.append(
            f"{expression_file}: none of its {len(expression)} rows is a case of {labels_file}: "
            f"{some(expression.index, 2)} against {some(labels.cases.index, 2)}. Mend: use the same case ids.{turned}"
        )
    raise_if_any(problems)
    assert labels is not None and expression is not None

    lacking = labels.cases.index.difference(expression.index)
    unlabelled = expression.index.difference(sorted(labels.case_ids))
    cases = labels.cases.drop(index=lacking)
    expression = expression.loc[cases.index]
    reasons = {"no expression and no slides": lacking, "expression without a label": unlabelled}
    dropped = pd.concat(
        [labels.dropped, *(pd.DataFrame({"case_id": ids, "reason": reason}) for reason, ids in reasons.items())],
        ignore_index=True,
    )
    low, high = float(expression.to_numpy().min()), float(expression.to_numpy().max())
    unit = "log2(TPM + 0.001), by its floor" if abs(low - FLOOR) < 1e-3 else "as it came"
    notes = []
    if repeated:
        notes.append(f"{len(repeated)} cases have several rows of expression, the first was kept: {some(repeated, 9)}")
    if splits is None:
        notes.append("no splits came with it: studies will make their own folds")
    elif unsplit := sorted(set(cases.index) - set(splits.loc[splits["role"] == "validation", "case_id"])):
        notes.append(f"{len(unsplit)} cases are held out in no fold: {some(unsplit)}")
    if high > 50:
        notes.append(f"expression goes up to {high:g}, so it may not be on a log scale as is expected")
    files = [labels_file, expression_file, pathways_file, *splits_files]
    facts = {
        "layout": "SurvPath",
        "endpoint": "disease-specific survival",
        "time": "months",
        "expression": {"unit": unit, "lowest": round(low, 4), "highest": round(high, 4)},
        "several_rows_of_expression_first_kept": repeated,
        "files": {str(file.relative_to(source)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
    }
    return Imported(name, cases, expression, splits, dropped, pathways, facts, tuple(notes))


def _header(file: Path) -> list[str]:
    return next(csv.reader(Folder.at(file).read_text().splitlines()[:1]), [])


def read_expression(file: Path) -> tuple[pd.DataFrame, list[str]]:
    """Case x gene, and the cases that had several rows, of which the first counts, as in SurvPath's loader.

    Raises DataError for genes named twice and cells that are no numbers. Blank cells become NaN.
    """
    _, *genes = [cell.strip() for cell in _header(file)] or [""]
    if not genes:
        raise DataError([f"{file}: has no columns of genes; expected case ids, then a column a gene, with commas."])
    if len(set(genes)) < len(genes):
        twice = sorted({gene for gene in genes if genes.count(gene) > 1})
        raise DataError([f"{file}: genes that stand more than once: {some(twice)}. Mend: keep one column a gene."])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            names = ["case_id", *genes]
            table = pd.read_csv(
                file, header=0, names=names, index_col=False, dtype={"case_id": str}, encoding="utf-8-sig"
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError) as error:
        raise DataError([f"{file}: is no table ({str(error).strip()})."]) from error
    problems = []
    for gene in table.columns[1:][[not is_numeric_dtype(kind) for kind in table.dtypes.iloc[1:]]]:
        values = pd.to_numeric(table[gene], errors="coerce")
        for row in np.flatnonzero(values.isna() & table[gene].notna()):
            case, cell = table["case_id"].iloc[row], str(table[gene].iloc[row])
            problems.append(f"{file}: case {case!r}, gene {gene!r}: {cell[:60]!r} is not a number. Mend: correct it.")
        table[gene] = values
    if table["case_id"].isna().any():
        rows = np.flatnonzero(table["case_id"].isna()) + 2
        problems.append(f"{file}: no case id in the lines {some(rows)}.")
    raise_if_any(problems)
    table["case_id"] = table["case_id"].str.strip()
    repeated = sorted(table.loc[table["case_id"].duplicated(), "case_id"].unique())
    return table.drop_duplicates("case_id").set_index("case_id").sort_index(), repeated


def _read_splits(files: Sequence[Path], known: Collection[str] | None) -> tuple[pd.DataFrame | None, list[str]]:
    """repeat, fold, case_id, role; the fold is the number in the file's name."""
    rows, problems = [], []
    for file in files:
        number = re.fullmatch(r"splits_(\d+)\.csv", file.name)
        if number is None:
            continue
        try:
            table = read_text_table(file, needed=list(ROLES))
        except DataError as error:
            problems += error.problems
            continue
        for column, role in ROLES.items():
            ids = table.loc[table[column] != "", column]
            for line, case in ids.items():
                if known is not None and case not in known:
                    problems.append(
                        f"{file}:{line}: {column} names {case[:60]!r}, a case without a label. Mend: drop it."
                    )
            rows += [(0, int(number.group(1)), case, role) for case in ids]
    if not rows:
        return None, problems
    splits = pd.DataFrame(rows, columns=["repeat", "fold", "case_id", "role"])
    return splits.sort_values(["fold", "role", "case_id"], ignore_index=True), problems
