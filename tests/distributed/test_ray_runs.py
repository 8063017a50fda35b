"""Runs under Tune and on Ray Train workers equal runs in one process."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from survq.exits import UsageError
from survq.ray_session import ray
from survq.reporting.run_progress import Progress
from survq.settings import StudySettings
from survq.training.comparison import common_folds
from survq.training.loop import train_folds
from survq.training.queue import Grid, RunQueue
from survq.training.ray_runs import TrialResources, _Searcher, _train, execute
from survq.training.results import Results
from survq.training.shared_cohorts import SharedCohorts

NO_DROPOUT = {"patch_dropout": 0.0, "pathway_dropout": 0.0}


@pytest.fixture(scope="module")
def shared(ray_session, cohort):
    return SharedCohorts({cohort.name: cohort})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run_all(schedule, folder: Path, cohort, shared, **settings) -> RunQueue:
    queue = RunQueue(schedule, Results(folder), {cohort.name: cohort})
    asked = StudySettings(**settings)
    minutes = asked.checkpoint_minutes
    execute(queue, shared, TrialResources.of(asked), checkpoint_minutes=minutes)
    if queue.failures:
        print("free after failures:", ray.available_resources(), "\nheld:", *held_resources(), sep="\n")
    return queue


def held_resources() -> list[str]:
    """Which actors and tasks hold CPUs, as Ray's own log says."""
    log = Path("/tmp/ray/session_latest/logs/debug_state.txt")
    return [line for line in log.read_text().splitlines() if "language=PYTHON" in line] if log.exists() else []


def test_trials_under_tune_equal_runs_in_this_process(tmp_path, cohort, bags, shared, make_run):
    runs = [make_run(), make_run(histology_queries=8), make_run(seed=1)]
    queue = run_all(Grid(runs), tmp_path, cohort, shared)
    assert set(queue.records) == {run.path for run in runs}
    for run in runs:
        here = train_folds(run, cohort, bags)
        record = queue.records[run.path]
        assert list(record.report.weights_sha256) == here.details["weights_sha256"]
        assert np.array_equal(record.predictions["risk"], here.predictions["risk"])
        assert [epoch.epoch for epoch in record.epochs] == [1, 2]


