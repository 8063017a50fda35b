"""Held-out predictions of a method whose hazards are true."""

import numpy as np
import pandas as pd

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
