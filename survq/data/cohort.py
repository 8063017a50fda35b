"""Cohort: the cases of one cancer type with their labels, expression and slides, joined by case id."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from survq.data.clinical import informative_covariates
from survq.data.feature_store import read_coordinates, read_slides
from survq.data.gene_sets import PATHWAYS, GeneSets, least_coverage, read_collections
from survq.data.location import Location
from survq.data.problems import DataError, raise_if_any
from survq.data.tables import NEITHER, other_reasons, read_tables
from survq.text import preview

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InputSpec:
    """The sizes of the input, from which a model is built."""

    patch_features: int  # width of a patch's feature vector; 0 if the cohort has no slides
    genes: int  # columns of the expression matrix; 0 if the cohort has no expression
    gene_sets: Mapping[str, tuple[tuple[int, ...], ...]]  # collection -> expression columns of the genes of each set
    intervals: int = 4
    clinical: tuple[str, ...] = ()  # the covariates that the cohort has

    @property
    def pathways(self) -> tuple[tuple[int, ...], ...]:
        """The expression columns of each pathway's genes; empty if the cohort has no pathways."""
        return self.gene_sets.get(PATHWAYS, ())


@dataclass(frozen=True)
class Cohort:
    """The cases of a cohort with an outcome and at least one modality."""

    name: str
    cases: pd.DataFrame  # indexed by case_id: time (months), event, site, age, sex, stage, ...
    expression: pd.DataFrame | None  # case_id x gene, float32; may lack some cases
    slides: pd.DataFrame  # the index of the feature store; may lack some cases
    gene_sets: Mapping[str, GeneSets]  # collection -> the sets that the expression covers, with only its genes
    splits: pd.DataFrame | None  # repeat, fold, case_id, role
    dropped: pd.DataFrame  # case_id, reason
    folder: Location
    sets_given: Mapping[str, int] = field(default_factory=dict)  # collection -> number of sets before the coverage rule

    @classmethod
    def load(cls, root: str | Path | Location, name: str) -> Cohort:
        """Read a cohort. Cases with neither slides nor expression are excluded and listed in `dropped`.

        Raises DataError with all problems of its tables.
        """
        root = Location.at(root)
        folder = root / name
        if not (folder / "cases.parquet").is_file():
            existing = cohort_names(root)
            raise DataError(
                [
                    f"{root}: no cohort {name!r}; expected {name}/cases.parquet. It has: "
                    f"{preview(existing, 9) or 'none'}. "
                    f"Fix: use one of them, or create a data folder with `survq import`."
                ]
            )
        tables, problems = read_tables(folder)
        given, wrong = read_collections(root)
        raise_if_any(problems + wrong)

        assert tables.cases is not None
        cases = tables.cases.set_index("case_id").sort_index()
        cases["event"] = cases["event"].astype(bool)
        expression = tables.expression
        if expression is not None:
            expression = expression.set_index("case_id").astype(np.float32)
            expression = expression.loc[expression.index.isin(cases.index)].sort_index()
        genes = [] if expression is None else list(expression.columns)
        gene_sets = {name: sets.covered_by(genes, least_coverage(name)) for name, sets in given.items()}
        slides = tables.slides[tables.slides["case_id"].isin(cases.index)]
        slides = slides.sort_values(["case_id", "slide_id"])
        splits, dropped = tables.splits, tables.dropped
        counts = {name: len(sets) for name, sets in given.items()}
        cohort = cls(name, cases, expression, slides, gene_sets, splits, dropped, folder, counts)
        return cohort._without_empty_cases()

    def _without_empty_cases(self) -> Cohort:
        empty = self.cases.index[~(self.has_slides | self.has_expression)]
        if len(empty) == len(self.cases):
            raise DataError(
                [
                    f"cohort {self.name}: no case has slides or expression, joined by case id. "
                    f"Fix: compare the case ids of its tables; cases.parquet has {preview(self.cases.index)}."
                ]
            )
        if empty.empty:
            return self
        excluded = pd.DataFrame({"case_id": empty, "reason": NEITHER})
        kept = self.select([case for case in self.cases.index if case not in set(empty)])
        return replace(kept, dropped=pd.concat([other_reasons(self.dropped), excluded], ignore_index=True))

    def select(self, case_ids: Sequence[str]) -> Cohort:
        """The cohort with only these cases."""
        case_ids = list(case_ids)
        if unknown := [case for case in case_ids if case not in self.cases.index]:
            raise DataError([f"cohort {self.name} has no case {preview(unknown)}."])
        expression = self.expression
        if expression is not None:
            expression = expression.loc[expression.index.isin(case_ids)]
        slides = self.slides[self.slides["case_id"].isin(case_ids)]
        return replace(self, cases=self.cases.loc[case_ids], expression=expression, slides=slides)

    @property
    def features(self) -> Location:
        """The folder of the feature store."""
        return self.folder / "features"

    def bags(self) -> dict[str, Tensor]:
        """The patches of every case with slides: case id -> (patch, feature), float16, one slide after another.

        They are read into the memory of this process. Studies share theirs through Ray, see survq/data/shared_bags.py.
        """
        from survq.data.half_floats import as_tensor  # PyTorch is slow to import, and not needed for tables

        return {case: as_tensor(read_slides(self.features, rows)) for case, rows in self.slides_by_case.items()}

    @cached_property
    def slides_by_case(self) -> dict[str, list[dict]]:
        """The rows of `slides` of every case with slides, in the order in which its bag joins them."""
        found: dict[str, list[dict]] = {case: [] for case in sorted(set(self.slides["case_id"].map(str)))}
        for row in self.slides.to_dict("records"):
            found[str(row["case_id"])].append(row)
        return found

    def patch_positions(self, case_id: str) -> pd.DataFrame:
        """The positions of a case's patches: row i belongs to row i of its bag.

        Columns: slide_id; x and y, the top-left corner in level-0 pixels; patch_size, the side in level-0 pixels.
        Unknown values are NA.
        """
        rows = self.slides_by_case.get(case_id)
        if rows is None:
            raise DataError([f"cohort {self.name}: case {case_id[:60]!r} has no slides."])
        tables = []
        for row in rows:
            coordinates = read_coordinates(self.features, row)
            corners = np.full((row["patches"], 2), np.nan) if coordinates is None else coordinates.astype(float)
            table = pd.DataFrame(corners, columns=["x", "y"]).assign(patch_size=row["patch_size"]).astype("Int64")
            table.insert(0, "slide_id", row["slide_id"])
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

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
    def pathways(self) -> GeneSets:
        """The pathways that the expression covers; empty without pathways."""
        return self.gene_sets.get(PATHWAYS, GeneSets())

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
            gene_sets={
                name: tuple(tuple(column[gene] for gene in members) for members in sets.genes)
                for name, sets in self.gene_sets.items()
            },
            clinical=informative_covariates(self.cases),
        )

    @cached_property
    def parts(self) -> Mapping[str, str]:
        """A hash of each part of the cohort that a result can depend on.

            cases            case_id, time, event
            expression       genes, case ids and values
            gene set NAME    the sets of this collection that the expression covers, and their genes
            features         case_id, slide_id and the checksum of the slide's features
            clinical         case_id and the clinical covariates that models use

        Folds are not included: they belong to a run. A missing part has the hash of empty content; a missing collection
        has no entry.
        """
        expression = b""
        if self.expression is not None:
            names = "\t".join([*self.expression.columns, *self.expression.index])
            expression = names.encode() + np.ascontiguousarray(self.expression.to_numpy()).tobytes()
        contents = {
            "cases": self.cases[["time", "event"]].to_csv().encode(),
            "expression": expression,
            **{f"gene set {name}": sets.to_gmt().encode() for name, sets in self.gene_sets.items()},
            "features": self.slides[["case_id", "slide_id", "sha256"]].to_csv(index=False).encode(),
            "clinical": self.cases[list(self.spec.clinical)].to_csv().encode() if self.spec.clinical else b"",
        }
        return {part: hashlib.sha256(content).hexdigest() for part, content in contents.items()}

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.cases)} cases", f"{int(self.cases['event'].sum())} events"]
        if len(self.slides):
            lacking = int((~self.has_slides).sum())
            parts.append(f"{len(self.slides)} slides, {int(self.slides['patches'].sum()):,} patches")
            parts += [f"{lacking} cases without slides"] if lacking else []
        if self.expression is not None:
            lacking = int((~self.has_expression).sum())
            parts.append(f"{self.expression.shape[1]} genes")
            parts += [f"{len(sets)} of {self.sets_given[name]} {name}" for name, sets in self.gene_sets.items()]
            parts += [f"{lacking} cases without expression"] if lacking else []
        if len(self.modalities) == 1:
            missing = "no slides" if self.modalities == ("genomics",) else "no expression"
            parts.append(f"{missing}: {self.modalities[0]} only")
        if len(self.dropped):
            parts.append(f"{len(self.dropped)} cases excluded")
        return f"{self.name}: " + ", ".join(parts)


def load_cohorts(root: str | Path | Location, names: Sequence[str] = ()) -> dict[str, Cohort]:
    """These cohorts of a data folder, or all of them. Raises DataError with all problems of all cohorts."""
    names = names or cohort_names(root)
    if not names:
        raise DataError([f"{root}: no cohorts; expected <COHORT>/cases.parquet. Fix: create one with `survq import`."])
    cohorts, problems = {}, []
    for name in names:
        try:
            cohorts[name] = Cohort.load(root, name)
        except DataError as error:
            problems += error.problems
    raise_if_any(problems)
    return cohorts


def cohort_names(root: str | Path | Location) -> list[str]:
    """The cohorts of a data folder."""
    root = Location.at(root)
    return [name for name in root.names() if (root / name / "cases.parquet").is_file()]
