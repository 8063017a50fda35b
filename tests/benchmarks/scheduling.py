"""Whether a search fills a cluster, and what the driver spends on a run: the real schedule and queue, fake durations.

Durations differ threefold between searches, as models and cohorts do, and fourfold within one, as settings do.
"""

from __future__ import annotations

import heapq
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil

from survq.evaluation.epochs import Epoch
from survq.training.config import TrainConfig
from survq.training.loop import RunOutcome
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results
from survq.training.run import Run
from survq.tuning.schedule import Searches
from survq.tuning.search import Search, Space
from survq.tuning.trial import Trial

from .measure import Row, at_most, cpu_seconds
from .work import SIZES, make_run, make_work

MODELS, COHORTS, FOLDS, TRIALS = 14, 5, 5, 32
GPUS = 8  # a node
EPOCHS = [Epoch(1, [1.0], [1.0], [0.5])]


def scheduling(quick: bool) -> list[Row]:
    searched = {nodes: _simulate(GPUS * nodes, TRIALS // 2 if quick else TRIALS) for nodes in (1, 8, 64)}
    runs = 200 if quick else 1000
    return [
        at_most(
            *("scheduler_idle", max(found.idle for found in searched.values()), 0.1, "of the slots while runs wait"),
            f"{MODELS} models x {COHORTS} cohorts x {FOLDS} outer folds, {TRIALS} trials each; "
            + "; ".join(f"{nodes} nodes of {GPUS} GPUs: {found.idle:.3f}" for nodes, found in searched.items()),
        ),
        at_most(
            *("scheduler_scale", max(found.milliseconds for found in searched.values()), 20, "ms of the driver a run"),
            "what is next and which cohorts are in use, without Optuna; "
            + "; ".join(f"{nodes} nodes: {found}" for nodes, found in searched.items()),
        ),
        at_most(
            *("scheduler_driver", 1000 * _driver_seconds(runs), 20, "ms of the driver's CPU a run"),
            f"{runs:,} runs from the schedule to the records on disk; without Ray, Tune and curves",
        ),
    ]


@dataclass
class Simulated:
    """A nested search on some slots."""

    runs: int
    idle: float  # share of the slots' time that passes while runs are left that have not started
    in_store: float  # cohorts in the object stores at a time, on average
    milliseconds: float  # of the driver's CPU per run
    megabytes: float  # by which the process grew

    def __str__(self) -> str:
        return (
            f"{self.runs:,} runs, {self.in_store:.2f} of {COHORTS} cohorts in the stores, "
            f"{self.milliseconds:.2f} ms and {1000 * self.megabytes / self.runs:.1f} kB a run"
        )


class _Timed(Search):
    """Settings are not suggested by Optuna, which takes a while and has no influence on what is idle."""

    def _suggest(self, number: int) -> Trial:
        return Trial(number, self.first_config, {}, {})


def _simulate(slots: int, trials: int) -> Simulated:
    chance = random.Random(0)
    space = Space(lambda _: TrainConfig(), {}, lambda _: 0.0)
    work = make_work(8, 16, sizes=SIZES[::8])
    (fold,) = work.one_fold()
    cohorts = [replace(work.cohort, name=f"COHORT-{number}") for number in range(COHORTS)]
    searches = [
        _Timed(cohort, type(fold)(0, at, fold.training, fold.validation), (fold,), space, trials, 1, 0)
        for cohort in cohorts
        for at in range(MODELS * FOLDS)
    ]
    slowness = {id(search): 3 ** chance.random() for search in searches}
    before = psutil.Process().memory_info().rss
    schedule = Searches(searches)
    running: list[tuple[float, int, Run]] = []
    now = idle = in_store = 0.0
    started, total, spent = 0, schedule.total, 0.0
    while True:
        start = time.process_time()
        while len(running) < slots and (run := schedule.next()) is not None:
            search, _ = schedule._running[run.path]
            started += 1
            length = slowness[id(search)] * chance.uniform(0.5, 2.0)
            heapq.heappush(running, (now + length, started, run))
        needed = {*schedule.cohorts, *(run.cohort for _, _, run in running)} - _untouched(searches)
        spent += time.process_time() - start
        if not running:
            break
        earlier, free = now, slots - len(running)
        now, _, run = heapq.heappop(running)
        idle += free * (now - earlier) if started < total else 0.0
        in_store += len(needed) * (now - earlier)
        start = time.process_time()
        schedule.on_finished(run, SimpleNamespace(state="finished", epochs=EPOCHS))
        spent += time.process_time() - start
    allocated = psutil.Process().memory_info().rss - before
    return Simulated(started, idle / (slots * now), in_store / now, 1000 * spent / started, allocated / 1e6)


def _untouched(searches: Sequence[Search]) -> set[str]:
    """The cohorts of which no run has started."""
    return {search.cohort.name for search in searches} - {search.cohort.name for search in searches if search.trials}


def _driver_seconds(count: int) -> float:
    """CPU seconds a run, from the schedule to its record on disk."""
    work = make_work(64, 16, sizes=SIZES[::8])
    folds = work.folds(5)
    runs = [make_run(work, folds, epochs=1, histology_queries=100 + number) for number in range(count)]
    cases = work.cohort.cases
    predictions = pd.DataFrame(
        [
            {"case_id": case, "repeat": 0, "fold": fold.index, "interval": 0, "risk": float(number)}
            | cases.loc[case, ["time", "event"]].to_dict()
            for fold in folds
            for number, case in enumerate(fold.validation)
        ]
    )
    epoch = Epoch(1, [1.0] * 5, [1.0] * 5, [0.5] * 5)
    runs[0].describe(work.cohort.parts)  # the code is read once per study

    def study(folder: str) -> None:
        queue = RunQueue(Grid(runs), Results(Path(folder)), {work.cohort.name: work.cohort})
        while (run := queue.take()) is not None:
            queue.end(run, RunOutcome("finished", [epoch], predictions))

    with tempfile.TemporaryDirectory() as folder:
        return cpu_seconds(lambda: study(folder)) / count
