"""Clinical covariates of the cases, in columns of cases.parquet, as models read them.

    age      years
    sex      "female" or "male", as 0 and 1
    stage    0 to 4

A covariate is used if it has at least two different values in the cohort. Unknown values become the mean of the
training cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

SEXES = {"female": 0.0, "male": 1.0}
RANGES = {"age": (0, 130), "stage": (0, 4)}  # of the numeric covariates, both ends included
COVARIATES = ("age", "sex", "stage")


def clinical_values(cases: pd.DataFrame, names: Sequence[str]) -> Float[np.ndarray, "case covariate"]:
    """The covariates as numbers, NaN where unknown; `cases` is indexed by case_id and may lack columns."""
    columns = [_numbers(cases[name]) if name in cases else np.full(len(cases), np.nan) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((len(cases), 0))


def informative_covariates(cases: pd.DataFrame) -> tuple[str, ...]:
    """The covariates with at least two different known values."""
    return tuple(
        name for name in COVARIATES if name in cases and len(np.unique(known(clinical_values(cases, [name])))) > 1
    )


def known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def clinical_problems(cases: pd.DataFrame, file: str) -> list[str]:
    """Values that are not of the form above. Missing values are no problem."""
    problems = []
    for name in COVARIATES:
        if name not in cases:
            continue
        cells = cases[name].dropna()
        if name == "sex":
            wrong = cells[~cells.isin(SEXES)]
            expected = "female, male or none"
        else:
            low, high = RANGES[name]
            values = pd.to_numeric(cells, errors="coerce").astype(np.float64)
            wrong = cells[~values.between(low, high)]
            expected = f"a number from {low} to {high}, or none"
        if len(wrong):
            case = cases.loc[wrong.index[0], "case_id"]
            problems.append(
                f"{file}: {name} of {len(wrong)} cases is invalid, such as {str(wrong.iloc[0])[:60]!r} of {case!r}; "
                f"expected {expected}. Fix: correct it, or rename the column."
            )
    return problems


@dataclass(frozen=True, eq=False)
class ClinicalScale:
    """Covariates with mean 0 and deviation 1 over the training cases. Unknown values become 0, the mean."""

    names: tuple[str, ...]
    mean: Float[np.ndarray, " covariate"]
    deviation: Float[np.ndarray, " covariate"]

    @classmethod
    def fit(cls, training: pd.DataFrame, names: Sequence[str]) -> ClinicalScale:
        """`training` are the training cases. A covariate that is constant among them, or unknown, becomes 0."""
        columns = [known(values) for values in clinical_values(training, names).T]
        deviation = np.array([column.std() if len(column) else 0.0 for column in columns])
        return cls(
            tuple(names),
            np.array([column.mean() if len(column) else 0.0 for column in columns]),
            np.where(deviation > 0, deviation, np.inf),
        )

    def __call__(self, cases: pd.DataFrame) -> Float[np.ndarray, "case covariate"]:
        values = (clinical_values(cases, self.names) - self.mean) / self.deviation
        return np.where(np.isnan(values), 0.0, values).astype(np.float32)


def _numbers(cells: pd.Series) -> np.ndarray:
    if cells.name == "sex":
        return cells.map(SEXES).to_numpy(np.float64, na_value=np.nan)
    return pd.to_numeric(cells).to_numpy(np.float64, na_value=np.nan)
