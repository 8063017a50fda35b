"""Five folds trained together, against each of them trained alone, in the same order and from the same seeds."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from survq.training.loop import RunOutcome, train_folds
from survq.training.run import Run
from survq.training.share import Share

from .measure import Pairs, Row, at_most, spread
from .work import CPU, Work, make_run, make_work

FOLDS, CASES, PATCHES = 5, 10, 1000


class Counted(Mapping[str, Tensor]):
    """Bags that count how often they are read."""

    def __init__(self, bags: Mapping[str, Tensor]):
        self.bags, self.reads = bags, 0

    def __getitem__(self, case_id: str) -> Tensor:
        self.reads += 1
        return self.bags[case_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.bags)

    def __len__(self) -> int:
        return len(self.bags)


class Alone(threading.Thread):
    """A fold that trains alone, an epoch whenever it is told to. It is a thread so as to be able to wait."""

    def __init__(self, run: Run, work: Work, fold: int, heard: list[list]):
        super().__init__(daemon=True)
        self.run_, self.work, self.fold, self.heard = run, work, fold, heard
        self.outcome: RunOutcome | None = None
        self.error: BaseException | None = None
        self.turn, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def advance(self) -> float:
        """Let it do an epoch, or after the last one its summary. Returns the CPU seconds."""
        start = time.process_time()
        self.turn.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error
        return time.process_time() - start

    def run(self) -> None:
        torch.set_num_threads(1)
        self.turn.acquire()
        share = Share((self.fold,), gather=_repeat(self.heard, self.fold))
        try:
            self.outcome = train_folds(
                self.run_, self.work.cohort, self.work.bags, device=CPU, share=share, on_epoch=self._pause
            )
        except BaseException as error:
            self.error = error
        self.done.release()

    def _pause(self, _: object) -> None:
        self.done.release()
        self.turn.acquire()


def cotraining(quick: bool) -> list[Row]:
    work = make_work(CASES, PATCHES, distinct=CASES)
    epochs = 2 if quick else 6
    run = make_run(work, work.folds(FOLDS), epochs=epochs)
    heard: list[list] = []  # what the folds say of themselves, which one that is alone has to be told
    bags = Counted(work.bags)
    alone = [Alone(run, work, fold, heard) for fold in range(FOLDS)]
    pairs: Pairs = []

    def listen(mine: list) -> list[list]:
        heard.append(mine)
        return [mine]

    def report(_: object) -> None:
        nonlocal mark
        together = time.process_time() - mark
        pairs.append((together, sum(solo.advance() for solo in alone)))
        mark = time.process_time()

    mark = time.process_time()
    outcome = train_folds(
        run, work.cohort, bags, device=CPU, share=Share(tuple(range(FOLDS)), gather=listen), on_epoch=report
    )
    for solo in alone:
        solo.advance()
    pairs = pairs[1:]
    ours = outcome.details["weights_sha256"]
    theirs = [solo.outcome.details["weights_sha256"][solo.fold] for solo in alone if solo.outcome is not None]
    other_bits = sum(a != b for a, b in zip(ours, theirs, strict=True))
    reads = bags.reads / CASES / epochs - 1  # each case is read once more, by the fold that holds it out
    return [
        at_most(
            "cotraining_reads", reads, 1, "training reads of a case an epoch", "and one to evaluate; alone 4 and 1"
        ),
        at_most(
            *("cotraining_cpu", statistics.median(a / b for a, b in pairs), 1.02, "x five folds alone"),
            f"{statistics.median(a for a, _ in pairs):.1f} s an epoch; alone / together in {spread(pairs)}",
        ),
        at_most("cotraining_weights", other_bits, 0, "of 5 folds end with other bits than alone"),
    ]


def _repeat(heard: list[list], fold: int) -> Callable[[list], list[list]]:
    """A gathering at which the other folds say what they said when they were trained together."""
    told = iter(heard)

    def whose(message: Any) -> int | None:
        if isinstance(message, pd.DataFrame):
            return int(message["fold"].iloc[0])
        return message[0] if isinstance(message, tuple) else None

    return lambda mine: [mine, [message for message in next(told) if whose(message) not in (None, fold)]]
