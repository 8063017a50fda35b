"""A small cohort in memory, and threads that train on it as the processes of a run would."""

import threading
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survq.data.cohort import Cohort
from survq.data.feature_store import INDEX
from survq.data.folds import Fold
from survq.data.gene_sets import GeneSets
from survq.data.location import Location
from survq.training.config import TrainConfig
from survq.training.loop import RunOutcome, train_folds
from survq.training.run import Run
from survq.training.share import Share

SMALL = {"width": 8, "histology_queries": 4, "genomic_queries": 3}
QUIET = {"patch_dropout": 0.0, "pathway_dropout": 0.0}
CPU = torch.device("cpu")


def make_cohort(n: int = 36, seed: int = 0) -> tuple[Cohort, dict[str, Tensor]]:
    """`n` cases, every seventh without slides and every eleventh without expression; those of high risk die early."""
    random = np.random.default_rng(seed)
    index = pd.Index([f"CASE-{number:03d}" for number in range(n)], name="case_id")
    risk = random.normal(size=n)
    time = np.exp(3 - risk + 0.3 * random.normal(size=n))
    cases = pd.DataFrame({"time": time, "event": random.random(n) < 0.6}, index=index)
    expression = random.normal(5, 1, (n, 8))
    expression[:, :3] += 2 * risk[:, None]
    expression = pd.DataFrame(expression.astype(np.float32), index=index, columns=list("ABCDEFGH"))
    bags = {}
    for number, case in enumerate(index):
        if number % 7 != 2:
            bag = random.normal(size=(2 + number % 5, 6)) + risk[number]
            bags[case] = torch.from_numpy(bag.astype(np.float16))
    slides = pd.DataFrame(
        [(f"{case}-DX1", case, len(bag), bag.shape[1], f"sha256 of {case}") for case, bag in bags.items()],
        columns=["slide_id", "case_id", "patches", "width", "sha256"],
    ).reindex(columns=INDEX)
    cohort = Cohort(
        name="SMALL",
        cases=cases,
        expression=expression[np.arange(n) % 11 != 6],
        slides=slides,
        gene_sets={"pathways": GeneSets(("first", "second", "third"), (("A", "B", "C"), ("D",), ("E", "F", "B")))},
        splits=None,
        dropped=pd.DataFrame(columns=["case_id", "reason"]),
        folder=Location.at("nowhere"),
    )
    return cohort, bags


def make_run(cohort: Cohort, k: int = 3, repeats: int = 1, hyperparameters=None, **settings) -> Run:
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "intervals": 3, **settings}
    config = TrainConfig(hyperparameters={**SMALL, **(hyperparameters or {})}, **settings)
    folds = []
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(sorted(cohort.cases.index)).tolist()
        folds += [
            Fold(repeat, f, tuple(c for c in order if c not in order[f::k]), tuple(order[f::k])) for f in range(k)
        ]
    return Run(cohort.name, config, tuple(folds))


def train(run: Run, cohort: Cohort, bags) -> RunOutcome:
    return train_folds(run, cohort, bags, device=CPU)


def train_together(
    run: Run, cohort: Cohort, bags, shares: Sequence[tuple[tuple[int, ...], int, int]], **options
) -> list[RunOutcome]:
    """Train with one thread per share (folds, part, parts). Returns the RunOutcome of each.

    One thread runs at a time, until it waits for the others, because torch has one random stream.
    """
    turn = threading.Lock()
    all_threads = Group(len(shares), turn)
    peers = {folds: Group(parts, turn) for folds, _, parts in shares}
    outcomes: list = [None] * len(shares)

    def process(rank: int) -> None:
        folds, part, parts = shares[rank]

        def sum_gradients(model) -> None:
            if parts > 1:
                learnable = [p for p in model.parameters() if p.requires_grad]
                gathered = peers[folds].exchange(part, [p.grad.clone() for p in learnable])
                for parameter, *gradients in zip(learnable, *gathered, strict=True):
                    parameter.grad = sum(gradients)

        def copy_buffers(model) -> None:
            if parts > 1:
                buffers = [buffer for name, buffer in model.named_buffers() if name in model.state_dict()]
                gathered = peers[folds].exchange(part, [buffer.clone() for buffer in buffers])
                for buffer, first in zip(buffers, gathered[0], strict=True):
                    buffer.copy_(first)

        share = Share(folds, part, parts, sum_gradients, copy_buffers, lambda mine: all_threads.exchange(rank, mine))
        with turn:
            try:
                outcomes[rank] = train_folds(run, cohort, bags, device=CPU, share=share, **options)
            except BaseException as error:
                outcomes[rank] = error
                for group in (all_threads, *peers.values()):
                    group.barrier.abort()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, threading.BrokenBarrierError):
            raise outcome
    return outcomes


class Group:
    def __init__(self, size: int, turn: threading.Lock):
        self.size, self.turn, self.barrier = size, turn, threading.Barrier(size, timeout=30)
        self.sent: dict[tuple[int, int], object] = {}
        self.rounds = [0] * size

    def exchange(self, rank: int, mine):
        number = self.rounds[rank]
        self.rounds[rank] += 1
        self.sent[number, rank] = mine
        self.turn.release()
        try:
            self.barrier.wait()
        finally:
            self.turn.acquire()
        return [self.sent[number, other] for other in range(self.size)]
