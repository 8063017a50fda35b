"""What Ray, Tune, reports and records cost beside the training they serve, and what starting a trial costs.

Two runs under Tune, one after the other: a short one, which pays for the start of everything, and one of at least a
minute of CPU time. The second is watched from the end of the first to its own end. What the session's processes spend,
save for the one thread that trains, is the machinery; so no second measurement at another time is needed, which on a
shared machine would differ by more than the bar.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch

from survq.data.cohort import Cohort
from survq.data.write import Slide, write_cohort
from survq.reporting.tensorboard import Board
from survq.settings import StudySettings
from survq.training.loop import train_folds
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results

from .measure import Row, at_most, in_a_fresh_process
from .work import CPU, SIZES, Work, make_bags, make_cases, make_expression, make_pathways, make_run

CASES, PATCHES, MINUTE = 16, 500, 60.0


def machinery(quick: bool) -> list[Row]:
    found = in_a_fresh_process("machinery", 10 if quick else MINUTE)
    first, second = found["first_start"], found["second_start"]
    return [
        at_most(
            *("machinery_cpu", found["machinery"] / found["training"], 0.05, "of the training's CPU"),
            f"{found['machinery']:.1f} s beside {found['training']:.1f} s of training, in {found['wall']:.0f} s; "
            f"the same as a bare loop, at another time, {found['bare']:.1f} s; by process: {found['by_process']}",
        ),
        at_most(
            *("machinery_second_start", second / first, 0.1, "of the first start's CPU"),
            f"{second:.2f} s after {first:.1f} s; by the clock {found['second_start_wall']:.1f} s "
            f"after {found['first_start_wall']:.1f} s, a trial's first epoch left out",
        ),
    ]


class Watch:
    """Notes what every thread of the study's processes has spent: when a run has begun, and when it has ended.

    Not more often: to look costs as much as what is looked at.
    """

    def __init__(self) -> None:
        self.me = psutil.Process()
        self.events: dict[tuple[str, int], Snapshot] = {}
        self.begun = Snapshot(self.me)
        self.runs: list[str] = []

    def on_started(self, path: str, epochs: int) -> None:
        self.runs.append(path)

    def on_pretraining_epoch(self, path: str, epoch) -> None: ...

    def on_epoch(self, path: str, epoch) -> None:
        if epoch.epoch == 1:
            self.events[path, 1] = Snapshot(self.me)

    def on_finished(self, path: str, record, *, found: bool) -> None:
        self.events[path, 0] = Snapshot(self.me)

    def on_failed(self, path: str, reason: str) -> None:
        raise RuntimeError(reason)

    def notify(self, text: str) -> None: ...


class Snapshot:
    """CPU seconds of this process and all that it started: in all, by process, and by thread."""

    def __init__(self, me: psutil.Process):
        self.wall = time.monotonic()
        self.processes: Counter[tuple[int, str]] = Counter()
        self.threads: Counter[tuple[int, int]] = Counter()
        for process in (me, *me.children(recursive=True)):
            try:
                spent, name = process.cpu_times(), process.name()
                self.processes[process.pid, name] = sum(spent[:4])  # with the children that have ended
                for thread in process.threads():
                    self.threads[process.pid, thread.id] = thread.user_time + thread.system_time
            except psutil.Error:
                pass  # it has just ended
        self.total = sum(self.processes.values())


def _measure(at_least_seconds: float) -> dict[str, object]:
    from survq.ray_session import connect
    from survq.training.ray_runs import TrialResources, execute
    from survq.training.shared_cohorts import SharedCohorts

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cohort = _cohort(root)
        fold = Work(cohort, {}).one_fold(held_out=4)
        short = make_run(Work(cohort, {}), fold, epochs=3)
        epochs = math.ceil(at_least_seconds / _bare(short, cohort)["epoch"])  # also a warm-up
        long = replace(short, config=replace(short.config, epochs=epochs, seed=1))
        bare = _bare(replace(short, config=replace(short.config, epochs=max(3, epochs // 4))), cohort)

        watch = Watch()
        connect(cpus=1)
        results = Results(root / "results")
        queue = RunQueue(Grid([short, long]), results, {cohort.name: cohort}, [watch, Board(root / "tensorboard")])
        execute(queue, SharedCohorts({cohort.name: cohort}), TrialResources.of(StudySettings(cpus=1)))
        if queue.failures:
            raise RuntimeError(next(iter(queue.failures.values())))

    between, end = watch.events[short.path, 0], watch.events[long.path, 0]
    first, second = watch.events[short.path, 1], watch.events[long.path, 1]
    threads = end.threads.copy()
    threads.subtract(between.threads)
    training = max(threads.values())
    by_name: Counter[str] = Counter()
    for (pid, name), spent in end.processes.items():
        by_name["driver" if pid == os.getpid() else name] += spent - between.processes[pid, name]
    return {
        "training": training,
        "machinery": end.total - between.total - training,
        "wall": end.wall - between.wall,
        "bare": bare["first"] + (epochs - 1) * bare["epoch"],
        "by_process": ", ".join(f"{name} {spent:.1f} s" for name, spent in by_name.most_common(12)),
        "first_start": first.total - watch.begun.total - bare["first"],
        "second_start": max(0.0, second.total - between.total - bare["first"]),
        "first_start_wall": first.wall - watch.begun.wall - bare["first_wall"],
        "second_start_wall": max(0.0, second.wall - between.wall - bare["first_wall"]),
    }


def _bare(run, cohort: Cohort) -> dict[str, float]:
    """CPU seconds of a run in this process: of the first epoch with all that precedes it, and of a later one."""
    bags = cohort.bags()
    marks: list[float] = []
    walls: list[float] = []
    start, wall = time.process_time(), time.monotonic()

    def report(_: object) -> None:
        marks.append(time.process_time())
        walls.append(time.monotonic())

    train_folds(run, cohort, bags, device=CPU, on_epoch=report)
    later = (marks[-1] - marks[0]) / (len(marks) - 1)
    return {
        "first": marks[0] - start,
        "first_wall": walls[0] - wall,
        "epoch": later,
        "all": time.process_time() - start,
    }


def _cohort(root: Path) -> Cohort:
    random = np.random.default_rng(0)
    index = pd.Index([f"CASE-{number:04d}" for number in range(CASES)], name="case_id")
    write_cohort(
        root,
        "BENCHMARK",
        cases=make_cases(index, random),
        expression=make_expression(index, random),
        slides=(Slide(case, case, bag.numpy()) for case, bag in zip(index, make_bags(PATCHES, CASES), strict=True)),
        gene_sets={"pathways": make_pathways(SIZES, random)},
    )
    return Cohort.load(root, "BENCHMARK")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_measure(float(sys.argv[1]))))
