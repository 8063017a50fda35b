"""Worlds whose truth is known: a model trained on the cases of one, and how well it finds what was planted there.

An AUROC is the probability that something planted scores above something that is not, one half by chance. Patches are
compared within their case: those of one prognostic morphology with those of all indifferent ones; a case that shows no
indifferent patch has nothing to compare and is passed over.
"""

import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Semaphore

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from survq.data.batch import Batch, CaseTable
from survq.data.cohort import Cohort
from survq.data.folds import Fold, given_folds
from survq.interpretation.truth import patch_auroc
from survq.models import SurvivalModel
from survq.simulation.cohort import SimulatedCohort, World
from survq.simulation.data_folder import write_simulated
from survq.simulation.worlds import PRESETS, PROGNOSTIC
from survq.training.config import TrainConfig
from survq.training.learner import FoldLearner
from survq.training.loop import RunOutcome, train_folds
from survq.training.run import Run
from survq.training.share import Share

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Planted:
    """A cohort as the models see it, and the truth about it."""

    truth: SimulatedCohort
    cohort: Cohort
    bags: dict[str, Tensor]
    morphology: dict[str, np.ndarray]  # case -> (patch,), in the order of its bag
    fold: Fold

    @classmethod
    def draw(cls, preset: str, world: int, root: Path) -> "Planted":
        """The cohort of seed 0 of a world, by way of a data folder below `root`."""
        config, name = replace(PRESETS[preset], world=world), f"{preset}-{world}"
        write_simulated(root / name, config, name=name)
        cohort = Cohort.load(root / name, name)
        truth = World(config).cohort(config.cases + config.held_out, seed=0)
        slides = {case: list(table["slide_id"]) for case, table in cohort.slides.groupby("case_id")}
        (fold,) = given_folds(cohort.splits, list(cohort.cases.index))
        return cls(
            truth=truth,
            cohort=cohort,
            bags=cohort.bags(),
            morphology={
                case: np.concatenate([truth.sections[i].morphology for i in ids]) for case, ids in slides.items()
            },
            fold=fold,
        )

    @property
    def oracle(self) -> float:
        """The C-index on the held-out cases of one who knows eta."""
        return self.truth.oracle(self.fold.validation)["eta"]

    def lift(self, c_index: float) -> float:
        """How far a model came from chance (0) to the oracle (1)."""
        return (c_index - 0.5) / (self.oracle - 0.5)

    def without_slides(self) -> "Planted":
        return replace(self, cohort=replace(self.cohort, slides=self.cohort.slides.iloc[:0]), bags={})

    def without_expression(self) -> "Planted":
        return replace(self, cohort=replace(self.cohort, expression=None, gene_sets={}))

    def with_permuted_outcomes(self, seed: int) -> "Planted":
        """Those of the training cases; held-out cases keep theirs."""
        return replace(self, cohort=permute_outcomes(self.cohort, self.fold.training, seed))


def permute_outcomes(cohort: Cohort, case_ids: Sequence[str], seed: int) -> Cohort:
    """The same cohort, with the times and events, together, dealt anew among these cases."""
    given, dealt = list(case_ids), np.random.default_rng(seed).permutation(list(case_ids))
    cases = cohort.cases.copy()
    for column in ("time", "event"):
        cases.loc[given, column] = cohort.cases.loc[dealt, column].to_numpy()
    return replace(cohort, cases=cases)


@dataclass(frozen=True, eq=False)
class Trained:
    """A model, and the cases as it saw them."""

    planted: Planted
    model: SurvivalModel
    table: CaseTable
    c_index: float = float("nan")  # on the held-out cases, after the last epoch

    def batches(self, case_ids: Sequence[str]) -> Iterator[Batch]:
        none = torch.empty(0, self.planted.cohort.spec.patch_features)
        for start in range(0, len(case_ids), 32):
            chunk = case_ids[start : start + 32]
            yield self.table.batch(chunk, [self.planted.bags.get(case, none).float() for case in chunk])


def untrained(planted: Planted, config: TrainConfig) -> Trained:
    """The model as it is before its first step."""
    learner = FoldLearner(config, planted.cohort, planted.fold, CPU)
    return Trained(planted, learner.model.eval(), learner.table)


def train(planted: Planted, config: TrainConfig) -> Trained:
    """Train on the training cases of the world, on one core."""
    seen = []
    # the loop shows its model to whoever sums gradients; there is no other process to sum with
    share = Share(folds=(0,), sum_gradients=lambda model: seen.append(model))
    run = Run(planted.cohort.name, config, (planted.fold,))
    outcome = train_folds(run, planted.cohort, planted.bags, device=CPU, share=share)
    assert outcome.state == "finished", outcome.details
    return Trained(planted, seen[-1].eval(), untrained(planted, config).table, outcome.epochs[-1].c_index[0])