@pytest.mark.parametrize(("trial", "device"), [({"CPU": 1}, "cpu"), ({"CPU": 8, "GPU": 0.5}, "cuda")])
def test_a_trial_uses_a_gpu_only_if_one_is_assigned_to_it(cohort, bags, make_run, monkeypatch, trial, device):
    """On a machine with a GPU, which Ray makes visible to every trial."""
    used = []
    monkeypatch.setattr("survq.training.ray_runs.best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr("survq.training.ray_runs.train_folds", lambda *_, device, **_options: used.append(device))
    monkeypatch.setattr("survq.training.ray_runs.tune.report", lambda message: None)
    run = make_run()
    _train(run, cohort, {run.cohort: bags}, TrialResources(1, trial, threads=1), checkpoints=None)
    assert used == [torch.device(device)]


@pytest.mark.parametrize(("gpu", "trials"), [(0.6, 2), (0.4, 4), (0.5, 4), (0.1, 20), (1.0, 2), (2.0, 1)])
def test_a_trial_never_uses_fractions_of_several_gpus(monkeypatch, gpu, trials):
    monkeypatch.setattr("survq.training.ray_runs.session_resources", lambda: (1, 16, 2))
    assert TrialResources.of(StudySettings(gpus_per_trial=gpu)).trials == trials


def test_a_run_abandoned_by_tune_has_failed(tmp_path, cohort, shared, make_run):
    queue = RunQueue(Grid([make_run()]), Results(tmp_path), {cohort.name: cohort})
    searcher = _Searcher(queue, shared, {})
    searcher.suggest("a trial")
    assert not queue.done
    searcher.on_trial_complete("a trial", error=True)
    assert queue.done and list(queue.failures) == [make_run().path]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_interrupts_a_study_instead_of_finishing_it(tmp_path, cohort, shared, make_run, sigint, number):
    class Interrupted(Grid):
        def should_stop(self, run, epochs):
            signal.raise_signal(number)
            return False

    with pytest.raises(KeyboardInterrupt):
        run_all(Interrupted([make_run(), make_run(seed=1)]), tmp_path, cohort, shared)


def test_a_write_error_ends_the_study_with_its_own_exception(tmp_path, cohort, shared, make_run):
    class Obstructs(Grid):
        def should_stop(self, run, epochs):
            (tmp_path / "runs").touch()
            return False

    with pytest.raises(OSError):
        run_all(Obstructs([make_run()]), tmp_path, cohort, shared)


def test_a_finished_run_is_not_trained_again(tmp_path, cohort, shared, make_run):
    run_all(Grid([make_run()]), tmp_path, cohort, shared)
    queue = RunQueue(Grid([make_run(), make_run(seed=1)]), Results(tmp_path), {cohort.name: cohort})
    assert queue.has_work()
    assert list(queue.records) == [make_run().path]
    assert queue.take().config.seed == 1


def test_a_failing_run_is_reported_and_the_others_finish(tmp_path, cohort, shared, make_run):
    broken = make_run(width=18, block="residual")  # four heads do not divide 18
    queue = run_all(Grid([broken, make_run()]), tmp_path, cohort, shared)
    assert "do not divide a width of 18" in queue.failures[broken.path]
    assert list(queue.records) == [make_run().path]
    assert not (tmp_path / "runs" / broken.path).exists()


def test_a_trial_with_a_killed_process_is_retried_and_ends_with_the_same_bits(
    tmp_path, cohort, bags, shared, make_run, capfd
):
    """And a sentence says so, in place of a traceback."""

    class Kills(Grid):
        kills = 0

        def should_stop(self, run, epochs):
            if not self.kills:
                children = psutil.Process().children(recursive=True)
                for process in children:
                    if "ImplicitFunc" in process.name() or "ImplicitFunc" in " ".join(process.cmdline()):
                        process.kill()
                        self.kills += 1
            return False

    run = make_run(epochs=3)
    schedule = Kills([run])
    queue = RunQueue(schedule, Results(tmp_path), {cohort.name: cohort}, [Progress(schedule)])
    execute(queue, shared, TrialResources.of(StudySettings()))
    record = queue.records[run.path]
    printed = capfd.readouterr()
    assert f"{run.path}: its process or machine was lost; it is started again" in printed.out
    assert "Traceback" not in printed.out + printed.err
    assert schedule.kills
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    assert list(record.report.weights_sha256) == train_folds(run, cohort, bags).details["weights_sha256"]


def test_folds_on_several_workers_end_with_the_same_bits(tmp_path, cohort, bags, shared, make_run, listening):
    """And workers listen on the loopback interface only."""
    open_to = set()

    class Looks(Grid):
        def should_stop(self, run, epochs):
            open_to.update(listening())
            return False

    run = make_run(folds=3)
    record = run_all(Looks([run]), tmp_path, cohort, shared, workers_per_trial=2).records[run.path]
    here = train_folds(run, cohort, bags)
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert np.array_equal(record.predictions["risk"], here.predictions["risk"])
    assert any("TrainWorker" in name for name, _ in open_to), open_to
    assert {ip for _, ip in open_to} <= {"127.0.0.1", "::1"}, open_to


def test_a_fold_on_several_workers_ends_with_the_same_c_index(tmp_path, cohort, bags, shared, make_run):
    # without dropout, because its masks depend on the division of a batch
    run = make_run(folds=2, epochs=3, **NO_DROPOUT)
    record = run_all(Grid([run]), tmp_path, cohort, shared, workers_per_trial=4).records[run.path]
    here = train_folds(run, cohort, bags)
    assert np.allclose(record.predictions["risk"], here.predictions["risk"], atol=1e-4)
    ours = [fold.c_index for fold in record.report.c_index.folds]
    assert np.allclose(ours, here.epochs[-1].c_index, atol=1e-3)
    losses = [epoch.training_loss for epoch in record.epochs]
    assert np.allclose(losses, [epoch.training_loss for epoch in here.epochs], atol=1e-4)


@pytest.mark.slow
def test_resources_of_workers_are_released_when_a_trial_is_stopped(tmp_path, cohort, shared, make_run):
    class StopsEarly(Grid):
        def should_stop(self, run, epochs):
            return run.config.seed == 0 and len(epochs) >= 2

    runs = [make_run(folds=2, epochs=6, seed=seed) for seed in range(2)]
    queue = run_all(
        StopsEarly(runs), tmp_path, cohort, shared, workers_per_trial=4
    )  # enough resources for one trial at a time
    assert [queue.records[run.path].state for run in runs] == ["stopped", "finished"]


def test_too_many_workers_are_refused(tmp_path, cohort, shared, make_run):
    with pytest.raises(UsageError, match="the resources suffice for 6"):
        run_all(Grid([make_run()]), tmp_path, cohort, shared, workers_per_trial=7)


def test_workers_that_do_not_divide_the_folds_are_reported(tmp_path, cohort, shared, make_run):
    queue = run_all(Grid([make_run(folds=3)]), tmp_path, cohort, shared, workers_per_trial=4)
    (reason,) = queue.failures.values()
    assert "cannot be distributed over 3 folds" in reason


@pytest.mark.slow
def test_buffers_are_equal_in_all_workers_of_a_fold(tmp_path, cohort, shared, make_run):
    """Each worker sees its own part of a batch. A run ends only if the buffers of all workers of a fold are equal."""
    run = make_run(folds=2)
    folds = common_folds(cohort, run.folds, ["ccl"]).folds
    run = replace(run, config=replace(run.config, model="ccl", hyperparameters={"width": 16}), folds=folds)
    record = run_all(Grid([run]), tmp_path, cohort, shared, workers_per_trial=4).records[run.path]
    assert record.state == "finished" and record.report.parts == 2
    assert len(set(record.report.weights_sha256)) == 2
