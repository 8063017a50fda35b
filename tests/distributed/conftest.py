"""One Ray session for all tests of this folder, and a small simulated cohort for runs with and without Ray."""

from contextlib import suppress

import psutil
import pytest
import torch

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.training.config import TrainConfig
from survq.training.run import Run

TINY = {"histology_queries": 4, "genomic_queries": 4, "width": 16}


@pytest.fixture(scope="session")
def ray_session():
    from survq.ray_session import connect, ray

    connect(cpus=6)  # logical CPUs: for four workers, and two that Ray may still hold for processes killed by a test
    yield ray
    ray.shutdown()


@pytest.fixture
def listening():
    """listening(): process name and address of every listening socket of this session."""

    def listening() -> set[tuple[str, str]]:
        me = psutil.Process()
        found = set()
        for process in [me, *me.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):  # it may have ended in the meantime
                found |= {
                    (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
                    for connection in process.net_connections()
                    if connection.status == psutil.CONN_LISTEN
                }
        return found

    return listening


@pytest.fixture(scope="session")
def cohort(tiny_folder) -> Cohort:
    return Cohort.load(tiny_folder, "TINY")


@pytest.fixture(scope="session")
def bags(cohort) -> dict[str, torch.Tensor]:
    """The features as plain tensors, without Ray."""
    return cohort.bags()


@pytest.fixture
def make_run(cohort):
    """make_run(folds=3, epochs=2, **hyperparameters)"""

    def make_run(folds: int = 3, epochs: int = 2, seed: int = 0, **hyperparameters) -> Run:
        config = TrainConfig(hyperparameters=TINY | hyperparameters, epochs=epochs, learning_rate=2e-3, seed=seed)
        return Run("TINY", config, tuple(make_folds(cohort.cases, folds)))

    return make_run
