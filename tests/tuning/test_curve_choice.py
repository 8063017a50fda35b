"""A nested search that chooses numbers of queries from the inner curve: the rule, and that it sees inner folds only."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.exits import UsageError
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.ensemble import curve_of
from survq.training.queue import RunQueue
from survq.training.results import Results
from survq.tuning.choice import choose_sizes, equally_good
from survq.tuning.outcomes import outer_table
from survq.tuning.schedule import Searches
from survq.tuning.search import Search, Space, nested_searches

SIZES = ["histology_queries", "genomic_queries"]
LIMITS = {"histology_queries": 4, "genomic_queries": 4}


def predictions(order, fold: int) -> pd.DataFrame:
    """Four deaths of a fold, at risks in this order: 4 3 2 1 has C-index 1."""
    return pd.DataFrame(
        {
            "case_id": [f"{fold}-{case}" for case in range(4)],
            "repeat": 0,
            "fold": fold,
            "time": [1.0, 2.0, 3.0, 4.0],
            "event": True,
            "risk": np.array(order, float),
            "nll": 1.0,
        }
    )


def test_equally_good_is_one_standard_error_of_the_best():
    # the best has mean 0.80, deviation 0.02, error 0.01
    best = [0.78, 0.80, 0.82]
    error = np.std(best, ddof=1) / np.sqrt(3)
    below = 0.80 - error
    assert equally_good([[below + 1e-6] * 3, best, [below - 1e-6] * 3, [np.nan] * 3]) == [0, 1]
    assert equally_good([[0.7], [0.8], [0.8]]) == [1, 2], "one fold has no error"
    assert equally_good([[0.8, np.nan], [0.7, 0.7]]) == [0]
    assert equally_good([[np.nan]]) == [] == equally_good([])


def test_the_fewest_queries_within_one_standard_error_are_chosen():
    right, nearly, mixed, wrong = [4, 3, 2, 1], [4, 3, 1, 2], [4, 2, 1, 3], [1, 2, 3, 4]  # C-index 1, 5/6, 4/6, 0
    orders = {  # of two folds
        (1, 1): (wrong, wrong),
        (1, 2): (nearly, mixed),  # 0.75
        (2, 1): (nearly, mixed),
        (2, 2): (right, mixed),  # 0.83, the best; its error is 0.17
    }
    curve = pd.concat(
        [
            predictions(order, fold).assign(histology_queries=h, genomic_queries=g)
            for (h, g), folds in orders.items()
            for fold, order in enumerate(folds)
        ]
    )
    chosen = choose_sizes(curve, SIZES)
    assert chosen.values == {"histology_queries": 1, "genomic_queries": 2}
    assert chosen.c_index == pytest.approx(0.75)
    loss = np.where((curve["histology_queries"] == 2) & (curve["genomic_queries"] == 1), 0.9, 1.0)
    assert choose_sizes(curve.assign(nll=loss), SIZES).values == {"histology_queries": 2, "genomic_queries": 1}
    assert choose_sizes(curve.assign(event=False), SIZES) is None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("curve-search")
    write_simulated(root, "demo", cases=70, name="TINY")
    return Cohort.load(root, "TINY")


def configure(trial) -> TrainConfig:
    """Steps so large that the last epoch is not the best one."""
    rate = trial.suggest_float("learning_rate", 0.05, 0.2, log=True)
    return TrainConfig("survq", LIMITS | {"nested_queries": True, "width": 8}, epochs=3, learning_rate=rate)


SPACE = Space(configure, first={"learning_rate": 0.1}, complexity=lambda config: 0.0, nested=True)


@pytest.fixture(scope="module")
def searched(cohort, tmp_path_factory, run_here) -> tuple[Search, Path]:
    """A finished search of one outer fold, and its folder."""
    (outer, *_) = make_folds(cohort.cases, 3)
    searches = nested_searches(cohort, [outer], SPACE, trials=2, inner_folds=2, beside_default=True)
    folder = tmp_path_factory.mktemp("results")
    queue = RunQueue(Searches(searches), Results(folder), {cohort.name: cohort})
    run_here(queue, {cohort.name: cohort.bags()})
    assert queue.exhausted and not queue.schedule.missing and not queue.failures
    assert len(queue.records) == queue.schedule.total
    return searches[0], folder


def fresh(search: Search, cohort: Cohort) -> Search:
    """The same search of this cohort, before its first run."""
    inner, space = search.inner, search.space
    new = Search(cohort, search.outer, inner, space, search.trials_wanted, search.seeds, search.seed)
    return replace(new, beside_default=search.beside_default)


def test_the_outer_fold_evaluates_the_numbers_that_inner_folds_chose(cohort, searched):
    search, folder = searched
    assert search.chosen.best.epoch < 3, "choose other steps: the run of the curve is not tested"
    assert search.curve.epochs == search.chosen.epochs[: search.chosen.best.epoch], "the trial at its best epoch"
    curve = curve_of(search.curve)
    assert set(curve["case_id"]) == set(search.outer.training), "what chose"
    assert search.sizes == choose_sizes(curve, SIZES)
    (record,) = search.refits.values()
    assert {name: record.hyperparameters[name] for name in SIZES} == search.sizes.values
    assert set(record.predictions["case_id"]) == set(search.outer.validation), "what reports"
    (default,) = search.defaults.values()
    assert {name: default.hyperparameters[name] for name in SIZES} == LIMITS
    (row,) = outer_table([search]).to_dict("records")
    assert {name: row[name] for name in SIZES} == search.sizes.values
    assert row["search_c_index_optimistic"] == search.sizes.c_index and row["c_index"] == record.c_index

    again = RunQueue(Searches([fresh(search, cohort)]), Results(folder), {cohort.name: cohort})
    assert again.take() is None and again.exhausted, "all runs are found"
    assert again.schedule.searches[0].sizes == search.sizes


def test_held_out_outcomes_change_nothing_that_is_chosen(cohort, searched, tmp_path, run_here):
    search, _ = searched
    cases = cohort.cases.copy()
    held_out = list(search.outer.validation)
    cases.loc[held_out, "time"] = cases.loc[held_out, "time"].to_numpy()[::-1]
    cases.loc[held_out, "event"] = ~cases.loc[held_out, "event"]
    changed = replace(cohort, cases=cases)
    queue = RunQueue(Searches([fresh(search, changed)]), Results(tmp_path), {cohort.name: changed})
    run_here(queue, {cohort.name: cohort.bags()})
    (after,) = queue.schedule.searches
    assert after.sizes == search.sizes and after.chosen.number == search.chosen.number
    assert after.refits[0].report.weights_sha256 == search.refits[0].report.weights_sha256
    assert after.refits[0].c_index != search.refits[0].c_index, "the change did not reach the outer fold"


def test_only_nested_models_and_nested_searches_have_a_curve(monkeypatch):
    spec = importlib.util.spec_from_file_location("search_study", Path(__file__).parents[2] / "studies/search.py")
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search_study", study)
    spec.loader.exec_module(study)
    with pytest.raises(UsageError, match="--curve: snn has no nested queries"):
        study.SearchSettings(model="snn", curve=True)
    with pytest.raises(UsageError, match="--curve: the paper's protocol has no inner folds"):
        study.SearchSettings(protocol="paper", curve=True)
    assert study.SearchSettings(curve=True).model == "survq"
