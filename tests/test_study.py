"""Studies whose runs are already on disk, so that no Ray is started."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from survq.data.cohort import Cohort
from survq.data.location import parquet
from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch
from survq.evaluation.measure import measure
from survq.exits import UsageError
from survq.models import MODELS, SurvivalModel
from survq.reporting.differences import differences
from survq.reporting.nested_table import nested_table
from survq.reporting.study_tables import study_table
from survq.settings import StudySettings
from survq.study import Study, open_study
from survq.training.config import TrainConfig
from survq.training.queue import Grid
from survq.training.record import PREDICTIONS
from survq.training.report import Report
from survq.training.results import Results
from survq.training.run import Run
from survq.tuning.outcomes import outer_predictions, outer_table
from survq.tuning.schedule import Searches
from survq.tuning.search import Space, nested_searches

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
    """Write the files of a run in this state."""
    cohort = study.cohorts[run.cohort]
    report, files = Report(state, (Epoch(1, (1.0,), (1.0,), (0.6, 0.7)),), **details), {}
    if state == "finished":
        tables = [cohort.cases.loc[list(f.validation)].assign(repeat=f.repeat, fold=f.index) for f in run.folds]
        predictions = pd.concat(tables).reset_index()[["case_id", "repeat", "fold", "time", "event"]]
        predictions["risk"] = np.random.default_rng(run.config.seed).normal(size=len(predictions))
        report, files = replace(report, c_index=measure(predictions)), {PREDICTIONS: parquet(predictions)}
    else:
        report = replace(report, reason="the loss became nan")
    study.results.save(run.path, run.describe(cohort.parts), report, files)


def runs_of(study: Study, rates=(1e-3, 2e-3), seeds=1) -> list[Run]:
    (cohort,) = study.cohorts.values()
    folds = study.folds(cohort).folds
    return [
        Run(cohort.name, TrainConfig(learning_rate=rate, seed=seed, interval_edges="cohort"), folds)
        for rate in rates
        for seed in range(seeds)
    ]


def test_a_cell_with_a_diverged_seed_has_no_number_and_names_the_problem(make_study, capsys):
    study = make_study()
    runs = runs_of(study, seeds=3)
    for run in runs:
        write(study, run, "diverged" if run is runs[1] else "finished")
    trained = study.train(runs)
    assert [record.training["seed"] for record in trained.finished] == [0, 2, 0, 1, 2]
    table = study_table(trained, ["learning_rate"])
    first, second = table.cells.to_dict("records")
    assert math.isnan(first["mean"]) and first["problem"] == "1 of 3 seeds: diverged"
    assert 0 < second["mean"] < 1 and second["seeds"] == 3
    assert "1 of 3 seeds: diverged" in str(table)
    study.farewell()
    assert f"{runs[1].path}: diverged: the loss became nan" in capsys.readouterr().err


def test_a_study_that_is_started_again_writes_its_report_only_if_something_changed(make_study, tree, capsys):
    def start_again(seeds=1, **settings) -> str:
        study = make_study(**settings)
        runs = runs_of(study, seeds=seeds)
        for run in runs:
            if not (study.results.runs / run.path).exists():
                write(study, run, "diverged")  # its report has no figures, which take seconds
        capsys.readouterr()
        study.save("table_9", study_table(study.train(runs), ["learning_rate"]))
        study.farewell()
        return capsys.readouterr().out

    page = make_study().results.folder / "report.html"
    assert f"written   {page}" in start_again()
    everything = tree(page.parent)
    assert f"unchanged {page}" in start_again()
    assert tree(page.parent) == everything
    assert f"written   {page}" in start_again(seeds=2) and "Seeds: 0, 1." in page.read_text()
    assert f"written   {page}" in start_again(seeds=2, epochs=9), "another option"
    page.unlink()
    assert f"written   {page}" in start_again(seeds=2, epochs=9) and page.exists()
    assert f"unchanged {page}" in start_again(seeds=2, epochs=9)


def test_a_table_without_any_number_states_the_reasons(make_study):
    study = make_study()
    runs = runs_of(study)
    write(study, runs[0], "diverged")

    class NoMemory:
        def execute(self, queue) -> None:
            while (run := queue.take()) is not None:
                queue.failures[run.path] = "no memory"

    study._machines = NoMemory()
    trained = study.train(runs)
    assert trained.finished == []
    assert study_table(trained, ["learning_rate"]).cells["problem"].tolist() == ["diverged", "failed"]
    assert study.missing == {runs[0].path: "diverged: the loss became nan", runs[1].path: "failed: no memory"}


def test_a_study_with_missing_results_exits_with_1_and_stores_its_settings_first(tiny_folder, tmp_path, capsys):
    settings = StudySettings(data=str(tiny_folder), results=tmp_path / "results", folds=3)
    with pytest.raises(SystemExit) as ended, open_study("test", settings, "protocol") as study:
        study.run(Grid([]))
        assert json.loads((tmp_path / "results/test/study.json").read_text())["folds"] == 3
        study.missing["TINY/seed=0"] = "diverged: the loss became nan"
    assert ended.value.code == 1
    assert "1 result(s) are missing" in capsys.readouterr().err


def test_a_refused_study_writes_nothing(tiny_folder, tmp_path, tree):
    settings = StudySettings(data=str(tiny_folder), results=tmp_path / "new/results", folds=50)
    with pytest.raises(SystemExit) as ended, open_study("test", settings, "protocol") as study:
        study.folds(study.cohorts["TINY"])
    assert ended.value.code == 65
    assert tree(tmp_path) == {}


@pytest.fixture
def searched(make_study):
    """search(refits) -> a study and its three searches of one trial; `refits` are the final states of their refits."""

    def search(*refits: str, seeds: int = 1):
        study = make_study(seeds=seeds)
        (cohort,) = study.cohorts.values()
        searches = nested_searches(cohort, study.folds(cohort).folds, SPACE, trials=1, inner_folds=2, seeds=seeds)
        schedule = Searches(searches)
        states = {search.name: state for search, state in zip(searches, refits, strict=True)}
        while (run := schedule.next()) is not None:
            state = "finished" if "trial" in run.group or run.config.seed else states[run.group.split("/")[0]]
            write(study, run, state)
            schedule.on_finished(run, study.results.find(run.path, run.describe(cohort.parts)))
        return study, schedule

    return search


def test_an_outer_fold_that_diverged_is_not_excluded_from_the_mean(searched):
    _, schedule = searched("finished", "diverged", "finished", seeds=2)
    assert outer_predictions(schedule.searches, seed=0) is None
    assert len(outer_predictions(schedule.searches, seed=1)) == 60
    (cell,) = nested_table(schedule.searches, seeds=2).cells.to_dict("records")
    assert math.isnan(cell["mean"]) and cell["problem"] == "1 of 2 seeds: 2 of 3 outer folds"
    assert (cell["cases"], cell["configurations"]) == (60, 3)
    assert outer_table(schedule.searches)["c_index"].isna().tolist() == [False, True, False]
    (reason,) = schedule.missing.values()
    assert list(schedule.missing) == ["TINY survq outer-0-1"] and "seed 0 diverged: the loss became nan" in reason


def test_a_nested_table_is_made_if_all_outer_folds_diverged(searched):
    _, schedule = searched("diverged", "diverged", "diverged")
    (cell,) = nested_table(schedule.searches, seeds=1).cells.to_dict("records")
    assert cell["problem"] == "0 of 3 outer folds"
    assert len(schedule.missing) == 3


def test_a_nested_table_states_its_epoch(searched):
    _, schedule = searched("finished", "finished", "finished")
    table = nested_table(schedule.searches, seeds=1)
    assert table.cells["mean"].notna().all() and not schedule.missing
    assert "after the epoch selected on inner folds" in table.caption and "last epoch" not in table.caption


def test_a_search_without_a_selection_is_reported(make_study):
    study = make_study()
    (cohort,) = study.cohorts.values()
    schedule = Searches(nested_searches(cohort, study.folds(cohort).folds[:1], SPACE, trials=1, inner_folds=2))
    run = schedule.next()
    write(study, run, "diverged")
    schedule.on_finished(run, study.results.find(run.path, run.describe(cohort.parts)))
    assert schedule.next() is None and schedule.exhausted
    assert schedule.missing == {"TINY survq outer-0-0": "no choice, because no trial ended with a C-index"}
    assert nested_table(schedule.searches, seeds=1).cells["problem"].tolist() == ["0 of 1 outer folds"]


def test_different_environments_of_a_table_are_noted(make_study):
    study = make_study()
    runs = runs_of(study, rates=(1e-3, 2e-3, 3e-3))
    for run, device in zip(runs, ("cpu", "cuda", "cuda"), strict=True):
        write(study, run, device=device, versions={"torch": "2.9"})
    trained = study.train(runs)
    caption = study_table(trained, ["learning_rate"]).caption
    assert caption.endswith("The runs used different environments: device cpu (1 runs), cuda (2 runs).")
    assert "environments" not in study_table(study.train(runs[1:]), ["learning_rate"]).caption


def test_differences_are_paired_by_cohort_and_seed(make_study):
    study = make_study()
    runs = runs_of(study, seeds=2)
    for run in runs:
        write(study, run, "diverged" if run is runs[1] else "finished")  # the reference of seed 1
    records = study.train(runs).finished
    found = differences(records, ["learning_rate"], lambda record: record.training["learning_rate"] == 1e-3)
    (line,) = found.to_dict("records")
    assert (line["cohort"], line["learning_rate"], line["seed"]) == ("TINY", 2e-3, 0)
    assert (line["difference"], line["low"], line["high"]) == (0, 0, 0), "both have the risks of seed 0"


def test_the_oracle_of_other_folds_is_marked(make_study, capsys):
    make_study(folds=None).show_oracle()
    assert capsys.readouterr().out.strip().split()[-1].startswith("0.")
    make_study(folds=3).show_oracle()
    assert "on its published folds, not on these" in capsys.readouterr().out


def test_repeats_make_new_folds(make_study, cohort):
    folds = make_study(repeats=2).folds(cohort).folds
    assert [(fold.repeat, fold.index) for fold in folds] == [(r, i) for r in range(2) for i in range(3)]
    assert {fold.validation for fold in folds[:3]} != {fold.validation for fold in folds[3:]}
    assert cohort.splits is not None
    with pytest.raises(UsageError, match=r"--repeats 2: cohort TINY has published folds.*Fix: add --folds"):
        make_study(repeats=2, folds=None).folds(cohort)


def test_too_few_deaths_for_the_intervals_are_reported_before_training(make_study, cohort):
    study = make_study()
    folds = study.folds(cohort).folds
    at_once = cohort.cases["time"].mask(cohort.cases["event"], 7.0)
    study.cohorts["TINY"] = replace(cohort, cases=cohort.cases.assign(time=at_once))
    with pytest.raises(DataError, match=r"cohort TINY fold 0 of repeat 0: 1 different times of death"):
        study.train([Run("TINY", TrainConfig(), folds)])
    with pytest.raises(DataError, match=r"cohort TINY outer-0-0 fold 0 of repeat 0"):
        nested_searches(study.cohorts["TINY"], folds, SPACE, trials=1, inner_folds=2)


@pytest.mark.parametrize("flag", ["repeats", "epochs", "seeds"])
def test_flags_below_1_are_refused(flag):
    with pytest.raises(UsageError, match=f"--{flag} is 0; expected 1 or more"):
        StudySettings(**{flag: 0})


# comparisons of models


class Both(SurvivalModel):
    needs = frozenset({"histology", "genomics"})


class Genes(SurvivalModel):
    reads = frozenset({"genomics"})


class Patches(SurvivalModel):
    reads = frozenset({"histology"})


@pytest.fixture
def compared(monkeypatch, make_study, cohort, capsys):
    """compared(cohort, models) -> study, the result of one run per model, and the lines printed about its folds."""
    for name, kind in {"both": Both, "genes": Genes, "patches": Patches}.items():
        monkeypatch.setitem(MODELS, name, kind)

    def compared(cohort: Cohort, *models: str):
        study = make_study()
        study.cohorts["TINY"] = cohort
        capsys.readouterr()
        comparison = study.folds(cohort, models)
        printed = capsys.readouterr().out
        runs = [Run("TINY", TrainConfig(model), comparison.folds) for model in models]
        for run in runs:
            if run.model not in comparison.not_applicable:
                write(study, run)
        return study, study.train(runs), printed

    return compared


def without(cohort: Cohort, modality: str, cases) -> Cohort:
    if modality == "slides":
        return replace(cohort, slides=cohort.slides[~cohort.slides["case_id"].isin(cases)])
    return replace(cohort, expression=cohort.expression.drop(index=[c for c in cases if c in cohort.expression.index]))


@pytest.mark.parametrize(
    ("models", "lists"),
    [(("both", "genes"), 2), (("genes", "survq"), 1), (("both", "patches", "genes", "survq"), 2), (("survq",), 0)],
)
def test_compared_models_share_the_cases_that_all_of_them_can_read(compared, cohort, models, lists):
    readable = set(cohort.cases.index)
    if {"both", "patches"} & set(models):
        readable &= set(cohort.cases.index[cohort.has_slides])
    if {"both", "genes"} & set(models):
        readable &= set(cohort.cases.index[cohort.has_expression])
    study, trained, printed = compared(cohort, *models)
    assert printed.count("cases excluded") == lists, "one for each reason"
    for run in trained.runs:
        assert {case for fold in run.folds for case in fold.validation} == readable
    found = differences(trained.finished, ["model"], lambda record: record.model == models[0])
    assert len(found) == len(models) - 1 and not study.missing
    if len(found):
        assert found["model"].tolist() == list(models[1:]) and found["difference"].notna().all()


@pytest.mark.parametrize(
    ("modality", "models", "reason"),
    [("slides", ("both", "genes"), "no slides"), ("genes", ("patches", "genes"), "no expression")],
)
def test_excluded_cases_are_counted_with_the_reason(compared, cohort, modality, models, reason):
    complete = cohort.select(cohort.cases.index[cohort.has_slides & cohort.has_expression])
    one, two = complete.cases.index[:2]
    study, _, printed = compared(without(complete, modality, [one, two]), *models)
    assert printed.splitlines() == [
        f"  TINY: 2 cases excluded ({reason})",
        "  excluded.csv in the folder of results names the excluded cases of TINY",
    ]
    named = pd.read_csv(study.results.folder / "excluded.csv")
    assert named["case_id"].tolist() == [one, two] and set(named["reason"]) == {reason}


def test_a_model_that_is_not_applicable_is_listed_and_does_not_exclude_cases(compared, cohort):
    genes = list(cohort.cases.index[cohort.has_expression])
    slideless = without(cohort, "slides", cohort.cases.index).select(genes)
    study, trained, printed = compared(slideless, "both", "patches", "genes")
    assert printed.splitlines() == [
        "  TINY: both is not applicable: the cohort has no slides",
        "  TINY: patches is not applicable: the cohort has no slides",
    ]
    assert [record.model for record in trained.finished] == ["genes"]
    assert len(trained.finished[0].predictions) == len(genes)
    table = study_table(trained, ["model"])
    assert table.cells["problem"].tolist()[:2] == ["not applicable", "not applicable"]
    assert str(table).count("not applicable") == 2 and not study.missing


def test_a_table_without_an_applicable_model_says_so(compared, cohort):
    genes = list(cohort.cases.index[cohort.has_expression])
    slideless = without(cohort, "slides", cohort.cases.index).select(genes)
    study, trained, _ = compared(slideless, "patches")
    assert trained.finished == [] and not study.missing
    assert "not applicable" in str(study_table(trained, ["model"]))
