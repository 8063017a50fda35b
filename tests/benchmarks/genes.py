"""A step of 32 cases without slides, whose hundreds of pathways are nearly all of the work.

It runs in a process with large pages, as studies run their trials: the gradient of the pathways' weights, 87 MB, is
fresh memory in each step, and with pages of 4 kB the system takes longer to clear it than the product to fill it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace
from itertools import pairwise

import torch

from survq.training.loop import train_folds

from .measure import LARGE_PAGES, Row, at_most, in_a_fresh_process
from .work import BATCH, CPU, make_run, make_work


def genes_alone(quick: bool) -> list[Row]:
    epochs = 4 if quick else 16
    seconds = in_a_fresh_process("genes", epochs, environment=LARGE_PAGES)["seconds"]
    small = in_a_fresh_process("genes", epochs, environment=dict.fromkeys(LARGE_PAGES, "0"))["seconds"]
    note = f"{min(seconds):.3f} to {max(seconds):.3f} s; with pages of 4 kB {statistics.median(small):.3f} s"
    return [at_most("genes_alone", statistics.median(seconds), 0.18, "s of CPU for a step of 32 cases", note)]


def _measure(epochs: int) -> list[float]:
    """The seconds of every epoch but the first; each is one step."""
    work = make_work(BATCH, 16, tiny=2)
    cohort = replace(work.cohort, slides=work.cohort.slides.iloc[:0])
    marks: list[float] = []
    run = make_run(work, work.one_fold(), epochs=epochs)
    train_folds(run, cohort, {}, device=CPU, on_epoch=lambda _: marks.append(time.process_time()))
    return [after - before for before, after in pairwise(marks)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"seconds": _measure(int(sys.argv[1]))}))
