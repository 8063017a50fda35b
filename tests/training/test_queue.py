from dataclasses import replace

import numpy as np
import pytest
from small_cohort import make_cohort, make_run, train

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.training.loop import RunOutcome
from survq.training.queue import Grid, RunQueue, report_of
from survq.training.report import BestEpoch
from survq.training.results import Results


@pytest.fixture(scope="module")
def small():
    return make_cohort()


@pytest.fixture(scope="module")
def finished(small):
    return train(make_run(small[0], epochs=2), *small)


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "study")


class Recorder:
    """A monitor that records its calls."""

    def __init__(self):
        self.events = []

    def on_started(self, path, epochs):
        self.events.append(("started", path))

    def on_pretraining_epoch(self, path, epoch):
        self.events.append(("pretraining", path))

    def on_epoch(self, path, epoch):
        self.events.append(("epoch", path))

    def on_finished(self, path, record, *, found):
        self.events.append(("found" if found else "ended", path))

    def on_failed(self, path, reason):
        self.events.append(("failed", path))

    def notify(self, text):
        self.events.append(("notified", text))


class StopAtTwo(Grid):
    def should_stop(self, run, epochs):
        return len(epochs) == 2


def runs(cohort, count: int = 3):
    run = make_run(cohort, epochs=3)
    return [replace(run, config=replace(run.config, seed=seed)) for seed in range(count)]


def queue(small, results, schedule):
    monitor = Recorder()
    return RunQueue(schedule, results, {small[0].name: small[0]}, [monitor]), monitor


def epoch(number: int) -> Epoch:
    return Epoch(number, [1.0], [1.0], [0.5])


def test_all_runs_are_handed_out_once(small, results, finished):
    todo = runs(small[0])
    work, monitor = queue(small, results, Grid(todo))
    assert work.has_work() and work.has_work()  # repeated calls change nothing
    taken = []
    while (run := work.take()) is not None:
        taken.append(run)
        work.end(run, finished)
    assert taken == todo
    assert work.exhausted
    assert list(work.records) == [run.path for run in todo]
    assert monitor.events == [(what, run.path) for run in todo for what in ("started", "ended")]


def test_a_restarted_study_finds_finished_runs_and_hands_out_the_others(small, results, finished):
    todo = runs(small[0])
    work, _ = queue(small, results, Grid(todo))
    for _ in range(2):
        work.end(work.take(), finished)
    lost = work.take()  # the process dies here

    again, monitor = queue(small, results, Grid(todo))
    assert again.has_work()
    assert again.take() == lost == todo[2]
    assert again.take() is None
    assert monitor.events == [("found", todo[0].path), ("found", todo[1].path), ("started", todo[2].path)]
    again.end(lost, finished)

    done, monitor = queue(small, results, Grid(todo))
    assert not done.has_work()
    assert {record.folder for record in done.records.values()} == {record.folder for record in results.records()}
    assert {run.path for run in todo} == set(done.records)


def test_a_run_on_changed_data_is_trained_again(small, results, finished):
    cohort, _ = small
    (run,) = runs(cohort, 1)
    work, _ = queue(small, results, Grid([run]))
    work.end(work.take(), finished)
    changed = replace(cohort, cases=cohort.cases.assign(time=cohort.cases["time"] + 1))
    again, monitor = queue((changed, None), results, Grid([run]))
    assert again.take() == run
    assert monitor.events[0][0] == "notified" and "was trained with different cases;" in monitor.events[0][1]


def test_a_failed_run_has_no_record_and_is_retried_by_the_next_study(small, results, finished):
    first, second = todo = runs(small[0], 2)
    work, monitor = queue(small, results, Grid(todo))
    work.end(work.take(), RunOutcome("failed", [], details={"reason": "no memory"}))
    work.end(work.take(), finished)
    assert work.failures == {first.path: "no memory"}
    assert list(work.records) == [second.path]
    assert ("failed", first.path) in monitor.events

    again, _ = queue(small, results, Grid(todo))
    assert again.take() == first


def test_a_schedule_may_stop_a_run(small, results):
    (run,) = runs(small[0], 1)
    work, monitor = queue(small, results, StopAtTwo([run]))
    work.take()
    assert not work.epoch(run, epoch(1))
    assert work.epoch(run, epoch(2))
    record = work.records[run.path]
    assert record.state == "stopped"
    assert record.predictions is None
    assert [entry.epoch for entry in record.epochs] == [1, 2]
    assert monitor.events[-1] == ("ended", run.path)
    again, _ = queue(small, results, StopAtTwo([run]))
    assert not again.has_work()


