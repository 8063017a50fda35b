"""Methods gathered from records on disk: a search's trials are left out, and its outer folds are one method."""

from functools import partial

import pytest
from held_out_table import predictions, save_run

from survq.evaluation.held_out import METRICS, NO_TRAINING
from survq.reporting.methods import methods_of, metrics_table
from survq.training.results import Results


@pytest.fixture
def save(tmp_path):
    return partial(save_run, Results(tmp_path))


def test_runs_are_named_by_what_differs(save):
    records = [save(f"a{rate}{seed}", predictions(60), seed=seed, rate=rate) for rate in (0.1, 0.2) for seed in (0, 1)]
    records.append(save("b", predictions(60), model="snn", rate=0.3))
    methods = methods_of(records)
    assert [method.title for method in methods] == [
        *("snn", "survq, rate 0.1", "survq, rate 0.1, seed 1", "survq, rate 0.2", "survq, rate 0.2, seed 1"),
    ]
    table = metrics_table(methods)
    assert len(table) == 5 * len(METRICS) and table["value"].notna().all()


def test_the_outer_folds_of_a_search_are_one_method(save):
    table = predictions(90)
    whole = metrics_table(methods_of([save("run", table)]))
    outer = []
    for fold, cases in table.groupby("fold"):
        outer.append(save(f"{fold}-chosen", cases, group=f"outer-0-{fold}/chosen"))
        outer.append(save(f"{fold}-trial", table, group=f"outer-0-{fold}/trial-000"))
    outer.append(save("swept", table, group="sweep/trial-000"))
    (method,) = methods_of(outer)
    assert method.name == "survq, chosen by nested search" and len(method.records) == 3
    assert metrics_table([method])["value"].tolist() == pytest.approx(whole["value"].tolist())
    (part,) = methods_of(outer[:1])
    assert NO_TRAINING in metrics_table([part])["reason"].tolist()
