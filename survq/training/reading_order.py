"""The order in which a run reads the patches of its cases: sampling has fixed it beforehand, as a function of seeds.

A cohort that does not fit in memory is read in this order, ahead of use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from survq.data.batch import Bags, BagsByDtype
from survq.data.cohort import Cohort
from survq.data.read_ahead import ReadAhead
from survq.data.streams import torch_seed
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.models import MODELS, SurvivalModel
from survq.training.fold import patch_dtype
from survq.training.run import Run
from survq.training.sampling import epoch_batches
from survq.training.share import Share

OnEpoch = Callable[[Epoch | PretrainingEpoch], None]


@contextmanager
def reading_ahead(
    run: Run,
    cohort: Cohort,
    bags: Bags,
    *,
    device: torch.device,
    on_epoch: OnEpoch,
    share: Share | None = None,
) -> Iterator[tuple[Bags, OnEpoch]]:
    """What `train_folds` takes as bags and on_epoch, so that bags which are on disk are read ahead of use.

    Bags in memory are returned unchanged, and all bags if the model does not read them.
    """
    most = getattr(bags, "ahead", 0)
    if not most or "histology" not in MODELS[run.model].reads:
        yield bags, on_epoch
        return
    model = _outline(run, cohort)
    if isinstance(bags, BagsByDtype):
        bags = bags.of(patch_dtype(model, device))
    ahead = ReadAhead(bags, most)
    its_share = share or Share(folds=tuple(range(len(run.folds))))

    def follow(done: Epoch | PretrainingEpoch | None = None) -> None:
        order = reading_order(run, cohort, its_share, pretraining=model.pretraining_epochs, done=done)
        ahead.follow(case for case in order if case in ahead)

    def follow_and_report(epoch: Epoch | PretrainingEpoch) -> None:
        follow(epoch)  # it may be restored from a checkpoint
        on_epoch(epoch)

    try:
        follow()
        yield ahead, follow_and_report
    finally:
        ahead.close()


def reading_order(
    run: Run, cohort: Cohort, share: Share, *, pretraining: int = 0, done: Epoch | PretrainingEpoch | None = None
) -> Iterator[str]:
    """The cases of a process's share of a run in the order in which `train_folds` reads them, after the epoch `done`.

    What a model reads before its first epoch is not included (see `SurvivalModel.prepare`).
    """
    config, folds = run.config, [run.folds[position] for position in share.folds]
    training = [frozenset(fold.training) for fold in folds]

    def epoch(number: int, seed: int) -> Iterator[str]:
        balanced = config.intervals if config.sampling == "balanced" else None
        size = config.batch_size
        for case_ids in epoch_batches(
            run.folds, cohort.cases, batch_size=size, seed=seed, epoch=number, balanced=balanced
        ):
            own = [[case for case in case_ids if case in cases] for cases in training]
            yield from sorted({case for chosen in own for case in chosen[share.part :: share.parts]})

    def evaluation(by_fold: Sequence[Collection[str]]) -> Iterator[str]:
        for cases in by_fold:
            yield from sorted(cases)[share.part :: share.parts]

    if not isinstance(done, Epoch):
        for number in range(done.epoch + 1 if done else 1, pretraining + 1):
            yield from epoch(number, torch_seed(config.seed, "pretraining"))
    for number in range(done.epoch + 1 if isinstance(done, Epoch) else 1, config.epochs + 1):
        yield from epoch(number, config.seed)
        yield from evaluation([fold.validation for fold in folds])
    yield from evaluation(training)
    yield from evaluation([fold.validation for fold in folds])  # by size, of a nested model


def _outline(run: Run, cohort: Cohort) -> SurvivalModel:
    """The model of a run without memory for its weights and without random numbers."""
    with torch.device("meta"):
        return MODELS[run.model](replace(cohort.spec, intervals=run.config.intervals), **run.hyperparameters)
