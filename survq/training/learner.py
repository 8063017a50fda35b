"""FoldLearner: one fold in training, with its model, its optimizer and its table of the cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survq.data.batch import Bags, Batch, Preprocessing
from survq.data.cohort import Cohort, InputSpec
from survq.data.folds import Fold
from survq.data.streams import generator, torch_seed
from survq.models import MODELS, SurvivalModel
from survq.training.config import TrainConfig
from survq.training.fold import FittedFold, autocast, condensed, digest_of, encoder_of
from survq.training.share import ALONE, Share
from survq.training.tensor_file import flattened, unflattened

SURVIVAL = "survival loss"  # the name of the loss of all models; penalties have names of their own
OPTIMIZER = "optimizer/"  # prefix of its tensor names in a checkpoint


class FoldLearner:
    """A fold's model, its optimizer and its table of the cases."""

    def __init__(self, config: TrainConfig, cohort: Cohort, fold: Fold, device: torch.device):
        self.config, self.fold, self.device = config, fold, device
        self.diverged = ""  # the reason why the fold diverged; empty if it did not
        self.training, self.validation = frozenset(fold.training), frozenset(fold.validation)
        preprocessing = Preprocessing.fit(
            cohort,
            fold,
            intervals=config.intervals,
            interval_edges=config.interval_edges,
            expression_scale=config.expression_scale,
        )
        self.table = preprocessing.table(cohort).to(device)
        spec = replace(cohort.spec, intervals=config.intervals)
        self.model = initial_model(config, spec, fold.repeat, fold.index).to(device)
        self.fitted = FittedFold(
            config=config,
            repeat=fold.repeat,
            index=fold.index,
            spec=spec,
            preprocessing=preprocessing,
            gene_set_names={name: cohort.gene_sets[name].names for name in spec.gene_sets},
            encoder=encoder_of(cohort),
            trained_on=frozenset(map(digest_of, fold.training)),
            model=self.model,
        )
        self.learnable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.restart_optimizer()
        self._condensed: dict[str, Tensor] = {}

    def restart_optimizer(self) -> None:
        """Create a new optimizer, at the start of each stage of training. None for a model without parameters."""
        self.optimizer = _optimizer(self.config, self.learnable) if self.learnable else None

    def prepare(self, bags: Bags) -> None:
        torch.manual_seed(torch_seed(self.config.seed, "prepare", self.fold.repeat, self.fold.index))
        self.model.prepare(TrainingCases(self, bags))

    def needs_patches(self, case_id: str) -> bool:
        """Whether the patches of a case must be read: condensed patches are kept."""
        return case_id not in self._condensed

    def bag(self, case_id: str, patches: Mapping[str, Tensor]) -> Tensor:
        """The patches of a case, condensed if the model condenses them."""
        if self.model.condense is None:
            return patches[case_id]
        if self.needs_patches(case_id):
            self._condensed[case_id] = condensed(self.model, patches[case_id])
        return self._condensed[case_id]

    def step(
        self,
        batch: Batch,
        cases: int,
        seed: int,
        *,
        rate: float | None = None,
        share: Share = ALONE,
        pretraining: bool = False,
    ) -> dict[str, Tensor]:
        """One optimizer step on a batch of `cases` cases; `batch` is this process's part of it.

        `rate` replaces the learning rate of the settings. Returns each term of the loss, a scalar summed over the cases
        of this part, in double precision. The terms stay on the device: reading one would wait until a GPU has done all
        its work.
        """
        self.model.train()
        _seed(seed, self.device)
        if self.optimizer is not None:
            self.optimizer.zero_grad(set_to_none=True)
        terms: Mapping[str, Tensor] = {}
        if len(batch):
            with _explained_lack_of_memory(batch):
                with autocast(self.device):
                    terms = self.model.pretraining_loss(batch) if pretraining else self._terms(batch)
                loss = sum(terms.values(), torch.zeros((), device=self.device))
                if loss.requires_grad:
                    (loss * (len(batch) / cases)).backward()
        if self.optimizer is not None:
            for parameter in self.learnable:  # unused parameters are updated too, as in a larger batch
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            share.sum_gradients(self.model)
            for group in self.optimizer.param_groups:
                group["lr"] = self.config.learning_rate if rate is None else rate
            self.optimizer.step()
        share.copy_buffers(self.model)
        return {name: term.detach().to(self.device, torch.double) * len(batch) for name, term in terms.items()}

    def predict(self, batch: Batch) -> pd.DataFrame:
        """See FittedFold.predict."""
        with _explained_lack_of_memory(batch):
            predictions = self.fitted.predict(batch)
        if not self.diverged and not np.isfinite(predictions["risk"]).all():
            self.diverged = f"a prediction of fold {self.fold.index} is not a number; try a lower learning rate"
        return predictions

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        """The survival loss and the model's penalties, each a mean over cases."""
        prediction = self.model(batch)
        prediction = replace(prediction, logits=prediction.logits.float())
        nll = prediction.nll(batch.interval, batch.event, self.config.nll_alpha)
        return {SURVIVAL: nll.mean(), **prediction.penalties}

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors, for a checkpoint."""
        state = {} if self.optimizer is None else self.optimizer.state_dict()["state"]
        return {OPTIMIZER + name: tensor for name, tensor in flattened(state).items()}

    def restore(self, fold: FittedFold, tensors: Mapping[str, Tensor]) -> None:
        """Restore the weights and the optimizer of a checkpoint."""
        self.model.load_state_dict(fold.model.state_dict())
        if self.optimizer is not None:
            own = {n.removeprefix(OPTIMIZER): t for n, t in tensors.items() if n.startswith(OPTIMIZER)}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": unflattened(own)})


@contextmanager
def _explained_lack_of_memory(batch: Batch) -> Iterator[None]:
    """If a GPU's memory runs out, raise OutOfMemoryError with the size of the batch, and what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        sizes = [len(bag) for bag in batch.bags]
        raise torch.OutOfMemoryError(
            f"the memory of the GPU ran out on {len(batch)} cases with {sum(sizes):,} patches, {max(sizes):,} of them "
            f"of one case. Fix: give each trial a whole GPU (--gpus-per-trial 1), or several (--workers-per-trial). "
            f"Torch says: {error}"
        ) from None


