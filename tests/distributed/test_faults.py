"""Faults of machines under Ray, with real processes; tests/faults/test_fault_table.py says which fault is tested where.

Each takes a minute or more: `pytest -m faults tests/distributed/test_faults.py`.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from history import History, check_same
from study_commands import command
from test_ray_runs import run_all

from survq.training.loop import train_folds
from survq.training.queue import Grid
from survq.training.shared_cohorts import SharedCohorts


@pytest.fixture(scope="module")
def shared(ray_session, cohort):
    return SharedCohorts({cohort.name: cohort})


def children(name: str) -> list[psutil.Process]:
    """The Ray processes of this name."""
    processes = psutil.Process().children(recursive=True)
    return [process for process in processes if name in process.name() or name in " ".join(process.cmdline())]


def kill_children(name: str) -> int:
    """SIGKILL to the Ray processes of this name; returns how many there were."""
    killed = children(name)
    for process in killed:
        process.kill()
    return len(killed)


@pytest.mark.faults
def test_a_run_with_a_killed_train_worker_ends_with_the_same_bits(tmp_path, cohort, bags, shared, make_run):
    """In the second epoch, after a checkpoint of the first: at most two epochs are trained again."""

    class Kills(Grid):
        kills, reported = 0, 0

        def should_stop(self, run, epochs):
            self.reported += 1
            if len(epochs) == 1 and not self.kills:
                self.kills = kill_children("TrainWorker")
            return False

    run = make_run(folds=2, epochs=3)
    schedule = Kills([run])
    queue = run_all(schedule, tmp_path, cohort, shared, workers_per_trial=2, checkpoint_minutes=0)
    record, here = queue.records[run.path], train_folds(run, cohort, bags)
    assert schedule.kills, "no worker was killed: the test shows nothing"
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.faults
def test_a_run_with_a_hanging_train_worker_ends_with_the_same_bits(tmp_path, cohort, bags, shared, make_run):
    """After the first epoch one of two workers stands still, and the other waits for it."""

    class Hangs(Grid):
        hanging: psutil.Process | None = None

        def should_stop(self, run, epochs):
            if self.hanging is None:
                self.hanging = children("TrainWorker")[0]
                self.hanging.suspend()
            return False

    run = make_run(folds=2, epochs=3)
    schedule = Hangs([run])
    queue = run_all(schedule, tmp_path, cohort, shared, workers_per_trial=2, checkpoint_minutes=0)
    record, here = queue.records[run.path], train_folds(run, cohort, bags)
    assert schedule.hanging is not None and not schedule.hanging.is_running(), "it was not stopped, or not replaced"
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3]
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.faults
def test_a_run_whose_process_always_dies_fails_and_the_others_finish(tmp_path, cohort, shared, make_run):
    """As with too little memory: the kernel kills the process each time."""

    class Kills(Grid):
        def should_stop(self, run, epochs):
            if run.config.seed == 7:
                kill_children("ImplicitFunc")
            return False

    doomed, other = make_run(seed=7, epochs=9), make_run()
    queue = run_all(Kills([doomed, other]), tmp_path, cohort, shared)
    assert "died" in queue.failures[doomed.path].lower()
    assert list(queue.records) == [other.path]


# drivers that are killed


def history_of(study: str, tiny_folder: Path, results: Path) -> History:
    more = ["--trials", "2", "--inner-folds", "2"] if study == "search" else []
    return History(command(study, tiny_folder, results, "--checkpoint-minutes", "0", *more), results)


@pytest.fixture(scope="module", params=["query_counts", "search"])
def undisturbed(request, tiny_folder, tmp_path_factory):
    """A study, the tables of an undisturbed run of it, and how long that takes."""
    history, start = history_of(request.param, tiny_folder, tmp_path_factory.mktemp("undisturbed")), time.monotonic()
    assert history.run() == 0
    return request.param, history.tables(), time.monotonic() - start


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_study_killed_at_ten_random_moments_has_the_same_tables(undisturbed, tiny_folder, tmp_path):
    study, expected, takes = undisturbed
    history, chance = history_of(study, tiny_folder, tmp_path), random.Random(study)
    while history.kills < 10 and history.run(chance.uniform(0, takes / 3), signal.SIGKILL) != 0:
        pass
    assert history.kills == 10 or history.seen
    assert history.run() == 0
    check_same(history.tables(), expected)
    assert not list(tmp_path.rglob("*.unfinished")) and not list(tmp_path.glob("*/checkpoints"))


@pytest.mark.faults
@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGKILL), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP,)]
)
def test_signals_in_a_row_lose_nothing(undisturbed, tiny_folder, tmp_path, sigint, numbers):
    """A spot instance, an impatient user, a lost connection."""
    study, expected, takes = undisturbed
    if study == "search":
        pytest.skip("one kind of study suffices")
    history = history_of(study, tiny_folder, tmp_path)
    assert history.run(0.7 * takes, *numbers) in (-signal.SIGKILL, 128 + numbers[0], 0)
    assert history.run() == 0
    check_same(history.tables(), expected)
