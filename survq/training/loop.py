"""The training loop of all models. All folds of a run advance together, with one pass over the cohort per epoch.

It does not depend on Ray: the caller states the share of this process and receives every epoch through a callback.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from survq.data.batch import Bags, BagsByDtype, Batch
from survq.data.cohort import Cohort
from survq.data.location import parquet
from survq.data.problems import DataError
from survq.data.streams import generator, torch_seed
from survq.evaluation.concordance import concordance_index
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.models import MODELS, SurvivalModel
from survq.text import preview
from survq.training.checkpoints import Checkpoints, History
from survq.training.fold import autocast, patch_dtype
from survq.training.fold_file import fold_content
from survq.training.learner import SURVIVAL, FoldLearner, learning_rate
from survq.training.record import CURVE
from survq.training.run import Run
from survq.training.sampling import epoch_batches
from survq.training.share import Share

OnEpoch = Callable[[Epoch | PretrainingEpoch], None]


@dataclass(frozen=True)
class RunOutcome:
    """The result of a run."""

    state: Literal["finished", "stopped", "diverged", "failed"]  # stopped: early, by a search; failed: by an error
    epochs: list[Epoch]
    predictions: pd.DataFrame | None = None  # out of fold, after the last epoch
    details: dict = field(default_factory=dict)  # parameters, weights, seconds, reason
    files: dict[str, bytes] = field(default_factory=dict)  # the fitted folds by file name, if they are kept
    pretraining: list[PretrainingEpoch] = field(default_factory=list)


def train_folds(
    run: Run,
    cohort: Cohort,
    bags: Bags,
    *,
    device: torch.device | None = None,
    share: Share | None = None,
    on_epoch: OnEpoch = lambda epoch: None,
    checkpoints: Checkpoints | None = None,
    keep_weights: bool = False,
) -> RunOutcome:
    """Train and evaluate `run.config` on all of `run.folds`, or on this process's share of them.

    Every process of a run returns the same RunOutcome. Weights, order and dropout depend on the seed, the fold and the
    step, and dropout also on the part of a batch. They do not depend on the process or on resuming from a checkpoint.

    Raises DataError if the model cannot predict a case of the folds.
    """
    config, device, start = run.config, device or best_device(), time.monotonic()
    share = share or Share(folds=tuple(range(len(run.folds))))
    _check_readable(run, cohort)
    learners = [FoldLearner(config, cohort, run.folds[position], device) for position in share.folds]
    bags = _resident(_as_read(bags, learners[0].model, device), cohort, device)
    history = checkpoints.restore(learners, share) if checkpoints else History()
    resumed = len(history)
    if not resumed:
        for learner in learners:
            learner.prepare(bags)
    past: list[Epoch | PretrainingEpoch] = [*history.pretraining, *history.epochs]
    for epoch in past:
        on_epoch(epoch)

    pretraining = learners[0].model.pretraining_epochs
    for number in range(len(history.pretraining) + 1, pretraining + 1):
        terms = _train_epoch(number, run, cohort, learners, bags, share, pretraining=True)
        if reason := _diverged(learners, share):
            return RunOutcome("diverged", [], details={"reason": reason}, pretraining=history.pretraining)
        history.pretraining.append(PretrainingEpoch(number, terms))
        on_epoch(history.pretraining[-1])
        if checkpoints:
            checkpoints.save(learners, history, share)

    predictions = None
    for number in range(len(history.epochs) + 1, config.epochs + 1):
        if pretraining and number == 1:
            for learner in learners:
                learner.restart_optimizer()
        terms = _train_epoch(number, run, cohort, learners, bags, share)
        predictions = _evaluate(learners, cohort, bags, share)
        if reason := _diverged(learners, share):
            return RunOutcome("diverged", history.epochs, details={"reason": reason}, pretraining=history.pretraining)
        history.epochs.append(_epoch(number, run, terms, predictions))
        on_epoch(history.epochs[-1])
        if checkpoints and number < config.epochs:
            checkpoints.save(learners, history, share)

    risks = _evaluate(learners, cohort, bags, share, attrgetter("training"))
    medians = risks.groupby(["repeat", "fold"])["risk"].median()
    summaries = share.by_fold([_summary(learner) for learner in learners])
    mine = {one.fitted.file: fold_content(one.fitted) for one in learners} if keep_weights and share.part == 0 else {}
    files = {name: content for of_one in share.gather(mine) for name, content in of_one.items()}
    if learners[0].model.nested:
        by_size = _evaluate(learners, cohort, bags, share, predict=lambda one, batch: one.fitted.predict_by_size(batch))
        files[CURVE] = bytes(parquet(by_size))
    details = {
        "parameters": sum(parameter.numel() for parameter in learners[0].model.parameters()),
        "device": device.type,
        "precision": _precision(learners[0].model, device),
        "parts": share.parts,
        "seconds": round(time.monotonic() - start, 2),
        "resumed_after_epochs": resumed,
        "checkpoint_problem": history.problem,
        "median_training_risk": [float(medians[fold.repeat, fold.index]) for fold in run.folds],
        **{key: [summary[key] for summary in summaries] for key in summaries[0]},
    }
    return RunOutcome("finished", history.epochs, predictions, details, files, history.pretraining)


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_readable(run: Run, cohort: Cohort) -> None:
    """Raise DataError if the model cannot predict all cases of the folds."""
    model = MODELS[run.config.model]
    if reason := model.not_applicable(cohort.spec):
        raise DataError([f"{run.config.model} cannot be applied to cohort {cohort.name}: {reason}."])
    readable = set(cohort.cases.index[model.readable(cohort)])
    incomplete = sorted({case for fold in run.folds for case in (*fold.training, *fold.validation)} - readable)
    if incomplete:
        needed = " and ".join(sorted(model.needs)) or " or ".join(sorted(model.reads))
        raise DataError(
            [
                f"{run.config.model} needs {needed}: {preview(incomplete)} do not have it. "
                f"Fix: exclude these cases from the folds."
            ]
        )


def _train_epoch(
    number: int,
    run: Run,
    cohort: Cohort,
    learners: list[FoldLearner],
    bags: Bags,
    share: Share,
    *,
    pretraining: bool = False,
) -> dict[str, tuple[float, ...]]:
    """One pass over the cohort. Returns each term of the loss as means over the training cases, one per fold."""
    config = run.config
    seed = torch_seed(config.seed, "pretraining") if pretraining else config.seed
    batches = epoch_batches(
        run.folds,
        cohort.cases,
        batch_size=config.batch_size,
        seed=seed,
        epoch=number,
        balanced=config.intervals if config.sampling == "balanced" else None,
    )
    for learner in learners:
        learner.model.start_epoch(number)
    taken: list[list[tuple[int, dict[str, Tensor]]]] = [[] for _ in learners]  # steps, and their terms of the loss
    for step, case_ids in enumerate(batches):
        rate = learning_rate(config, (number - 1) * len(batches) + step, len(batches))
        own = [[case for case in case_ids if case in learner.training] for learner in learners]
        mine = [chosen[share.part :: share.parts] for chosen in own]
        pairs = zip(learners, mine, strict=True)
        needed = {case for learner, chosen in pairs for case in filter(learner.needs_patches, chosen)}
        patches = _load(needed, bags, learners[0], seed, number)
        for learner, all_chosen, chosen, steps in zip(learners, own, mine, taken, strict=True):
            if not all_chosen:
                continue
            batch = learner.table.batch(chosen, [learner.bag(case, patches) for case in chosen])
            draws = torch_seed(seed, "step", learner.fold.repeat, learner.fold.index, number, step, share.part)
            losses = learner.step(batch, len(all_chosen), draws, rate=rate, share=share, pretraining=pretraining)
            steps.append((step + 1, losses))
    sums = [_summed(learner, number, steps) for learner, steps in zip(learners, taken, strict=True)]
    return _means(run, learners, sums, batches, share)


def _summed(learner: FoldLearner, epoch: int, steps: list[tuple[int, dict[str, Tensor]]]) -> dict[str, float]:
    """The terms of the loss summed over the steps of an epoch. The first that is not finite marks the fold as diverged.

    They are read together, after the last step: a GPU is waited for once per epoch.
    """
    values = [value for _, losses in steps for value in losses.values()]
    numbers = iter(torch.stack(values).tolist() if values else ())
    sums: dict[str, float] = defaultdict(float)
    for step, losses in steps:
        for name in losses:
            value = next(numbers)
            sums[name] += value
            if not learner.diverged and not math.isfinite(value):
                where = f"fold {learner.fold.index}, epoch {epoch}, step {step}"
                learner.diverged = f"the {name} became {value} in {where}; try a lower learning rate"
    return sums


def _means(
    run: Run, learners: list[FoldLearner], sums: list[dict[str, float]], batches: list[list[str]], share: Share
) -> dict[str, tuple[float, ...]]:
    """Means over all cases from the sums of each process: by term, one per fold of the run."""
    totals: list[dict[str, float]] = [defaultdict(float) for _ in run.folds]
    for pairs in share.gather(list(zip(share.folds, sums, strict=True))):
        for position, terms in pairs:
            for name, value in terms.items():
                totals[position][name] += value
    cases = share.by_fold([sum(case in learner.training for ids in batches for case in ids) for learner in learners])
    names = dict.fromkeys(name for terms in totals for name in terms)
    return {name: tuple(terms[name] / n for terms, n in zip(totals, cases, strict=True)) for name in names}


def _evaluate(
    learners: list[FoldLearner],
    cohort: Cohort,
    bags: Bags,
    share: Share,
    cases: Callable[[FoldLearner], Collection[str]] = attrgetter("validation"),
    predict: Callable[[FoldLearner, Batch], pd.DataFrame] = FoldLearner.predict,
) -> pd.DataFrame:
    """The predictions of all folds of the run, each for its `cases`: by default, those that it held out."""
    rows = []
    for learner in learners:
        # batches of one fold: other folds of this process must not change a prediction, not even in the last bit
        mine, size = sorted(cases(learner))[share.part :: share.parts], learner.config.batch_size
        for chunk in (mine[start : start + size] for start in range(0, len(mine), size)):
            patches = _load(list(filter(learner.needs_patches, chunk)), bags, learner)
            batch = learner.table.batch(chunk, [learner.bag(case, patches) for case in chunk])
            rows.append(predict(learner, batch))
    predictions = pd.concat([table for tables in share.gather(rows) for table in tables], ignore_index=True)
    predictions.insert(3, "time", cohort.cases["time"].loc[predictions["case_id"]].to_numpy(float))  # not rounded
    return predictions.sort_values(["repeat", "fold", "case_id"], ignore_index=True)


def _epoch(number: int, run: Run, terms: dict[str, tuple[float, ...]], predictions: pd.DataFrame) -> Epoch:
    by_fold = dict(list(predictions.groupby(["repeat", "fold"])))
    tables = [by_fold[fold.repeat, fold.index] for fold in run.folds]
    return Epoch(
        epoch=number,
        training_loss=tuple(sum(of_fold) for of_fold in zip(*terms.values(), strict=True)),
        validation_loss=tuple(float(table["nll"].mean()) for table in tables),
        c_index=tuple(
            concordance_index(table["risk"].to_numpy(), table["time"].to_numpy(), table["event"].to_numpy())
            for table in tables
        ),
        penalties={name: values for name, values in terms.items() if name != SURVIVAL},
    )


def _diverged(learners: list[FoldLearner], share: Share) -> str:
    """The reason why the run diverged, agreed on by all processes: all of them must stop at the same step."""
    reasons = [r for mine in share.gather([learner.diverged for learner in learners]) for r in mine if r]
    return min(reasons, default="")


def _summary(learner: FoldLearner) -> dict:
    edges = learner.fitted.preprocessing.intervals.edges
    return {"weights_sha256": _digest(learner.model), "interval_edges": list(edges)}


def _as_read(bags: Bags, model: SurvivalModel, device: torch.device) -> Bags:
    """The bags in the dtype that the model reads, if they exist in it, and else as they are stored.

    Empty if it reads no patches: they may not be shared.
    """
    if "histology" not in model.reads:
        return {}
    dtype = patch_dtype(model, device)
    chosen = bags.of(dtype) if isinstance(bags, BagsByDtype) else bags
    first = next(iter(chosen.values()), None)
    if first is not None and first.dtype == torch.bfloat16 != dtype:
        raise ValueError("The patch features are rounded to bfloat16, but this model reads them as they are stored.")
    return chosen


def _resident(bags: Bags, cohort: Cohort, device: torch.device) -> Bags:
    """The bags of the whole cohort on the GPU, if they need less than half of its free memory."""
    if device.type != "cuda":
        return bags
    size = 2 * int((cohort.slides["patches"] * cohort.slides["width"]).sum())  # float16 or bfloat16
    if size > torch.cuda.mem_get_info(device)[0] / 2:
        return bags
    return {case: bags[case].to(device) for case in bags}


def _sampled(bag: Tensor, case: str, most: int, seed: int, epoch: int) -> Tensor:
    if len(bag) <= most:
        return bag
    chosen = generator(seed, "patches", epoch, case).choice(len(bag), most, replace=False)
    return bag[torch.from_numpy(np.sort(chosen)).to(bag.device, non_blocking=True)]


def _load(
    case_ids: Collection[str], bags: Bags, learner: FoldLearner, seed: int = 0, epoch: int | None = None
) -> dict[str, Tensor]:
    """The patches of cases on the device, shared by all folds; sampled if `epoch` is given, that is in training."""
    most, device = learner.config.patches_per_case, learner.device
    empty = torch.empty(0, learner.fitted.spec.patch_features, device=device)
    loaded = {}
    for case in sorted(case_ids):
        bag = bags.get(case)
        if bag is not None and epoch is not None and most is not None and learner.model.condense is None:
            bag = _sampled(bag, case, most, seed, epoch)
        if bag is not None and device.type == "cuda" != bag.device.type:
            bag = bag.pin_memory()  # a GPU copies from it while it computes
        loaded[case] = empty if bag is None else bag.to(device, non_blocking=True)
    return loaded


def _precision(model: SurvivalModel, device: torch.device) -> str:
    """The precision of the model's largest matrix products; sums are always in fp32."""
    with autocast(device):
        return {torch.bfloat16: "bf16", torch.float32: "fp32"}[model.precision(device)]


def _digest(model: nn.Module) -> str:
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
