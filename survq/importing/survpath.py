"""Import all tables of the SurvPath repository (Jaume et al., CVPR 2024, arXiv:2304.06819). It has no slides.

    SRC/datasets_csv/metadata/tcga_blca.csv                   labels, one row per slide
    SRC/datasets_csv/metadata/combine_signatures.csv          pathways, one column each
    SRC/datasets_csv/raw_rna_data/xena/blca/rna_clean.csv     expression, one row per case and one column per gene
    SRC/splits/5foldcv/tcga_blca/splits_0.csv                 case ids in the columns train and val (optional)

Each table is read as in its own import. The outcome is disease-specific survival, as in the paper. The tables in
clinical_data/ are not read: their "stage" is the extent of the primary tumour (T), which differs from the stage in
TCGA-CDR in every third case of BLCA and in two of three of COADREAD. `survq import labels` of TCGA-CDR adds the stage.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from survq.data.cohort import cohort_names
from survq.data.cohort_files import WITHOUT_LABEL, cohort_folder, update_cohort
from survq.data.feature_store import INDEX
from survq.data.folds import given_folds
from survq.data.gene_sets import PATHWAYS, GeneSets, least_coverage
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import DROPPED, Tables, cohort_name_problems, summarise_dropped, valid_tables
from survq.importing.coverage import genes_of, given_gene_sets
from survq.importing.expression import Expression, read_expression
from survq.importing.gene_set_files import read_file
from survq.importing.labels import Labels, read_labels
from survq.importing.pathways import import_gene_sets
from survq.importing.splits import Splits, read_splits
from survq.importing.text_table import read_text_table
from survq.text import preview


@dataclass(frozen=True)
class Imported:
    """One cohort, read and joined."""

    name: str
    labels: Labels
    expression: Expression
    splits: Splits | None
    pathways: GeneSets  # before the coverage rule
    excluded: pd.DataFrame | None = None  # dropped.csv, after the cohort has been written

    @property
    def unlabelled(self) -> list[str]:
        """Ids with expression but no label."""
        return sorted(set(self.expression.unlabelled) - self.labels.case_ids)

    @property
    def dropped(self) -> dict[str, str]:
        return self.labels.dropped | dict.fromkeys(self.unlabelled, WITHOUT_LABEL["expression"])

    def problems(self) -> list[str]:
        tables = Tables(
            self.labels.cases.reset_index(),
            self.expression.values.reset_index(),
            self.splits.table if self.splits else None,
            slides=pd.DataFrame(columns=INDEX),
            dropped=pd.DataFrame(self.dropped.items(), columns=DROPPED),
        )
        return [*cohort_name_problems(self.name), *valid_tables(tables, self.name)[1]]

    def write(self, root: Location) -> Imported:
        excluded = update_cohort(
            cohort_folder(root, self.name),
            {
                "labels": self.labels.source,
                "expression": self.expression.source,
                **({"splits": self.splits.source} if self.splits else {}),
            },
            cases=self.labels.cases,
            dropped=self.labels.dropped,
            expression=self.expression.values,
            splits=self.splits.table if self.splits else None,
            unlabelled={"expression": self.unlabelled},
        )
        return replace(self, excluded=excluded)

    def summary(self) -> list[str]:
        """Lines for people, after the cohort has been written: the cohort as a study will see it."""
        assert self.excluded is not None
        cases = self.labels.cases.drop(self.excluded["case_id"], errors="ignore")
        genes = self.expression.values.columns
        covered = self.pathways.covered_by(genes, least_coverage(PATHWAYS))
        lines = [
            f"{len(cases)} cases, {cases['event'].sum()} events, {len(genes)} genes, "
            f"{len(covered)} of {len(self.pathways)} pathways covered",
        ]
        if self.splits is None:
            lines.append("no splits: studies will make their own folds")
        else:
            folds = given_folds(self.splits.table, list(cases.index))
            held_out = [int(cases.loc[list(fold.validation), "event"].sum()) for fold in folds]
            lines.append(f"{len(folds)} folds with {' '.join(map(str, held_out))} held-out events")
            if unsplit := sorted(set(cases.index) - {case for fold in folds for case in fold.validation}):
                lines.append(f"{len(unsplit)} cases are not held out in any fold: {preview(unsplit)}")
        if without_expression := sorted(set(cases.index) - set(self.expression.values.index)):
            count = len(without_expression)
            lines.append(f"{count} cases have slides but no expression: {preview(without_expression)}")
        return [*lines, *summarise_dropped(self.excluded), *self.labels.notes, *self.expression.notes]


def import_survpath(
    source: str | Path,
    destination: str | Path,
    cohorts: Sequence[str] = (),
    *,
    expression: str = "xena",
    pathways: str = "combine",
) -> list[Imported]:
    """Import cohorts of a SurvPath folder into a data folder; by default all with labels and expression.

    Existing patch features are kept. If it raises FileNotFoundError or DataError, which lists all problems, nothing
    has been written.
    """
    source, root = Path(source).expanduser(), Location.at(destination)
    if source.is_file():
        raise DataError([f"{source}: is a file; expected the folder with datasets_csv/ and splits/. Fix: give that."])
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; expected one with datasets_csv/ and splits/ in it.")
    names = _cohorts(source, cohorts, expression)
    pathways_file = _pathways_file(source, pathways)
    imported: list[Imported] = []
    problems: list[str] = []
    given, genes = GeneSets(), set[str]()
    try:
        given = read_file(pathways_file)
        collections = given_gene_sets(root)
        problems += _other_pathways(root, names, collections.get(PATHWAYS), given)
        genes = genes_of({**collections, PATHWAYS: given})
    except DataError as error:
        problems += error.problems
    for name in names:
        try:
            cohort = _read_cohort(source, name, expression, given, genes)
            problems += cohort.problems()
            imported.append(cohort)
        except DataError as error:
            problems += error.problems
    raise_if_any(problems)

    imported = [cohort.write(root) for cohort in imported]
    import_gene_sets([pathways_file], root)
    return imported


def _labels_file(source: Path, name: str) -> Path:
    return source / "datasets_csv" / "metadata" / f"tcga_{name.lower()}.csv"


def _expression_file(source: Path, name: str, kind: str) -> Path:
    return source / "datasets_csv" / "raw_rna_data" / kind / name.lower() / "rna_clean.csv"


def _cohorts(source: Path, asked: Sequence[str], kind: str) -> list[str]:
    """The cohorts to import, in capitals. Raises FileNotFoundError, which lists all missing files."""
    labelled = [
        file.stem.removeprefix("tcga_").upper() for file in sorted(_labels_file(source, "*").parent.glob("tcga_*.csv"))
    ]
    complete = [name for name in labelled if _expression_file(source, name, kind).is_file()]
    if not asked and not complete:
        kinds = sorted(
            folder.name for folder in (source / "datasets_csv" / "raw_rna_data").glob("*") if folder.is_dir()
        )
        raise FileNotFoundError(
            f"{source}: no cohort with labels and {kind!r} expression. It has labels of "
            f"{preview(labelled, 9) or 'none'}, and the kinds of expression {preview(kinds, 9) or 'none'}."
        )
    names = list(dict.fromkeys(name.upper() for name in asked)) or complete
    missing = [
        file
        for name in names
        for file in (_labels_file(source, name), _expression_file(source, name, kind))
        if name not in labelled or not file.is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"no such files: {preview(missing, 9)}. Complete cohorts: {preview(complete, 9) or 'none'}."
        )
    return names


def _pathways_file(source: Path, name: str) -> Path:
    folder = source / "datasets_csv" / "metadata"
    names = sorted(file.name.removesuffix("_signatures.csv") for file in folder.glob("*_signatures.csv"))
    if name not in names:
        raise FileNotFoundError(f"{folder}: no pathways {name!r}; it has {preview(names, 9) or 'none'}.")
    return folder / f"{name}_signatures.csv"


def _other_pathways(root: Location, names: Sequence[str], existing: GeneSets | None, given: GeneSets) -> list[str]:
    """A problem if other cohorts of the folder need its pathways: this import must not replace them silently."""
    others = [name for name in cohort_names(root) if name not in names]
    if existing is None or existing == given or not others:
        return []
    return [
        f"{root}/pathways.gmt: exists with other pathways, which {preview(others)} need. Fix: choose another folder, "
        f"or replace them with `survq import pathways`."
    ]


def _read_cohort(source: Path, name: str, kind: str, pathways: GeneSets, genes: Collection[str]) -> Imported:
    """Read the tables of a cohort, with the expression of `genes`. Raises DataError with the problems of all files."""
    problems: list[str] = []
    labels: Labels | None = None
    splits: Splits | None = None
    try:
        labels = read_labels(_labels_file(source, name))
    except DataError as error:
        problems += error.problems
    try:
        cases = set(labels.cases.index) if labels else _named_cases(_labels_file(source, name))
        expression = read_expression(_expression_file(source, name, kind), cases, wanted=genes)
    except DataError as error:
        problems += error.problems
    try:
        splits = read_splits(folder) if (folder := _splits_folder(source, name)).is_dir() else None
    except DataError as error:
        problems += error.problems
    if labels and splits:
        problems += [
            f"{place}: {case[:60]!r} has no label. Fix: remove it."
            for case, place in splits.places.items()
            if case not in labels.case_ids
        ]
    raise_if_any(problems)
    assert labels is not None
    return Imported(name, labels, expression, splits, pathways)


def _named_cases(file: Path) -> set[str]:
    """The ids in an invalid clinical table, so that the problems of the other tables are found in the same pass."""
    try:
        return set(read_text_table(file, needed=["case_id"])["case_id"])
    except DataError:
        return set()


def _splits_folder(source: Path, name: str) -> Path:
    return source / "splits" / "5foldcv" / f"tcga_{name.lower()}"
