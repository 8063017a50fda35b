"""Nested search: its choices depend neither on the outer fold nor on the machine."""

import json
import random
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.evaluation.epochs import Epoch
from survq.models import MODELS
from survq.reporting.search_figure import search_figure
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.queue import RunQueue
from survq.training.record import Record
from survq.training.report import Report
from survq.training.results import Results
from survq.tuning.findings import agreement, best_so_far, chosen_minus_default, importance, verdict
from survq.tuning.outcomes import outer_predictions, outer_table, trials_table, write_optuna_view
from survq.tuning.schedule import Searches
from survq.tuning.search import GENERATION, STARTUP, Space, nested_searches, sweep
from survq.tuning.spaces import suggest

EPOCHS, TRIALS = 4, 6


def configure(trial) -> TrainConfig:
    counts = {name: trial.suggest_int(name, 2, 8, log=True) for name in ("histology_queries", "genomic_queries")}
    learning_rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    return TrainConfig(hyperparameters=counts | {"width": 8}, epochs=EPOCHS, learning_rate=learning_rate)


SPACE = Space(
    configure,
    first={"histology_queries": 8, "genomic_queries": 8, "learning_rate": 2e-3},
    complexity=lambda config: config.hyperparameters["histology_queries"] + config.hyperparameters["genomic_queries"],
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("search")
    write_simulated(root, "demo", cases=70, name="TINY")
    return Cohort.load(root, "TINY")


@pytest.fixture(scope="module")
def bags(cohort) -> dict:
    return cohort.bags()


def make_queue(cohort, folder, outer=None, seeds=1, **options) -> RunQueue:
    outer = outer or make_folds(cohort.cases, 3)
    search = Searches(nested_searches(cohort, outer, SPACE, trials=TRIALS, inner_folds=2, seeds=seeds, **options))
    return RunQueue(search, Results(folder), {cohort.name: cohort})


@pytest.fixture(scope="module")
def undisturbed(cohort, bags, tmp_path_factory):
    """The searches of an uninterrupted study, and its folder."""
    from survq.training.loop import train_folds

    folder = tmp_path_factory.mktemp("undisturbed")
    queue = make_queue(cohort, folder, beside_default=True)
    work(queue, bags, lambda waiting: waiting[0], train_folds)
    return queue.schedule.searches, folder


def work(queue, bags, choose, train_folds, at_once=1, until=None) -> None:
    """Train the runs of the queue like `at_once` workers; `choose` picks the run that ends next."""
    waiting, ended = [], 0
    while True:
        while len(waiting) < at_once and (run := queue.take()) is not None:
            waiting.append(run)
        if not waiting or (until is not None and ended >= until):
            return
        run = choose(waiting)
        waiting.remove(run)
        outcome = train_folds(run, queue.cohorts[run.cohort], bags)
        for epoch in outcome.epochs:
            if queue.epoch(run, epoch):
                break
        else:
            queue.end(run, outcome)
        ended += 1


def test_every_outer_fold_evaluates_the_choice_of_its_training_cases_once(cohort, undisturbed):
    searches, _ = undisturbed
    assert len(searches) == 3
    for search in searches:
        inside = set(search.outer.training)
        for fold in search.inner:
            assert set(fold.training) | set(fold.validation) == inside
        assert search.exhausted and search.chosen.state == "finished"
        (record,) = search.refits.values()
        assert set(record.predictions["case_id"]) == set(search.outer.validation)
        assert len(record.epochs) == search.chosen.best.epoch
    predictions = outer_predictions(searches)
    assert sorted(predictions["case_id"]) == sorted(cohort.cases.index)
    assert trials_table(searches).groupby("search")["chosen"].sum().tolist() == [1, 1, 1]


def test_a_suggestion_depends_on_ended_trials_of_earlier_generations_alone(cohort, tmp_path):
    """And not on what was asked before: with trials of all states, 8 of them beyond the random ones."""
    folds = tuple(make_folds(cohort.cases, 2))
    search, states = sweep(cohort, folds, SPACE, trials=STARTUP + 8), ("finished", "finished", "stopped", "diverged")
    while (part := search.next()) is not None:
        _, trial = part
        loss = abs(np.log(trial.config.learning_rate / 2e-3))
        epochs = tuple(Epoch(n, (loss,) * 2, (loss / n,) * 2, (1 / (1 + loss),) * 2) for n in (1, 2))
        search.ended(trial, Record(tmp_path, {}, Report(states[trial.number % 4], epochs), None))
    assert len(search.trials) == STARTUP + 8
    for trial in search.trials:
        fresh = sweep(cohort, folds, SPACE, trials=STARTUP + 8)
        fresh.trials = search.trials[: trial.number]
        _, again = fresh.next()
        assert again.params == trial.params and again.distributions == trial.distributions, trial.number


def test_the_default_setting_is_evaluated_on_the_same_outer_folds(undisturbed):
    searches, _ = undisturbed
    for search in searches:
        (record,) = search.defaults.values()
        assert record.group == f"{search.name}/default" and len(record.epochs) == EPOCHS
        assert record.hyperparameters["histology_queries"] == 8 and record.training["learning_rate"] == 2e-3
        assert set(record.predictions["case_id"]) == set(search.outer.validation)
    c_index = np.mean([[r.refits[0].c_index, r.defaults[0].c_index] for r in searches], axis=0)
    (row,) = chosen_minus_default(searches, seeds=1).itertuples()
    assert row.difference == pytest.approx(c_index[0] - c_index[1]) and row.low <= row.difference <= row.high
    assert chosen_minus_default(searches, seeds=2)["seed"].tolist() == [0], "the second seed is missing"


def test_what_the_searches_found(undisturbed, tmp_path):
    searches, _ = undisturbed
    best, found = best_so_far(searches), importance(searches)
    for search, own in best.groupby("search"):
        assert len(own) == TRIALS and own["c_index"].is_monotonic_increasing
        inner = next(one for one in searches if one.name == search)
        assert own["c_index"].max() == inner.best.best.mean_c_index
    assert found.groupby("search")["importance"].sum().tolist() == pytest.approx([1] * found["search"].nunique())
    assert set(found["setting"]) == set(SPACE.first)
    search_figure(best, found, "TINY").savefig(tmp_path / "figure.png")
    search_figure(best, found[:0], "TINY").savefig(tmp_path / "empty.png")
    text = agreement(searches)
    numbers = [search.chosen.number for search in searches]
    assert text.startswith(f"{numbers.count(0)} of 3 outer searches chose the default setting; ")
    assert all(name in text for name in SPACE.first)


def test_whether_choosing_helped_is_said():
    assert verdict(0.02, 0.01, 0.03).endswith("+0.020 [+0.010, +0.030]: choosing helped")
    assert verdict(0.02, -0.01, 0.03).endswith("no difference beyond chance")
    assert verdict(-0.02, -0.03, 0.01).endswith("made it worse, though not beyond chance")
    assert verdict(-0.02, -0.03, -0.01).endswith("made it worse")


def test_the_first_trial_is_the_known_setting_and_some_trials_stop_early(undisturbed):
    searches, _ = undisturbed
    for search in searches:
        assert search.trials[0].params == dict(SPACE.first)
        assert all(trial.state == "finished" for trial in search.trials[:GENERATION])
    assert "stopped" in set(trials_table(searches)["state"])


def test_the_choice_is_the_simplest_within_one_standard_error(undisturbed):
    for search in undisturbed[0]:
        finished = [trial for trial in search.trials if trial.state == "finished"]
        best = max(finished, key=lambda trial: trial.best.mean_c_index)
        error = np.std(best.best.c_index, ddof=1) / np.sqrt(len(best.best.c_index))
        good = [trial for trial in finished if trial.best.mean_c_index >= best.best.mean_c_index - error]
        assert search.chosen in good
        assert SPACE.complexity(search.chosen.config) == min(SPACE.complexity(trial.config) for trial in good)


@pytest.mark.parametrize("seed", range(3))
def test_the_result_does_not_depend_on_order_parallelism_and_kills(seed, cohort, bags, undisturbed, tmp_path):
    from survq.training.loop import train_folds

    chance = random.Random(seed)
    at_once = 1 + seed
    for _ in range(20):  # dropping a queue is like killing a driver
        queue = make_queue(cohort, tmp_path)
        work(queue, bags, chance.choice, train_folds, at_once, until=chance.randint(1, 9))
        if queue.exhausted and not any(None in search.refits.values() for search in queue.schedule.searches):
            break
    assert queue.exhausted
    pd.testing.assert_frame_equal(outer_table(queue.schedule.searches), outer_table(undisturbed[0]))
    pd.testing.assert_frame_equal(trials_table(queue.schedule.searches), trials_table(undisturbed[0]))


def test_choices_do_not_depend_on_held_out_labels_expression_and_features(
    cohort, bags, undisturbed, tmp_path, run_here
):
    """Nesting: with other data of the outer fold's cases, choices and weights are the same to the bit."""
    outer = make_folds(cohort.cases, 3)[0]
    held_out = list(outer.validation)
    chance = np.random.default_rng(1)
    cases, expression = cohort.cases.copy(), cohort.expression.copy()
    cases.loc[held_out, "time"] = chance.exponential(100, len(held_out)) + 0.1
    cases.loc[held_out, "event"] = ~cases.loc[held_out, "event"]
    in_both = [case for case in held_out if case in expression.index]
    expression.loc[in_both] = chance.normal(50, 20, (len(in_both), expression.shape[1])).astype(np.float32)
    other_bags = {c: torch.randn_like(bag.float()).half() * 9 if c in held_out else bag for c, bag in bags.items()}

    changed = replace(cohort, cases=cases, expression=expression)
    assert changed.parts != cohort.parts
    queue = make_queue(changed, tmp_path, [outer])
    run_here(queue, {cohort.name: other_bags})

    before, (after,) = undisturbed[0][0], queue.schedule.searches
    assert [trial.params for trial in after.trials] == [trial.params for trial in before.trials]
    assert [trial.state for trial in after.trials] == [trial.state for trial in before.trials]
    assert after.chosen.number == before.chosen.number and after.chosen.best.epoch == before.chosen.best.epoch
    (ours,), (theirs,) = after.refits.values(), before.refits.values()
    assert ours.report.weights_sha256 == theirs.report.weights_sha256
    assert ours.report.interval_edges == theirs.report.interval_edges
    for a, b in zip(after.trials, before.trials, strict=True):
        assert a.record.report.weights_sha256 == b.record.report.weights_sha256
    assert not ours.predictions["risk"].equals(theirs.predictions["risk"]), "the change did not reach the outer fold"


def test_weights_depend_on_training_labels(cohort, bags, undisturbed, tmp_path, run_here):
    """Shows that the test above can fail."""
    outer = make_folds(cohort.cases, 3)[0]
    cases = cohort.cases.copy()
    cases.loc[list(outer.training), "time"] = cases.loc[list(outer.training), "time"].to_numpy()[::-1]
    queue = make_queue(replace(cohort, cases=cases), tmp_path, [outer])
    run_here(queue, {cohort.name: bags})
    ours, theirs = queue.schedule.searches[0].refits[0], undisturbed[0][0].refits[0]
    assert ours.report.weights_sha256 != theirs.report.weights_sha256


def test_a_search_with_a_failed_run_is_abandoned_and_the_others_finish(cohort, bags, tmp_path):
    from survq.training.loop import RunOutcome, train_folds

    queue = make_queue(cohort, tmp_path)
    while (run := queue.take()) is not None:
        if run.group.startswith("outer-0-1"):
            queue.end(run, RunOutcome("failed", [], details={"reason": "no memory"}))
        else:
            queue.end(run, train_folds(replace(run, config=replace(run.config, epochs=1)), cohort, bags))
    assert queue.exhausted
    assert len(queue.failures) == 1
    assert outer_table(queue.schedule.searches)["fold"].tolist() == [0, 2]


def test_the_dashboard_file_has_all_trials(undisturbed, tmp_path):
    import optuna

    write_optuna_view(undisturbed[0], tmp_path / "optuna.db")
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert len(optuna.get_all_study_names(storage)) == 3
    study = optuna.load_study(study_name="TINY, outer-0-0", storage=storage)
    states = {trial.number: trial.state.name for trial in study.trials}
    assert len(states) == TRIALS and states[0] == "COMPLETE"
    assert json.dumps(study.best_params)


def test_a_sweep_selects_and_reports_on_the_same_folds(cohort, bags, tmp_path, run_here):
    folds = make_folds(cohort.cases, 3)
    search = sweep(cohort, folds, SPACE, trials=5)
    queue = RunQueue(Searches([search]), Results(tmp_path), {cohort.name: cohort})
    run_here(queue, {cohort.name: bags})
    assert queue.exhausted and len(queue.records) == 5 and not search.refits
    assert all(trial.record.config["folds"]["count"] == 3 for trial in search.trials)
    assert outer_table([search]).empty


def test_every_search_space_has_existing_hyperparameters():
    for name, model in MODELS.items():
        assert set(model.space) <= set(hyperparameters_of(name)), name
        for suggested in (0, 1):
            study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=suggested))
            trial = study.ask()
            TrainConfig(name, {key: suggest(trial, key, values) for key, values in model.space.items()})
