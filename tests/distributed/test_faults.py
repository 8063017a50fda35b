"""Faults of machines under Ray, with real processes; tests/faults/test_fault_table.py says which fault is tested where.

Most take a minute: `pytest -m faults tests/distributed/test_faults.py`.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from test_ray_runs import run_all
from test_studies import ROOT, command, finished

from survq.data.shared_bags import share_bags
from survq.training.loop import train_folds
from survq.training.queue import Grid


@pytest.fixture(scope="module")
def shared(ray_session, cohort):
    return share_bags(cohort)


def kill_children(name: str) -> int:
    """SIGKILL to the Ray processes of this name; returns how many there were."""
    kills = 0
    for process in psutil.Process().children(recursive=True):
        if name in process.name() or name in " ".join(process.cmdline()):
            process.kill()
            kills += 1
    return kills


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


class History:
    """What the drivers of a study said, and what they left behind. A finished run is never lost and never repeated."""

    def __init__(self, study: str, tiny_folder: Path, results: Path):
        self.results = results
        more = ["--trials", "2", "--inner-folds", "2"] if study == "search" else []
        self.arguments = command(study, tiny_folder, results, "--checkpoint-minutes", "0", *more)
        self.seen: dict[str, tuple[int, str]] = {}
        self.kills = 0

    def run(self, until: float = 1e9, *numbers: signal.Signals) -> int:
        """Run the same command, and send the signals after `until` seconds. Returns the exit code."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
        with (self.results / "said").open("w+") as said:
            driver = subprocess.Popen(self.arguments, env=environment, stdout=said, stderr=subprocess.STDOUT)
            for number in numbers:
                try:
                    driver.wait(until)
                except subprocess.TimeoutExpired:
                    driver.send_signal(number)
                    self.kills += number == signal.SIGKILL
                until = 1.0  # the next signal follows soon
            code = driver.wait(400)
            said.seek(0)
            self.check(said.read())
        return code

    def check(self, said: str) -> None:
        now = finished(self.results)
        assert self.seen.items() <= now.items(), "a finished run was lost or trained again"
        acknowledged = max((int(count) for count in re.findall(r"^ +(\d+) of \d+ done", said, re.M)), default=0)
        assert len(now) >= acknowledged, f"{acknowledged} runs were said to be done, {len(now)} are on disk:\n{said}"
        self.seen = now

    def tables(self) -> dict[str, pd.DataFrame]:
        return {file.name: pd.read_csv(file) for file in self.results.glob("*/tables/*.csv")}


def same(ours: dict[str, pd.DataFrame], theirs: dict[str, pd.DataFrame]) -> None:
    assert set(ours) == set(theirs) and ours
    for name, table in theirs.items():
        pd.testing.assert_frame_equal(ours[name], table, check_exact=True, obj=name)


@pytest.fixture(scope="module", params=["query_counts", "search"])
def undisturbed(request, tiny_folder, tmp_path_factory):
    """A study, the tables of an undisturbed run of it, and how long that takes."""
    history, start = History(request.param, tiny_folder, tmp_path_factory.mktemp("undisturbed")), time.monotonic()
    assert history.run() == 0
    return request.param, history.tables(), time.monotonic() - start


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_ten_kills_at_random_moments_change_no_table(undisturbed, tiny_folder, tmp_path):
    study, expected, takes = undisturbed
    chance, kills, studies, history = random.Random(study), 0, 0, None
    while kills < 10 or history is not None:
        if history is None:
            (folder := tmp_path / str(studies)).mkdir()
            history, studies = History(study, tiny_folder, folder), studies + 1
        wanted = [signal.SIGKILL] if kills < 10 else []
        before = history.kills
        code = history.run(chance.uniform(0, takes), *wanted)
        kills += history.kills - before
        if code == 0:
            same(history.tables(), expected)
            assert not list(folder.rglob("*.unfinished")) and not list(folder.glob("*/checkpoints"))
            history = None
    print(f"{study}: {kills} kills, {studies} studies, all with the same tables; undisturbed {takes:.0f} s")


@pytest.mark.faults
@pytest.mark.parametrize(
    "numbers", [(signal.SIGTERM, signal.SIGKILL), (signal.SIGINT, signal.SIGINT), (signal.SIGHUP,)]
)
def test_signals_in_a_row_lose_nothing(undisturbed, tiny_folder, tmp_path, sigint, numbers):
    """A spot instance, an impatient user, a lost connection."""
    study, expected, takes = undisturbed
    if study == "search":
        pytest.skip("one kind of study suffices")
    history = History(study, tiny_folder, tmp_path)
    assert history.run(0.7 * takes, *numbers) in (-signal.SIGKILL, 128 + numbers[0], 0)
    assert history.run() == 0
    same(history.tables(), expected)
