"""Held-out predictions of a method whose hazards are true, and runs on disk that made them."""

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pandas as pd

from survq.data.location import parquet
from survq.evaluation.epochs import Epoch
from survq.evaluation.measure import measure
from survq.training.record import PREDICTIONS, Record
from survq.training.report import Report
from survq.training.results import Results

EDGES = (8.0, 16.0, 32.0)


def predictions(cases=120, folds=3, repeats=1, seed=0) -> pd.DataFrame:
    """True hazards of exponential lives with a known rate, censored at random."""
    random = np.random.default_rng(seed)
    rate = np.exp(random.normal(size=cases)) / 30
    death, end = random.exponential(1 / rate), np.minimum(random.exponential(50, cases), 90)
    widths = np.diff([0.0, *EDGES])
    hazards = np.hstack([1 - np.exp(-rate[:, None] * widths), np.full((cases, 1), 0.9)])
    table = pd.DataFrame({"case_id": [f"C{number:03d}" for number in range(cases)]})
    table = table.assign(time=np.minimum(death, end), event=death <= end, risk=-np.cumprod(1 - hazards, 1).sum(axis=1))
    table[[f"hazard_{k}" for k in range(4)]] = hazards
    return pd.concat(
        [table.assign(repeat=r, fold=random.permutation(cases) % folds) for r in range(repeats)], ignore_index=True
    )


def save_run(
    results: Results,
    path: str,
    table: pd.DataFrame,
    group="",
    model="survq",
    seed=0,
    cohort="SIM",
    report=MappingProxyType({}),
    **settings,
) -> Record:
    """A finished run of two epochs with these predictions; `report` has further fields of its report."""
    folds = table.groupby(["repeat", "fold"]).ngroups
    epochs = tuple(Epoch(n, (1.0 / n,) * folds, (1.2 / n,) * folds, (0.6,) * folds) for n in (1, 2))
    content = replace(
        Report("finished", epochs), c_index=measure(table), interval_edges=(EDGES,) * folds, device="cpu", **report
    )
    config = {"cohort": cohort, "group": group, "model": model, "hyperparameters": {}}
    return results.save(path, config | {"training": {"seed": seed, **settings}}, content, {PREDICTIONS: parquet(table)})
