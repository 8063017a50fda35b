"""The curve of a nested model: held-out predictions of each number of queries, and its smaller models."""

import io

import pandas as pd
import pytest
from small_cohort import CPU, make_cohort, make_run

from survq.data.problems import DataError
from survq.evaluation.concordance import concordance_index
from survq.training.ensemble import of_size
from survq.training.fold_file import read_fold
from survq.training.loop import train_folds


def test_the_curve_is_kept_with_the_run_and_its_last_point_is_the_run():
    cohort, bags = make_cohort()
    run = make_run(cohort, hyperparameters={"nested_queries": True})
    outcome = train_folds(run, cohort, bags, device=CPU)
    curve = pd.read_parquet(io.BytesIO(outcome.files["curve.parquet"]))
    assert set(zip(curve["histology_queries"], curve["genomic_queries"], strict=True)) == {
        (h, g) for h in (1, 2, 4) for g in (1, 2, 3)
    }
    whole = curve[(curve["histology_queries"] == 4) & (curve["genomic_queries"] == 3)]
    keys = ["repeat", "fold", "case_id"]
    pd.testing.assert_series_equal(
        whole.set_index(keys)["risk"].sort_index(), outcome.predictions.set_index(keys)["risk"].sort_index(), atol=1e-6
    )
    assert 0 <= concordance_index(*(whole[name].to_numpy() for name in ("risk", "time", "event"))) <= 1
    plain = train_folds(make_run(cohort), cohort, bags, device=CPU)
    assert "curve.parquet" not in plain.files


def test_a_smaller_model_predicts_what_the_curve_says(tmp_path):
    cohort, bags = make_cohort()
    run = make_run(cohort, hyperparameters={"nested_queries": True})
    outcome = train_folds(run, cohort, bags, device=CPU, keep_weights=True)
    folds = []
    for name in run.weights_files:
        (tmp_path / name).write_bytes(outcome.files[name])
        folds.append(read_fold(tmp_path / name)[0])
    curve = pd.read_parquet(io.BytesIO(outcome.files["curve.parquet"]))
    predictions, smaller = of_size(curve, folds, (2, 1))
    assert (predictions["histology_queries"] == 2).all() and len(predictions) == len(outcome.predictions)
    for fold in smaller:
        assert (len(fold.model.Q_h), len(fold.model.Q_g)) == (2, 1)
        own = predictions[predictions["fold"] == fold.index].set_index("case_id")
        table = fold.predict_cases(fold.preprocessing.table(cohort), bags, list(own.index)).set_index("case_id")
        assert table["risk"].to_numpy() == pytest.approx(own["risk"].to_numpy(), abs=1e-5)
    with pytest.raises(DataError, match=r"no 3,1; it has 1,1"):
        of_size(curve, folds, (3, 1))