def _seed(seed: int, device: torch.device) -> None:
    """Seed PyTorch's random numbers on the CPU and on this device.

    In each step, `torch.manual_seed` would take 0.4 ms: it also seeds all other kinds of devices, and formats the stack
    for each kind that the machine lacks.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def initial_model(config: TrainConfig, spec: InputSpec, repeat: int, index: int) -> SurvivalModel:
    """The model of a fold before its first step. Its weights depend on the seed and the fold alone."""
    torch.manual_seed(torch_seed(config.seed, "weights", repeat, index))
    return MODELS[config.model](spec, **config.hyperparameters)


class TrainingCases:
    """The training cases of a fold in batches. Each iteration has a new order, which depends on the seed alone."""

    def __init__(self, learner: FoldLearner, bags: Bags):
        self._learner, self._bags = learner, bags
        self._passes = 0

    def __iter__(self) -> Iterator[Batch]:
        learner, config = self._learner, self._learner.config
        self._passes += 1
        random = generator(config.seed, "prepare", learner.fold.repeat, learner.fold.index, self._passes)
        order = random.permutation(sorted(learner.training)).tolist()
        empty = torch.empty(0, learner.fitted.spec.patch_features, device=learner.device)
        for start in range(0, len(order), config.batch_size):
            chunk = order[start : start + config.batch_size]
            bags = [self._bags[case].to(learner.device) if case in self._bags else empty for case in chunk]
            yield learner.table.batch(chunk, bags)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate at `step`, counted from 0 over all epochs of a stage, with `steps` steps per epoch.

    The cosine schedule rises linearly during the first epoch, and falls along half a cosine during the others.
    """
    if config.schedule == "constant":
        return config.learning_rate
    if step < steps:
        return config.learning_rate * step / steps
    progress = (step - steps) / max(1, steps * (config.epochs - 1))
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(config: TrainConfig, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    return kinds[config.optimizer](parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
