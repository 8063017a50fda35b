"""The one training loop, for all models. All folds of a run advance together, one pass over the cohort an epoch.

It knows no Ray: whoever calls it says which share of the run this process does, and listens to what it reports.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from survq.data.batch import Bags, Batch, CaseTable
from survq.data.cohort import Cohort
from survq.data.folds import Fold
from survq.data.streams import generator, torch_seed
from survq.evaluation.concordance import concordance_index
from survq.evaluation.epochs import Epoch
from survq.layers.fused import computes_bf16
from survq.models import MODELS, Prediction
from survq.models.losses import nll_by_case, nll_survival_loss
from survq.training.config import TrainConfig
from survq.training.run import Run
from survq.training.sampling import epoch_batches


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run."""

    state: Literal["finished", "stopped", "diverged", "failed"]  # stopped early, by a search; failed by an error
    epochs: list[Epoch]
    predictions: pd.DataFrame | None = None  # out of fold, after the last epoch
    details: dict = field(default_factory=dict)  # parameters, weights, seconds, reason
    files: dict[str, bytes] = field(default_factory=dict)  # to keep beside its predictions, by name


@dataclass(frozen=True)
class Share:
    """The part of a run that this process does: some folds, and of their batches one part of several."""

    folds: tuple[int, ...]  # positions in run.folds
    part: int = 0
    parts: int = 1
    sum_gradients: Callable[[nn.Module], None] = lambda model: None  # over the processes that share these folds
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]  # from all processes of the run, to all of them


