"""A trained SurvQ on a simulated cohort whose planted patches are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.folds import given_folds
from survq.interpretation.truth import morphologies
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.fold import FittedFold
from survq.training.fold_file import read_fold
from survq.training.loop import train_folds
from survq.training.run import Run

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Setting:
    cohort: Cohort
    bags: dict[str, Tensor]
    fold: FittedFold
    held_out: tuple[str, ...]  # cases with slides and expression
    morphology: dict[str, np.ndarray]


def train_fold(run: Run, cohort: Cohort, folder: Path) -> FittedFold:
    """The model of the run's first fold, as it comes back from its file."""
    outcome = train_folds(run, cohort, cohort.bags(), device=CPU, keep_weights=True)
    assert outcome.state == "finished", outcome.details
    name, content = next(iter(outcome.files.items()))
    (folder / name).write_bytes(content)
    return read_fold(folder / name)[0]


@pytest.fixture(scope="session")
def setting(tmp_path_factory) -> Setting:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("maps")
    write_simulated(folder, "demo", name="DEMO")
    cohort = Cohort.load(folder, "DEMO")
    first = given_folds(cohort.splits, list(cohort.cases.index))[0]
    sizes = {"width": 32, "histology_queries": 16, "genomic_queries": 8}
    run = Run("DEMO", TrainConfig("survq", sizes, epochs=20, learning_rate=2e-3), (first,))
    both = set(cohort.cases.index[cohort.has_slides & cohort.has_expression])
    return Setting(
        cohort=cohort,
        bags=cohort.bags(),
        fold=train_fold(run, cohort, folder),
        held_out=tuple(case for case in first.validation if case in both),
        morphology=morphologies(cohort),
    )
