"""Check a data folder: its content and all its problems, in one pass over all its cohorts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.barcodes import DIAGNOSTIC, PRIMARY, other_specimen, specimen
from survq.data.clinical import clinical_values, informative_covariates
from survq.data.equal_bags import equal_bag_problems
from survq.data.feature_store import file_of, read_coordinates, read_slides
from survq.data.folds import fold_problems, given_folds
from survq.data.gene_sets import PATHWAYS, GeneSets, least_coverage, read_collections
from survq.data.hints import gene_name_hints, outcome_hints
from survq.data.location import Location
from survq.data.patch_sizes import size_notes
from survq.data.problems import DataError
from survq.data.seal import seal_problem
from survq.data.tables import Tables, read_source, read_tables
from survq.data.write import blank_patches
from survq.text import preview

TABLES = ("cases.parquet", "expression.parquet", "splits.parquet", "features")

OnSlide = Callable[[int, int], None]
"""Called with the number of slides read so far, and of all slides."""


@dataclass
class CohortCheck:
    """The check of one cohort. `figures` are for people, `notes` are worth a look without being problems."""

    name: str
    figures: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class FolderCheck:
    cohorts: list[CohortCheck]
    problems: list[str]  # of the folder, then of its cohorts
    notes: list[str]

    def table(self) -> str:
        """The figures as aligned text, one column per cohort."""
        rows = list(dict.fromkeys(name for cohort in self.cohorts for name in cohort.figures))
        cells = [["cohort", *(cohort.name for cohort in self.cohorts)]]
        cells += [[row, *(cohort.figures.get(row, "-") for cohort in self.cohorts)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("   ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in cells)
        return "\n".join(lines)


def check(root: str | Path | Location, deep: bool = False, progress: OnSlide | None = None) -> FolderCheck:
    """Check every cohort of a data folder. `deep` also reads all features and verifies the checksums of their files.

    Raises FileNotFoundError if there is no such folder; all other problems are returned.
    """
    root = Location.at(root)
    if not root.is_folder():
        raise FileNotFoundError(f"{root}: no such folder.")
    gene_sets, wrong = read_collections(root)
    checked = FolderCheck([], wrong, [])
    folders = [name for name in root.names() if (root / name).is_folder()]
    names = [name for name in folders if set(TABLES).intersection((root / name).names())]
    if not names:
        checked.problems.append(
            f"{root}: holds no cohort; expected folders with cases.parquet in them. "
            f"Fix: create one with `survq import` or `survq simulate`."
        )
    read = {name: read_tables(root / name) for name in names}
    slides = sum(len(tables.slides) for tables, _ in read.values())
    done = 0
    for name, (tables, problems) in read.items():
        cohort = _check_cohort(root / name, name, tables, gene_sets)
        cohort.problems[:0] = problems
        for row in tables.slides.to_dict("records") if deep else ():
            found = _slide_problems(root / name / "features", row)
            if not found and row["row_group"] == 0 and (problem := seal_problem(file_of(root / name, row))):
                found.append(problem)
            cohort.problems += found
            done += 1
            if progress is not None:
                progress(done, slides)
        checked.cohorts.append(cohort)
        checked.problems += cohort.problems
        checked.notes += [f"{name}: {note}" for note in cohort.notes]
    features = {cohort.name: cohort.figures["features"] for cohort in checked.cohorts if "features" in cohort.figures}
    if len(set(features.values())) > 1:
        checked.notes.append(f"cohorts differ in their features: {features}")
    try:
        sources = {name: read_source(root / name).get("expression", {}) for name in names}
        units = {name: source["unit"] for name, source in sources.items() if "unit" in source}
        if len(set(units.values())) > 1:
            checked.notes.append(f"cohorts differ in the unit of their expression: {units}")
    except DataError as error:
        checked.problems += error.problems
    return checked


def _check_cohort(folder: Location, name: str, tables: Tables, gene_sets: Mapping[str, GeneSets]) -> CohortCheck:
    """Figures, notes, and the problems of a cohort as a whole."""
    checked = CohortCheck(name)
    figures = checked.figures
    cases = expression = None
    if tables.cases is not None:
        cases = tables.cases.set_index("case_id").sort_index()
        _check_cases(cases, checked)
    figures["slides"] = f"{len(tables.slides):,}"
    if len(tables.slides):
        figures["patches"] = f"{tables.slides['patches'].sum():,}"
        kinds = tables.slides[["width", "encoder"]].drop_duplicates()
        figures["features"] = ", ".join(f"{width} ({encoder})" for width, encoder in kinds.to_numpy())
        checked.notes += _specimen_notes(list(tables.slides["slide_id"]))
        checked.notes += size_notes(tables.slides.set_index("slide_id", drop=False))
        checked.problems += equal_bag_problems(tables.slides, folder / "features")
    if tables.expression is not None:
        expression = tables.expression.set_index("case_id")
        _check_expression(expression, checked)
        _check_gene_sets(gene_sets, list(expression.columns), f"{folder}", checked)
    if cases is not None:
        _check_modalities(cases, tables, expression, f"{folder}", checked)
    if not (folder / "splits.parquet").is_file():
        figures["folds"] = "none"
    elif cases is not None and tables.splits is not None:
        _check_folds(tables.splits, cases, f"{folder}/splits.parquet", checked)
    figures["excluded"] = str(len(tables.dropped))
    return checked


def _specimen_notes(slides: Sequence[str]) -> list[str]:
    """Slides that are no diagnostic slides of primary tumours, by their barcodes."""
    by_kind: dict[str, list[str]] = {}
    for slide in slides:
        if other_specimen(slide, PRIMARY, DIAGNOSTIC):
            by_kind.setdefault(specimen(slide), []).append(slide)
    return [f"{len(found)} slides are of {kind}: {preview(found)}" for kind, found in sorted(by_kind.items())]


def _check_cases(cases: pd.DataFrame, checked: CohortCheck) -> None:
    events = int(cases["event"].sum())
    checked.figures |= {"cases": str(len(cases)), "events": str(events)}
    used = informative_covariates(cases)
    unknown = np.isnan(clinical_values(cases, used)).sum(axis=0)
    covariates = [f"{name} ({n} unknown)" if n else name for name, n in zip(used, unknown, strict=True)]
    checked.figures["clinical"] = ", ".join(covariates) or "none"
    checked.notes += outcome_hints(cases)


def _check_gene_sets(
    gene_sets: Mapping[str, GeneSets], genes: Sequence[str], folder: str, checked: CohortCheck
) -> None:
    if PATHWAYS not in gene_sets:
        checked.notes.append("there are no pathways, so models that read pathways cannot use the expression")
    for name, sets in gene_sets.items():
        covered = sets.covered_by(genes, least_coverage(name))
        checked.figures[name] = f"{len(covered)} of {len(sets)}"
        if not any(sets.coverage(genes)):
            checked.problems.append(
                f"{folder}/expression.parquet: has no gene of the {name}. Its genes are named {preview(genes)}, "
                f"those of the {name} {preview(sets.genes[0])}. Fix: use the same names."
            )
        elif not len(covered):
            checked.notes.append(f"expression covers none of {len(sets)} {name} to {least_coverage(name):.0%}")


def _check_expression(expression: pd.DataFrame, checked: CohortCheck) -> None:
    checked.figures["genes"] = f"{expression.shape[1]:,}"
    checked.notes += gene_name_hints(expression.columns)
    values = expression.to_numpy()
    constant = expression.columns[(values == values[:1]).all(axis=0)]
    if len(constant):
        checked.notes.append(f"genes with the same value in all cases: {preview(constant)}")
    if (largest := np.nanmax(values)) > 50:
        checked.notes.append(f"the largest expression is {largest:g}; it should be on a log scale")
    if unknown := int(np.isnan(values).sum()):
        genes = list(expression.columns[np.isnan(values).any(axis=0)])
        checked.notes.append(f"{unknown} unknown values of {len(genes)} genes become training means: {preview(genes)}")


def _check_modalities(
    cases: pd.DataFrame, tables: Tables, expression: pd.DataFrame | None, folder: str, checked: CohortCheck
) -> None:
    histology = cases.index.isin(tables.slides["case_id"])
    genomics = np.zeros_like(histology) if expression is None else cases.index.isin(expression.index)
    present = [name for name, has in (("histology", histology), ("genomics", genomics)) if has.any()]
    checked.figures |= {
        "modalities": " + ".join(present) or "none",
        "without slides": str((~histology).sum()),
        "without expression": str((~genomics).sum()),
    }
    neither = cases.index[~(histology | genomics)]
    if len(neither) == len(cases):
        checked.problems.append(f"{folder}: no case has slides or expression. Fix: import either of them.")
    elif len(neither):
        checked.notes.append(
            f"{len(neither)} cases have neither slides nor expression; studies exclude them: {preview(neither)}"
        )


def _check_folds(splits: pd.DataFrame, cases: pd.DataFrame, file: str, checked: CohortCheck) -> None:
    try:
        folds = given_folds(splits, list(cases.index))
    except DataError as error:
        checked.problems += [f"{file}: {problem}" for problem in error.problems]
        return
    checked.problems += [f"{file}: {problem}" for problem in fold_problems(folds, cases)]
    events = [int(cases.loc[list(fold.validation), "event"].sum()) for fold in folds]
    checked.figures["folds"] = str(len(folds))
    checked.figures["held-out events"] = (
        " ".join(map(str, events)) if len(events) <= 10 else f"{min(events)}-{max(events)}"
    )
    unsplit = cases.index.difference(pd.Index([case for fold in folds for case in fold.validation]))
    if len(unsplit):
        checked.notes.append(f"{len(unsplit)} cases are not held out in any fold: {preview(unsplit)}")
    if "site" in cases:
        sites = cases["site"].dropna()
        for fold in folds:
            both = set(sites.reindex(fold.training).dropna()) & set(sites.reindex(fold.validation).dropna())
            if both:
                checked.notes.append(
                    f"fold {fold.index} of repeat {fold.repeat}: {len(both)} sites have training and held-out cases"
                )


def _slide_problems(folder: Location, row: dict) -> list[str]:
    problems = []
    try:
        features = read_slides(folder, [row])
        if not np.isfinite(features).all():
            problems.append(f"{file_of(folder, row)}: slide {row['slide_id']!r}: features that are not finite.")
        elif (problem := blank_patches(features)) is not None:
            problems.append(f"{file_of(folder, row)}: slide {row['slide_id']!r}: {problem}. Fix: extract it again.")
    except DataError as error:
        problems += error.problems
    try:
        read_coordinates(folder, row)
    except DataError as error:
        problems += error.problems
    return problems
