"""A study as its command runs it, except that this process trains the runs, one after another, instead of Ray.

python driver.py query_counts --data DATA --results RESULTS ...
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))

from desk import run_study

from survq.training.checkpoints import checkpoints_at
from survq.training.loop import train_folds


class Stopped(Exception):
    pass


class Here:
    """In the place of `Machines`."""

    def __init__(self, settings, cohorts):
        self.minutes, self.cohorts = settings.checkpoint_minutes, cohorts
        self.bags = {name: cohort.bags() for name, cohort in cohorts.items()}

    def execute(self, queue) -> None:
        while (run := queue.take()) is not None:

            def on_epoch(epoch, run=run):
                if queue.epoch(run, epoch):
                    raise Stopped

            with suppress(Stopped):
                options = {"checkpoints": checkpoints_at(queue.checkpoints(run), self.minutes), "on_epoch": on_epoch}
                cohort, bags = self.cohorts[run.cohort], self.bags[run.cohort]
                queue.end(run, train_folds(run, cohort, bags, device=torch.device("cpu"), **options))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["survq.training.machines"] = SimpleNamespace(Machines=Here)  # type: ignore[assignment]
    sys.exit(run_study(*sys.argv[1:]))