def test_no_run_is_stopped_after_its_last_epoch(small, results):
    run = replace(runs(small[0], 1)[0])
    run = replace(run, config=replace(run.config, epochs=2))
    work, _ = queue(small, results, StopAtTwo([run]))
    work.take()
    assert not work.epoch(run, epoch(1))
    assert not work.epoch(run, epoch(2))
    assert not work.records


def test_a_retried_run_reports_its_epochs_again(small, results):
    (run,) = runs(small[0], 1)
    work, _ = queue(small, results, StopAtTwo([run]))
    work.take()
    assert not work.epoch(run, epoch(1))
    assert not work.epoch(run, epoch(1))  # its process died
    assert work.epoch(run, epoch(2))
    assert [entry.epoch for entry in work.records[run.path].epochs] == [1, 2]


def test_a_diverged_run_has_a_record(small, results):
    (run,) = runs(small[0], 1)
    work, _ = queue(small, results, Grid([run]))
    work.end(work.take(), RunOutcome("diverged", [epoch(1)], details={"reason": "the loss became nan"}))
    assert work.records[run.path].state == "diverged"
    assert not work.failures
    again, _ = queue(small, results, Grid([run]))
    assert not again.has_work()


def test_pretraining_is_recorded_and_not_counted_as_an_epoch(small, results, finished):
    (run,) = runs(small[0], 1)
    work, monitor = queue(small, results, Grid([run]))
    work.take()
    for number in (1, 1, 2):  # its process died once
        work.pretraining(run, PretrainingEpoch(number, {"contrast": [0.5, 0.25, 0.125]}))
    pretraining = [PretrainingEpoch(number, {"contrast": [0.5, 0.25, 0.125]}) for number in (1, 2)]
    work.end(run, replace(finished, pretraining=pretraining))
    record = work.records[run.path]
    assert record.report.pretraining == tuple(
        PretrainingEpoch(number, {"contrast": (0.5, 0.25, 0.125)}) for number in (1, 2)
    )
    assert len(record.epochs) == 2
    assert [what for what, _ in monitor.events] == ["started", *3 * ["pretraining"], "ended"]


def test_weights_are_written_and_released(small, results, finished):
    (run,) = runs(small[0], 1)
    work, _ = queue(small, results, Grid([run]))
    outcome = replace(finished, files={"fold-0-0.safetensors": b"weights"})
    work.end(work.take(), outcome)
    assert work.records[run.path].read("fold-0-0.safetensors") == b"weights"
    assert outcome.files == {}


def test_a_run_without_the_requested_weights_is_trained_again(small, results, finished):
    (run,) = runs(small[0], 1)
    work, _ = queue(small, results, Grid([run]))
    work.end(work.take(), finished)
    wanted = replace(run, keep_weights=True)
    again, monitor = queue(small, results, Grid([wanted]))
    assert again.take() == wanted
    assert "has no 'fold-0-0.safetensors', 'fold-0-1.safetensors'" in monitor.events[0][1]
    again.end(wanted, replace(finished, files={name: b"weights" for name in wanted.weights_files}))
    for same in (run, wanted):
        found, _ = queue(small, results, Grid([same]))
        assert not found.has_work()


def test_a_grid_counts_its_remaining_epochs(small):
    short, long = runs(small[0], 2)
    long = replace(long, config=replace(long.config, epochs=50))
    grid = Grid([short, long])
    assert grid.remaining_epochs == 53
    grid.next()
    assert grid.remaining_epochs == 50


def test_a_report_has_the_last_epoch_and_labels_the_best_one_as_optimistic(finished):
    content = report_of(finished)
    last, best = finished.epochs[-1], max(finished.epochs, key=lambda e: e.mean_c_index)
    assert content.c_index.mean == pytest.approx(last.mean_c_index, abs=1e-12)
    assert content.c_index.deviation == pytest.approx(np.std(last.c_index), abs=1e-12)
    assert [fold.c_index for fold in content.c_index.folds] == pytest.approx(list(last.c_index))
    assert content.optimistic_best_epoch == BestEpoch(best.epoch, best.mean_c_index)
    assert len(content.epochs) == 2
    assert len(content.weights_sha256) == 3
    assert {"survq", "torch", "lifelines", "python"} == set(content.versions)


def test_the_best_epoch_has_a_c_index(finished):
    nan = float("nan")
    epochs = [Epoch(1, [1.0], [1.0], [nan]), Epoch(2, [1.0], [1.0], [0.4]), Epoch(3, [1.0], [1.0], [nan])]
    assert report_of(replace(finished, epochs=epochs)).optimistic_best_epoch == BestEpoch(2, 0.4)
    assert report_of(replace(finished, epochs=epochs[:1])).optimistic_best_epoch.epoch == 1
