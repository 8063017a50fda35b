"""What a study says of runs that are on disk already: so no Ray is started."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.problems import DataError
from survq.evaluation.measure import measure
from survq.exits import UsageError
from survq.settings import StudySettings
from survq.study import Study, open_study
from survq.training.config import TrainConfig
from survq.training.results import Results
from survq.training.run import Run
from survq.tuning.search import Searches, Space, nested_searches, outer_predictions, outer_table

SPACE = Space(
    lambda trial: TrainConfig(learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True), epochs=1),
    first={"learning_rate": 1e-3},
    complexity=lambda config: 0,
)


@pytest.fixture(scope="module")
def cohort(tiny_folder) -> Cohort:
    return Cohort.load(tiny_folder, "TINY")


@pytest.fixture
def make_study(tiny_folder, cohort, tmp_path):
    def make_study(**settings) -> Study:
        asked = StudySettings(data=str(tiny_folder), results=tmp_path, **({"folds": 3} | settings))
        return Study("test", asked, Results(tmp_path / "test"), {"TINY": cohort})

    return make_study


def write(study: Study, run: Run, state: str = "finished", **details) -> None:
    """What a run of this state leaves on disk."""
    cohort = study.cohorts[run.cohort]
    epoch = {"epoch": 1, "training_loss": [1.0], "validation_loss": [1.0], "c_index": [0.6, 0.7]}
    report, predictions = {"state": state, "epochs": [epoch], **details}, None
    if state == "finished":
        tables = [cohort.cases.loc[list(f.validation)].assign(repeat=f.repeat, fold=f.index) for f in run.folds]
        predictions = pd.concat(tables).reset_index()[["case_id", "repeat", "fold", "time", "event"]]
        predictions["risk"] = np.random.default_rng(run.config.seed).normal(size=len(predictions))
        report["c_index"] = measure(predictions)
    else:
        report["reason"] = "the loss became nan"
    study.results.save(run.path, run.describe(cohort.fingerprint), report, predictions)


def runs_of(study: Study, rates=(1e-3, 2e-3), seeds=1) -> list[Run]:
    (cohort,) = study.cohorts.values()
    folds = study.folds(cohort)
    return [
        Run(cohort.name, TrainConfig(learning_rate=rate, seed=seed, interval_edges="cohort"), folds)
        for rate in rates
        for seed in range(seeds)
    ]


def test_a_seed_that_diverged_takes_the_number_of_its_cell_and_is_named(make_study, capsys):
    study = make_study()
    runs = runs_of(study, seeds=3)
    for run in runs:
        write(study, run, "diverged" if run is runs[1] else "finished")
    records = study.train(runs)
    assert [record.settings["seed"] for record in records] == [0, 2, 0, 1, 2]
    table = study.table(runs, ["learning_rate"])
    first, second = table.cells.to_dict("records")
    assert math.isnan(first["mean"]) and first["problem"] == "1 of 3 seeds: diverged"
    assert 0 < second["mean"] < 1 and second["seeds"] == 3
    assert "1 of 3 seeds: diverged" in str(table)
    study.farewell()
    assert f"{runs[1].path} diverged: the loss became nan" in capsys.readouterr().err


def test_where_no_run_has_a_number_the_table_says_why(make_study, monkeypatch):
    study = make_study()
    runs = runs_of(study)
    write(study, runs[0], "diverged")

    def fail(study, queue):
        while (run := queue.take()) is not None:
            queue.failures[run.path] = "no memory"

    monkeypatch.setattr(Study, "_execute", fail)
    assert study.train(runs) == []
    assert study.table(runs, ["learning_rate"]).cells["problem"].tolist() == ["diverged", "failed"]
    assert study.missing == {runs[0].path: "diverged: the loss became nan", runs[1].path: "failed: no memory"}


def test_a_study_with_results_missing_ends_with_1_and_settings_are_kept_from_the_start(tiny_folder, tmp_path, capsys):
    settings = StudySettings(data=str(tiny_folder), results=tmp_path, folds=3)
    with pytest.raises(SystemExit) as ended, open_study("test", settings, "protocol") as study:
        assert json.loads((tmp_path / "test/study.json").read_text())["folds"] == 3
        study.missing["TINY/seed=0"] = "diverged: the loss became nan"
    assert ended.value.code == 1
    assert "1 result(s) are missing" in capsys.readouterr().err


@pytest.fixture
def searched(make_study):
    """search(refits) -> a study and its three searches of one trial; `refits` says how that of each fold ended."""

    def search(*refits: str, seeds: int = 1):
        study = make_study(seeds=seeds)
        (cohort,) = study.cohorts.values()
        searches = nested_searches(cohort, study.folds(cohort), SPACE, trials=1, inner_folds=2, seeds=seeds)
        schedule = Searches(searches)
        states = {search.name: state for search, state in zip(searches, refits, strict=True)}
        while (run := schedule.next()) is not None:
            state = "finished" if "trial" in run.group or run.config.seed else states[run.group.split("/")[0]]
            write(study, run, state)
            schedule.ended(run, study.results.find(run.path, run.describe(cohort.fingerprint)))
        return study, schedule

    return search


def test_an_outer_fold_that_diverged_is_not_left_out_of_the_mean(searched):
    study, schedule = searched("finished", "diverged", "finished", seeds=2)
    assert outer_predictions(schedule.searches, seed=0) is None
    assert len(outer_predictions(schedule.searches, seed=1)) == 60
    (cell,) = study.nested_table(schedule.searches, seeds=2).cells.to_dict("records")
    assert math.isnan(cell["mean"]) and cell["problem"] == "1 of 2 seeds: 2 of 3 outer folds"
    assert (cell["cases"], cell["configurations"]) == (60, 3)
    assert outer_table(schedule.searches)["c_index"].isna().tolist() == [False, True, False]
    (reason,) = schedule.missing.values()
    assert list(schedule.missing) == ["TINY outer=0.1"] and "seed 0 diverged: the loss became nan" in reason


def test_all_outer_folds_diverged(searched):
    study, schedule = searched("diverged", "diverged", "diverged")
    (cell,) = study.nested_table(schedule.searches, seeds=1).cells.to_dict("records")
    assert cell["problem"] == "0 of 3 outer folds"
    assert len(schedule.missing) == 3


def test_a_nested_table_says_which_epoch_it_reports(searched):
    study, schedule = searched("finished", "finished", "finished")
    table = study.nested_table(schedule.searches, seeds=1)
    assert table.cells["mean"].notna().all() and not schedule.missing
    assert "after the epoch that inner folds chose" in table.caption and "last epoch" not in table.caption


def test_a_search_that_chooses_nothing_is_named(make_study):
    study = make_study()
    (cohort,) = study.cohorts.values()
    schedule = Searches(nested_searches(cohort, study.folds(cohort)[:1], SPACE, trials=1, inner_folds=2))
    run = schedule.next()
    write(study, run, "diverged")
    schedule.ended(run, study.results.find(run.path, run.describe(cohort.fingerprint)))
    assert schedule.next() is None and schedule.exhausted
    assert schedule.missing == {"TINY outer=0.0": "chose nothing, for no trial ended with a C-index"}
    assert study.nested_table(schedule.searches, seeds=1).cells["problem"].tolist() == ["0 of 1 outer folds"]


def test_runs_of_different_machines_in_one_table_are_said(make_study):
    study = make_study()
    runs = runs_of(study, rates=(1e-3, 2e-3, 3e-3))
    for run, device in zip(runs, ("cpu", "cuda", "cuda"), strict=True):
        write(study, run, device=device, versions={"torch": "2.9"})
    study.train(runs)
    said = study.table(runs, ["learning_rate"]).caption
    assert said.endswith("Its runs were not all made alike: device cpu (1 runs), cuda (2 runs).")
    assert "alike" not in study.table(runs[1:], ["learning_rate"]).caption


def test_differences_are_paired_by_cohort_and_seed(make_study):
    study = make_study()
    runs = runs_of(study, seeds=2)
    for run in runs:
        write(study, run, "diverged" if run is runs[1] else "finished")  # the reference of seed 1
    records = study.train(runs)
    found = study.differences(records, ["learning_rate"], lambda record: record.settings["learning_rate"] == 1e-3)
    (line,) = found.to_dict("records")
    assert (line["cohort"], line["learning_rate"], line["seed"]) == ("TINY", 2e-3, 0)
    assert (line["difference"], line["low"], line["high"]) == (0, 0, 0), "both have the risks of seed 0"


def test_the_oracle_of_other_folds_is_called_that(make_study, capsys):
    make_study(folds=None).show_oracle()
    assert capsys.readouterr().out.strip().split()[-1].startswith("0.")
    make_study(folds=3).show_oracle()
    assert "on the folds that came with it, which are others" in capsys.readouterr().out


def test_folds_are_made_repeatedly_on_request(make_study, cohort):
    folds = make_study(repeats=2).folds(cohort)
    assert [(fold.repeat, fold.index) for fold in folds] == [(r, i) for r in range(2) for i in range(3)]
    assert {fold.validation for fold in folds[:3]} != {fold.validation for fold in folds[3:]}
    assert cohort.splits is not None
    with pytest.raises(UsageError, match=r"--repeats 2: the folds of cohort TINY are given.*Fix: add --folds"):
        make_study(repeats=2, folds=None).folds(cohort)


def test_too_few_deaths_for_the_intervals_are_said_before_anything_is_trained(make_study, cohort):
    study = make_study()
    folds = study.folds(cohort)
    at_once = cohort.cases["time"].mask(cohort.cases["event"], 7.0)
    study.cohorts["TINY"] = replace(cohort, cases=cohort.cases.assign(time=at_once))
    with pytest.raises(DataError, match=r"cohort TINY fold 0 of repeat 0: 1 different times of death"):
        study.train([Run("TINY", TrainConfig(), folds)])
    with pytest.raises(DataError, match=r"cohort TINY outer=0.0 fold 0 of repeat 0"):
        nested_searches(study.cohorts["TINY"], folds, SPACE, trials=1, inner_folds=2)


@pytest.mark.parametrize("flag", ["repeats", "epochs", "seeds"])
def test_flags_below_1_are_refused(flag):
    with pytest.raises(UsageError, match=f"--{flag} is 0; expected 1 or more"):
        StudySettings(**{flag: 0})
