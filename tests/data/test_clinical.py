"""Clinical covariates: what is used of them, how they are scaled, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.batch import Preprocessing
from survq.data.clinical import ClinicalScale, clinical_problems, clinical_values, informative_covariates
from survq.data.cohort import Cohort
from survq.data.folds import Fold
from survq.data.write import write_cohort


def table(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index([f"C{n}" for n in range(4)], name="case_id"))


CASES = table(age=[50.0, 60.0, None, 70.0], sex=["female", "male", "male", None], stage=[1.0, None, 4.0, 2.0])


def test_covariates_are_numbers():
    nan = np.nan
    expected = [[50, 0, 1, nan], [60, 1, nan, nan], [nan, 1, 4, nan], [70, nan, 2, nan]]
    np.testing.assert_array_equal(clinical_values(CASES, ["age", "sex", "stage", "absent"]), expected)


def test_a_covariate_without_differences_is_not_used():
    assert informative_covariates(CASES) == ("age", "sex", "stage")
    assert informative_covariates(CASES.assign(sex="male", stage=np.nan)) == ("age",)
    assert informative_covariates(CASES[["age"]]) == ("age",)
    assert informative_covariates(table(age=[None] * 4, sex=["male", None, None, "male"])) == ()


def test_scaling_by_hand():
    """Of the training cases: ages 50 and 70, so 60 ± 10; stages 1 and 2, so 1.5 ± 0.5; only women."""
    scale = ClinicalScale.fit(CASES.iloc[[0, 3]], ("age", "sex", "stage"))
    expected = [[-1, 0, -1], [0, 0, 0], [0, 0, 5], [1, 0, 1]]
    np.testing.assert_array_equal(scale(CASES), np.array(expected, np.float32))


def test_covariates_unknown_in_training_are_0():
    scale = ClinicalScale.fit(CASES.iloc[[2]], ("age", "stage"))
    np.testing.assert_array_equal(scale(CASES), np.zeros((4, 2), np.float32))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("age", [50, 60, -1, 70], "age of 1 cases is invalid, such as '-1' of 'C2'; expected a number from 0 to 130"),
        ("age", ["old", 60, 50, 70], "such as 'old' of 'C0'"),
        ("age", [50, np.inf, 50, 70], "such as 'inf' of 'C1'"),
        ("sex", ["F", "M", "male", None], "sex of 2 cases is invalid, such as 'F' of 'C0'; expected female, male"),
        ("stage", [5, 1, 2, 3], "stage of 1 cases is invalid, such as '5' of 'C0'; expected a number from 0 to 4"),
        ("stage", ["IIIA", 1, 2, 3], "such as 'IIIA' of 'C0'"),
    ],
)
def test_other_values_are_refused(column, values, message):
    (problem,) = clinical_problems(table(**{column: values}).reset_index(), "cases.parquet")
    assert message in problem and "Fix" in problem
    assert not clinical_problems(CASES.reset_index(), "cases.parquet")


@pytest.fixture
def cohort(small, tmp_path) -> Cohort:
    """24 cases, a third without a stage."""
    random = np.random.default_rng(0)
    stage = np.where(np.arange(24) % 3, random.integers(1, 5, 24), np.nan)
    sex = random.choice(["female", "male"], 24)
    small["cases"] = small["cases"].assign(age=random.normal(60, 10, 24), sex=sex, stage=stage)
    write_cohort(tmp_path, "SMALL", **small)
    return Cohort.load(tmp_path, "SMALL")


def test_a_batch_holds_the_covariates_as_scaled_by_the_training_cases(cohort):
    cases = list(cohort.cases.index)
    fold = Fold(0, 0, tuple(cases[:16]), tuple(cases[16:]))
    assert cohort.spec.clinical == ("age", "sex", "stage")
    batch = Preprocessing.fit(cohort, fold).table(cohort).batch(cases[:16], [torch.empty(0, 16)] * 16)
    assert batch.clinical.shape == (16, 3)
    assert np.allclose(batch.clinical.mean(dim=0), 0, atol=1e-5)
    assert np.allclose(batch.clinical[:, 0].std(correction=0), 1, atol=1e-5)
    assert (batch.clinical[::3, 2] == 0).all() and (batch.clinical[1::3, 2] != 0).any()

    held_out = cohort.cases.index.isin(fold.validation)
    other = replace(cohort, cases=cohort.cases.assign(age=cohort.cases["age"] + 30 * held_out))
    before, after = (Preprocessing.fit(one, fold).clinical for one in (cohort, other))
    assert np.array_equal(before.mean, after.mean) and np.array_equal(before.deviation, after.deviation)
