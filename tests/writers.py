"""Records to write, and processes that write them and come to harm. It imports little, so that they start fast."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd

from survq.training.results import Results

PATH = "BLCA/outer=0/depth=1,seed=0"
CONFIG = {"cohort": "BLCA", "config": {"learning_rate": 5e-4, "hyperparameters": {"depth": 1}}, "data": "abc"}


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


def report(seed: int = 0) -> dict:
    return {"state": "finished", "seconds": 1.5, "seed": seed, "epochs": [{"epoch": 1, "c_index": [0.5, 0.25]}]}


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
        Results(folder).save(path, CONFIG, report(number), predictions(number))
        says.send(path)


def save_on_a_small_disk(folder: Path, size: int, says) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        Results(folder).save(PATH, CONFIG, report(), predictions())
        says.send(None)
    except OSError as error:
        says.send(error.errno)


def hold(folder: Path, says) -> None:
    with Results(folder).lock():
        says.send("held")
        time.sleep(60)
