"""Records to write, and processes that write them and come to harm. It imports little, so that they start fast."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data.location import parquet
from survq.evaluation.epochs import Epoch
from survq.training.record import PREDICTIONS, Record
from survq.training.report import Report
from survq.training.results import Results

PATH = "BLCA/outer-0-0/survq-seed0-01234567"
CONFIG = {
    "cohort": "BLCA",
    "group": "outer-0-0",
    "model": "survq",
    "hyperparameters": {"depth": 1},
    "training": {"learning_rate": 5e-4, "seed": 0},
    "folds": {"count": 2, "sha256": "abc"},
    "data": {"cases": "abc", "expression": "def", "gene set pathways": "ghi"},
    "code": {"survq.models.survq": "abc", "survq.layers.attention": "def"},
}


def predictions(seed: int = 0, n: int = 20) -> pd.DataFrame:
    draws = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "case_id": [f"CASE-{number}" for number in range(n)],
            "repeat": 0,
            "fold": np.arange(n) % 2,
            "time": draws.exponential(20, n),
            "event": np.arange(n) % 3 == 0,
            "risk": draws.normal(size=n) * 1e-300,  # every bit counts, of small numbers too
        }
    )


def report(seed: int = 0, state: str = "finished") -> Report:
    return Report(state=state, epochs=(Epoch(1, (1.0, 0.5), (1.0, 0.5), (0.5, 0.25)),), seconds=1.5, parameters=seed)


def save(results: Results, path: str = PATH, seed: int = 0, config: dict = CONFIG, **files: bytes) -> Record:
    return results.save(path, config, report(seed), {PREDICTIONS: parquet(predictions(seed)), **files})


def slow_down(owner, name: str) -> None:
    operation = getattr(owner, name)

    def slow(*arguments, **options):
        time.sleep(0.001)
        result = operation(*arguments, **options)
        time.sleep(0.001)
        return result

    setattr(owner, name, slow)


def write_for_ever(folder: Path, attempt: int, says) -> None:
    """On a disk so slow that a kill finds it between any two operations."""
    for owner, name in ((os, "fsync"), (os, "rename"), (os, "mkdir"), (Path, "open")):
        slow_down(owner, name)
    for number in range(100_000):
        path = f"BLCA/{attempt}-{number}"
        save(Results(folder), path, number)
        says.send(path)


def save_on_a_small_disk(folder: Path, size: int, says) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        save(Results(folder))
        says.send(None)
    except OSError as error:
        says.send(error.errno)


def hold(folder: Path, says) -> None:
    with Results(folder).lock():
        says.send("held")
        time.sleep(60)