def train_folds(
    run: Run,
    cohort: Cohort,
    bags: Bags,
    *,
    device: torch.device | None = None,
    share: Share | None = None,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> RunOutcome:
    """Train and evaluate `run.config` on all of `run.folds`, or on this process's share of them.

    Every process of a run returns the same outcome. Weights, order and dropout depend on the seed, the fold and the
    step, dropout also on the part of a batch; not on which process does them.
    """
    config, device, start = run.config, device or best_device(), time.monotonic()
    share = share or Share(folds=tuple(range(len(run.folds))))
    bags = _resident(bags, cohort, device)
    learners = [FoldLearner(config, cohort, run.folds[position], device) for position in share.folds]
    for learner in learners:
        learner.prepare(bags)

    epochs: list[Epoch] = []
    for number in range(1, config.epochs + 1):
        losses = _train_epoch(number, run, cohort, learners, bags, share)
        predictions = _evaluate(learners, bags, share)
        # a process that stopped by itself would leave the others waiting for its gradients
        if reasons := [r for mine in share.gather([learner.diverged for learner in learners]) for r in mine if r]:
            return RunOutcome("diverged", epochs, details={"reason": min(reasons)})
        epochs.append(_epoch(number, run, share, losses, predictions))
        report(epochs[-1])
    learnt = _by_fold(share, [learner.summary() for learner in learners])
    details = {
        "parameters": sum(parameter.numel() for parameter in learners[0].model.parameters()),
        "device": device.type,
        "precision": _precision(device),
        "parts": share.parts,
        "seconds": round(time.monotonic() - start, 2),
        **{key: [summary[key] for summary in learnt] for key in learnt[0]},
    }
    return RunOutcome("finished", epochs, predictions, details)


class FoldLearner:
    """A fold's model, its optimizer and its view of the cases."""

    def __init__(self, config: TrainConfig, cohort: Cohort, fold: Fold, device: torch.device):
        self.config, self.fold, self.device = config, fold, device
        self.width, self.time = cohort.spec.patch_features, cohort.cases["time"]
        self.diverged = ""  # where its numbers ceased to be finite
        self.training, self.validation = frozenset(fold.training), frozenset(fold.validation)
        self.table = CaseTable.fit(
            cohort,
            fold,
            intervals=config.intervals,
            interval_edges=config.interval_edges,
            expression_scale=config.expression_scale,
        ).to(device)
        torch.manual_seed(torch_seed(config.seed, "weights", fold.repeat, fold.index))
        spec = replace(cohort.spec, intervals=config.intervals)
        self.model = MODELS[config.model](spec, **config.hyperparameters).to(device)
        self.learnable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.learnable, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )

    def prepare(self, bags: Bags) -> None:
        torch.manual_seed(torch_seed(self.config.seed, "prepare", self.fold.repeat, self.fold.index))
        chunks = _chunks(sorted(self.fold.training), self.config.batch_size)
        self.model.prepare(self.table.batch(chunk, _load(bags, chunk, self)) for chunk in chunks)

    def step(self, batch: Batch, cases: int, seed: int, sum_gradients: Callable[[nn.Module], None]) -> float:
        """One optimizer step on a batch of `cases` cases, of which `batch` is this process's part.

        Returns the loss, summed over the cases of this part.
        """
        self.model.train()
        torch.manual_seed(seed)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        if len(batch):
            with _autocast(self.device):
                prediction = self.model(batch)
            loss = nll_survival_loss(prediction.logits.float(), batch.interval, batch.event) + prediction.penalty
            (loss * (len(batch) / cases)).backward()
        for parameter in self.learnable:  # also what these cases do not reach takes its step, as in a larger batch
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        sum_gradients(self.model)
        self.optimizer.step()
        return float(loss.detach()) * len(batch)

    @torch.no_grad()
    def predict(self, batch: Batch) -> pd.DataFrame:
        """A row a case: what is known of it, its risk, its hazards and its loss."""
        self.model.eval()
        with _autocast(self.device):
            logits = self.model(batch).logits
        if not self.diverged and not logits.isfinite().all():
            self.diverged = f"a prediction of fold {self.fold.index} is not a number; a lower learning rate may help"
        prediction = Prediction(logits.double())
        hazards = prediction.hazards.cpu().numpy()
        known = {
            "event": batch.event,
            "interval": batch.interval,
            "risk": prediction.risk,
            "nll": nll_by_case(prediction.logits, batch.interval, batch.event),
        }
        return pd.DataFrame(
            {"case_id": batch.case_ids, "repeat": self.fold.repeat, "fold": self.fold.index}
            | {"time": self.time.loc[list(batch.case_ids)].to_numpy(float)}  # as the table has it, not rounded
            | {name: column.cpu().numpy() for name, column in known.items()}
            | {f"hazard_{k}": hazards[:, k] for k in range(hazards.shape[1])}
        )

    def summary(self) -> dict:
        return {"weights_sha256": _digest(self.model), "interval_edges": list(self.table.intervals.edges)}


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _train_epoch(
    number: int, run: Run, cohort: Cohort, learners: list[FoldLearner], bags: Bags, share: Share
) -> list[tuple[float, int]]:
    """One pass over the cohort. Returns the summed loss and the number of cases of each of this process's folds."""
    config = run.config
    batches = epoch_batches(
        run.folds,
        cohort.cases,
        batch_size=config.batch_size,
        seed=config.seed,
        epoch=number,
        balanced=config.intervals if config.sampling == "balanced" else None,
    )
    sums = np.zeros(len(learners))
    for step, case_ids in enumerate(batches):
        own = [[case for case in case_ids if case in learner.training] for learner in learners]
        mine = [chosen[share.part :: share.parts] for chosen in own]
        present = sorted({case for chosen in mine for case in chosen})
        sampled = [_sampled(bags.get(case), case, number, config) for case in present]
        loaded = dict(zip(present, _moved(sampled, learners[0]), strict=True))
        for position, learner in enumerate(learners):
            if not own[position]:
                continue
            batch = learner.table.batch(mine[position], [loaded[case] for case in mine[position]])
            seed = torch_seed(config.seed, "step", learner.fold.repeat, learner.fold.index, number, step, share.part)
            loss = learner.step(batch, len(own[position]), seed, share.sum_gradients)
            if not learner.diverged and not math.isfinite(loss):
                where = f"fold {learner.fold.index}, epoch {number}, step {step + 1}"
                learner.diverged = f"the loss became {loss} in {where}; a lower learning rate may help"
            sums[position] += loss
    seen = [sum(case in learner.training for case_ids in batches for case in case_ids) for learner in learners]
    return list(zip(sums.tolist(), seen, strict=True))


