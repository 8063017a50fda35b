"""The fixed synthetic work: 12,000 patches of 1024 features a case, pathways with the gene counts of the real 331."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.feature_store import INDEX
from survq.data.folds import Fold
from survq.data.gene_sets import GeneSets
from survq.data.half_floats import converted
from survq.data.location import Location
from survq.training.config import TrainConfig
from survq.training.fold import patch_dtype_of
from survq.training.learner import FoldLearner
from survq.training.run import Run

from . import reference
from .measure import ROOT

PATCHES, FEATURES, GENES = 12_000, 1024, 4999
WIDTH, HISTOLOGY_QUERIES, GENOMIC_QUERIES = 256, 300, 128
BATCH = 32
SIZES: list[int] = json.loads((ROOT / "tests/goldens/pathway_sizes.json").read_text())
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """A cohort in memory. Cases share a few distinct bags, which are enough to fall out of every cache."""

    cohort: Cohort
    bags: Mapping[str, Tensor]

    @property
    def case_ids(self) -> list[str]:
        return list(self.cohort.cases.index)

    def one_fold(self, held_out: int = 2) -> tuple[Fold, ...]:
        """A fold that trains on all cases but the last ones."""
        return (Fold(0, 0, tuple(self.case_ids[:-held_out]), tuple(self.case_ids[-held_out:])),)

    def folds(self, k: int) -> tuple[Fold, ...]:
        parts = [self.case_ids[part::k] for part in range(k)]
        return tuple(
            Fold(0, index, tuple(case for part in parts if part is not held_out for case in part), tuple(held_out))
            for index, held_out in enumerate(parts)
        )


def make_bags(patches: int, distinct: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(patches, FEATURES, generator=generator).half() for _ in range(distinct)]


def make_work(
    cases: int, patches: int = PATCHES, *, distinct: int = 4, sizes: Sequence[int] = SIZES, tiny: int = 0
) -> Work:
    """`cases` cases, and `tiny` more whose slides have 16 patches, to be held out where evaluation is not measured."""
    random = np.random.default_rng(0)
    index = pd.Index([f"CASE-{number:04d}" for number in range(cases + tiny)], name="case_id")
    bags = make_bags(patches, min(distinct, cases))
    small = make_bags(16, 1)[0]
    by_case = {case: bags[at % len(bags)] if at < cases else small for at, case in enumerate(index)}
    slides = pd.DataFrame(
        [(f"{case}-DX1", case, len(bag), FEATURES, f"sha256 of {case}") for case, bag in by_case.items()],
        columns=["slide_id", "case_id", "patches", "width", "sha256"],
    ).reindex(columns=INDEX)
    cohort = Cohort(
        name="BENCHMARK",
        cases=make_cases(index, random),
        expression=make_expression(index, random),
        slides=slides,
        gene_sets={"pathways": make_pathways(sizes, random)},
        splits=None,
        dropped=pd.DataFrame(columns=["case_id", "reason"]),
        folder=Location.at("nowhere"),
    )
    return Work(cohort, by_case)


def make_cases(index: pd.Index, random: np.random.Generator) -> pd.DataFrame:
    event = np.arange(len(index)) % 3 > 0
    return pd.DataFrame({"time": random.exponential(30, len(index)) + 0.5, "event": event}, index=index)


def make_expression(index: pd.Index, random: np.random.Generator) -> pd.DataFrame:
    values = random.normal(5, 2, (len(index), GENES)).astype(np.float32)
    return pd.DataFrame(values, index=index, columns=[f"G{gene}" for gene in range(GENES)])


def make_pathways(sizes: Sequence[int], random: np.random.Generator) -> GeneSets:
    genes = [tuple(f"G{gene}" for gene in random.choice(GENES, size, replace=False)) for size in sizes]
    return GeneSets(tuple(f"pathway {number}" for number in range(len(sizes))), tuple(genes))


def make_run(work: Work, folds: Sequence[Fold], epochs: int, batch_size: int = BATCH, **hyperparameters) -> Run:
    """SurvQ as the paper has it, save for the dropout of patches, on which it is silent: the reference has none."""
    config = TrainConfig(
        hyperparameters={"patch_dropout": 0.0, **hyperparameters}, epochs=epochs, batch_size=batch_size
    )
    return Run(work.cohort.name, config, tuple(folds))


def as_read(work: Work, run: Run) -> dict[str, Tensor]:
    """The bags in the dtype in which a study shares them for this run; cases that share a bag still do."""
    dtype = patch_dtype_of(run.config, work.cohort.spec, CPU)
    of_bag = {id(bag): converted(bag, dtype) for bag in work.bags.values()}
    return {case: of_bag[id(bag)] for case, bag in work.bags.items()}


@dataclass(frozen=True)
class Beside:
    """A fold's learner, and the reference with the same weights and its files of the same cases."""

    learner: FoldLearner
    model: reference.ReferenceSurvQ
    files: list[reference.Case]


def put_beside(work: Work, run: Run, folder: Path, cases: int) -> Beside:
    """The reference gets the first `cases` cases. Raises AssertionError where its numbers are not survq's."""
    learner = FoldLearner(run.config, work.cohort, run.folds[0], CPU)
    model = reference.ReferenceSurvQ.like(learner.model, work.cohort.spec.pathways, reference.faster_attention())
    chosen = work.case_ids[:cases]
    batch = learner.table.batch(chosen, [work.bags[case] for case in chosen])
    files = []
    for position, case in enumerate(chosen):
        file = folder / f"{case}.pt"
        torch.save(work.bags[case].clone(), file)
        at = slice(position, position + 1)
        files.append(reference.Case(file, batch.expression[position], batch.interval[at], batch.event[at]))
    few = learner.table.batch(chosen[:1], [work.bags[case][:2000] for case in chosen[:1]])
    with strict_fp32():
        reference.check(learner.model, model, few)
    return Beside(learner, model, files)


@contextmanager
def strict_fp32():
    """A machine without AMX, which computes in fp32. That it does is seen by `reference.check`."""
    with mock.patch("torch.cpu._is_amx_tile_supported", return_value=False):
        yield


def useful_flops(patches: int, *, training: bool) -> float:
    """Of a case, with queries absorbed into keys and values: what has to be computed, however it is done."""
    width, tokens = WIDTH, HISTOLOGY_QUERIES + GENOMIC_QUERIES
    first = 2 * patches * FEATURES * 2 * width
    others = (
        2 * patches * 2 * width * width
        + 4 * patches * HISTOLOGY_QUERIES * width
        + 2 * (sum(SIZES) + len(SIZES) * width) * width
        + 4 * len(SIZES) * GENOMIC_QUERIES * width
        + 2 * GENOMIC_QUERIES * width * width
        + 4 * tokens * tokens * width
    )
    # backward costs twice as much, but features need no gradient
    return 2 * first + 3 * others if training else first + others
