"""Whether a search fills a cluster, and what the driver spends on a run: the real schedule and queue, fake durations.

Durations differ threefold between searches, as models and cohorts do, and fourfold within one, as settings do.
"""

from __future__ import annotations

import heapq
import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from survq.evaluation.epochs import Epoch
from survq.training.config import TrainConfig
from survq.training.loop import RunOutcome
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results
from survq.training.run import Run
from survq.tuning.schedule import Searches
from survq.tuning.search import Search, Space, Trial

from .measure import Row, at_most, cpu_seconds
from .work import SIZES, make_run, make_work

MODELS, COHORTS, FOLDS, TRIALS = 14, 5, 5, 32
GPUS = 8  # a node
EPOCHS = [Epoch(1, [1.0], [1.0], [0.5])]


def scheduling(quick: bool) -> list[Row]:
    idle = {nodes: _idle(GPUS * nodes, TRIALS // 2 if quick else TRIALS) for nodes in (1, 8, 64)}
    runs = 200 if quick else 1000
    return [
        at_most(
            *("scheduler_idle", max(idle.values()), 0.1, "of the slots while runs wait"),
            f"{MODELS} models x {COHORTS} cohorts x {FOLDS} outer folds, {TRIALS} trials each; "
            + "; ".join(f"{nodes} nodes of {GPUS} GPUs: {share:.3f}" for nodes, share in idle.items()),
        ),
        at_most(
            *("scheduler_driver", 1000 * _driver_seconds(runs), 20, "ms of the driver's CPU a run"),
            f"{runs:,} runs from the schedule to the records on disk; without Ray, Tune and curves",
        ),
    ]


class _Timed(Search):
    """Settings are not suggested by Optuna, which takes a while and has no influence on what is idle."""

    def _suggest(self, number: int) -> Trial:
        return Trial(number, self.first_config, {}, {})


def _idle(slots: int, trials: int) -> float:
    """The share of the slots' time that passes idle while runs are left that have not started."""
    chance = random.Random(0)
    space = Space(lambda _: TrainConfig(), {}, lambda _: 0.0)
    work = make_work(8, 16, sizes=SIZES[::8])
    (fold,) = work.one_fold()
    searches = [
        _Timed(work.cohort, type(fold)(0, at, fold.training, fold.validation), (fold,), space, trials, 1, 0)
        for at in range(MODELS * COHORTS * FOLDS)
    ]
    slowness = {id(search): 3 ** chance.random() for search in searches}
    schedule = Searches(searches)
    running: list[tuple[float, int, Run]] = []
    now = idle = 0.0
    started, total = 0, schedule.total
    while True:
        while len(running) < slots and (run := schedule.next()) is not None:
            search, role = schedule._running.pop(run.path)
            length = slowness[id(search)] * chance.uniform(0.5, 2.0)
            started += 1
            heapq.heappush(running, (now + length, started, SimpleNamespace(search=search, role=role)))
        if not running:
            return idle / (slots * now)
        before, free = now, slots - len(running)
        now, _, ended = heapq.heappop(running)
        idle += free * (now - before) if started < total else 0.0
        record = SimpleNamespace(state="finished", epochs=EPOCHS)
        if isinstance(ended.role, Trial):
            ended.role.record = record
        else:
            ended.search.refits[ended.role] = record


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