def _evaluate(learners: list[FoldLearner], bags: Bags, share: Share) -> pd.DataFrame:
    """Predictions of all held-out cases of all folds of the run: each case by the fold that did not train on it."""
    rows = []
    for learner in learners:
        # batches of a fold's own cases: which other folds a process has must not show, not even in the last bit
        for chunk in _chunks(sorted(learner.validation)[share.part :: share.parts], learner.config.batch_size):
            rows.append(learner.predict(learner.table.batch(chunk, _load(bags, chunk, learner))))
    gathered = [table for tables in share.gather(rows) for table in tables]
    predictions = pd.concat(gathered, ignore_index=True)
    return predictions.sort_values(["repeat", "fold", "case_id"], ignore_index=True)


def _epoch(number: int, run: Run, share: Share, losses: list[tuple[float, int]], predictions: pd.DataFrame) -> Epoch:
    shares = [pair for mine in share.gather(list(zip(share.folds, losses, strict=True))) for pair in mine]
    training_loss = []
    for position in range(len(run.folds)):
        total = sum(loss for at, (loss, _) in shares if at == position)
        seen = next(cases for at, (_, cases) in shares if at == position)
        training_loss.append(total / seen)
    by_fold = dict(list(predictions.groupby(["repeat", "fold"])))
    tables = [by_fold[fold.repeat, fold.index] for fold in run.folds]
    return Epoch(
        epoch=number,
        training_loss=training_loss,
        validation_loss=[float(table["nll"].mean()) for table in tables],
        c_index=[
            concordance_index(table["risk"].to_numpy(), table["time"].to_numpy(), table["event"].to_numpy())
            for table in tables
        ],
    )


def _by_fold(share: Share, mine: list[Any]) -> list[Any]:
    """What every process knows of its folds, in the order of the run's folds."""
    known = dict(pair for pairs in share.gather(list(zip(share.folds, mine, strict=True))) for pair in pairs)
    return [known[position] for position in sorted(known)]


def _resident(bags: Bags, cohort: Cohort, device: torch.device) -> Bags:
    """On a GPU the whole cohort stays on the device if it fills less than half of what is free."""
    if device.type != "cuda":
        return bags
    size = 2 * int((cohort.slides["patches"] * cohort.slides["width"]).sum())  # float16
    if size > torch.cuda.mem_get_info(device)[0] / 2:
        return bags
    return {case: bags[case].to(device) for case in bags}


def _sampled(bag: Tensor | None, case: str, epoch: int, config: TrainConfig) -> Tensor | None:
    most = config.patches_per_case
    if bag is None or most is None or len(bag) <= most:
        return bag
    chosen = generator(config.seed, "patches", epoch, case).choice(len(bag), most, replace=False)
    return bag[torch.from_numpy(np.sort(chosen)).to(bag.device)]


def _load(bags: Bags, case_ids: Sequence[str], learner: FoldLearner) -> list[Tensor]:
    return _moved([bags.get(case) for case in case_ids], learner)


def _moved(bags: Sequence[Tensor | None], learner: FoldLearner) -> list[Tensor]:
    empty = torch.empty(0, learner.width, device=learner.device)
    return [empty if bag is None else bag.to(learner.device, non_blocking=True) for bag in bags]


def _chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _autocast(device: torch.device) -> torch.autocast:
    # on the CPU autocast loses more in casting than it gains in products
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _precision(device: torch.device) -> str:
    """bf16 where large products may be computed in it; sums are always of fp32."""
    return "bf16" if device.type == "cuda" or computes_bf16() else "fp32"


def _digest(model: nn.Module) -> str:
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()