def train_in_turns(
    planted: Planted, configs: Mapping[Hashable, TrainConfig]
) -> dict[Hashable, tuple[RunOutcome, float]]:
    """The outcome and the CPU seconds of each training, on one core. They take turns, an epoch each: all of them meet
    the same changes of a machine's speed.
    """
    names, seconds = list(configs), dict.fromkeys(configs, 0.0)
    waiting, turns = deque(names), {name: Semaphore(0) for name in names}

    def train(name: Hashable) -> RunOutcome:
        turns[name].acquire()
        since = time.process_time()

        def pass_on(_: object = None) -> None:
            nonlocal since
            seconds[name] += time.process_time() - since
            waiting.rotate(-1)
            turns[waiting[0]].release()
            turns[name].acquire()
            since = time.process_time()

        run = Run(planted.cohort.name, configs[name], (planted.fold,))
        try:
            return train_folds(run, planted.cohort, planted.bags, device=CPU, on_epoch=pass_on)
        finally:
            seconds[name] += time.process_time() - since
            waiting.popleft()
            if waiting:
                turns[waiting[0]].release()

    with ThreadPoolExecutor(len(names)) as threads:
        futures = {name: threads.submit(train, name) for name in names}
        turns[names[0]].release()
        return {name: (future.result(), seconds[name]) for name, future in futures.items()}


def gradient_auroc(trained: Trained) -> list[float]:
    """Of each prognostic morphology: the mean over held-out cases, where a patch scores by the length of the gradient
    of its case's risk with respect to the patch's features.

    The length has no sign: it says that a patch matters, not whether it worsens or betters the outlook.
    """
    found = []
    for batch in trained.batches(trained.planted.fold.validation):
        bags = [bag.requires_grad_() for bag in batch.bags]
        gradients = torch.autograd.grad(trained.model(batch).risk.sum(), bags)
        for case, gradient in zip(batch.case_ids, gradients, strict=True):
            length = gradient.norm(dim=1).numpy()
            found.append([patch_auroc(length, trained.planted.morphology[case], kind) for kind in PROGNOSTIC])
    return np.nanmean(found, axis=0).tolist()


def attention_auroc(trained: Trained) -> list[float]:
    """Of each prognostic morphology: on held-out cases, the query whose attention finds it best on training ones."""
    of_queries = {}
    for role in ("training", "validation"):
        found = []  # (case, morphology, query)
        for batch in trained.batches(getattr(trained.planted.fold, role)):
            with torch.no_grad():
                attention = trained.model(batch, keep_attention=True).attention.histology
            for case, A in zip(batch.case_ids, attention, strict=True):
                found.append([patch_auroc(A.numpy(), trained.planted.morphology[case], kind) for kind in PROGNOSTIC])
        of_queries[role] = np.nanmean(found, axis=0)
    best = of_queries["training"].argmax(axis=1)
    return [float(of_queries["validation"][kind, query]) for kind, query in enumerate(best)]


def pathway_occlusion(trained: Trained) -> Float[np.ndarray, " pathway"]:
    """How much the risk of held-out cases changes, in the mean, if the genes of a pathway are set to the mean that they
    have in training cases. Genes that other pathways share are set there too.
    """
    table, fold = trained.table, trained.planted.fold
    mean = table.expression[[table.row[case] for case in fold.training]].mean(dim=0)
    pathways = trained.planted.cohort.spec.pathways
    change = np.zeros(len(pathways))
    with torch.no_grad():
        for batch in trained.batches(fold.validation):
            risk = trained.model(batch).risk
            for number, genes in enumerate(pathways):
                occluded = batch.expression.clone()
                occluded[:, list(genes)] = mean[list(genes)]
                other = trained.model(replace(batch, expression=occluded)).risk
                change[number] += float((other - risk).abs().sum())
    return change / len(fold.validation)


def is_planted(planted: Planted) -> Bool[np.ndarray, " pathway"]:
    return np.isin(planted.cohort.pathways.names, planted.truth.planted_pathways)


def planted_in_top(score: Float[np.ndarray, " pathway"], planted: Bool[np.ndarray, " pathway"]) -> int:
    """How many planted pathways are among the highest, of which as many are taken as were planted."""
    return int(planted[np.argsort(-score)[: planted.sum()]].sum())


def show(figures: pd.DataFrame) -> None:
    """Print a table of what was measured; pytest shows it with -s."""
    print("\n" + figures.to_string(float_format=lambda value: f"{value:.3f}"), flush=True)
