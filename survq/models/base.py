"""The interface of all models: a batch of cases in, the logits of each time interval's hazard out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import Cohort, InputSpec
from survq.models.losses import nll_by_case
from survq.models.space import Range


@dataclass(frozen=True)
class AttentionMaps:
    """Attention maps and tokens of a batch. A field is None if the model or the case lacks it."""

    histology: tuple[Float[Tensor, "query _"] | None, ...] | None = None  # one (query, patch) per case
    genomics: Float[Tensor, "case genomic_query gene_set"] | None = None
    fusion: tuple[Float[Tensor, "case token token"], ...] = ()  # one per layer
    tokens: Float[Tensor, "case token width"] | None = None  # before fusion
    fused: Float[Tensor, "case token width"] | None = None


@dataclass(frozen=True)
class Prediction:
    """A model's output for a batch.

    A case has one row of logits, or several if the model predicts from several parts of it (micro-bags). Loss, hazards,
    survival and risk of a case are then means over its rows.
    """

    logits: Float[Tensor, "row interval"]
    case: Int[Tensor, " row"] | None = None  # on the CPU: the place of a row's case in the batch; None: a row per case
    penalties: Mapping[str, Tensor] = field(default_factory=dict)  # added to the loss; each a mean over cases
    attention: AttentionMaps | None = None  # filled on request

    @property
    def hazards(self) -> Float[Tensor, "case interval"]:
        """P(death in the interval, given survival up to it)."""
        return self._mean_over_rows(torch.sigmoid(self.logits))

    @property
    def survival(self) -> Float[Tensor, "case interval"]:
        """P(alive after the interval)."""
        return self._mean_over_rows(torch.cumprod(1 - torch.sigmoid(self.logits), dim=1))

    @property
    def risk(self) -> Float[Tensor, " case"]:
        """Minus the expected number of intervals survived, in [-n, 0]; a higher risk means a worse prognosis."""
        return -self.survival.sum(dim=1)

    def nll(
        self, interval: Int[Tensor, " case"], event: Bool[Tensor, " case"], alpha: float = 0.0
    ) -> Float[Tensor, " case"]:
        """The survival loss of each case, see `nll_by_case`."""
        if self.case is None:
            return nll_by_case(self.logits, interval, event, alpha)
        case = self.case.to(interval.device, non_blocking=True)
        return self._mean_over_rows(nll_by_case(self.logits, interval[case], event[case], alpha))

    def _mean_over_rows(self, values: Tensor) -> Tensor:
        """(row, ...) to (case, ...)."""
        if self.case is None:
            return values
        on_cpu = self.case, torch.bincount(self.case)  # whose length a GPU would have to be asked for
        case, rows = (numbers.to(values.device, non_blocking=True) for numbers in on_cpu)
        sums = values.new_zeros(len(rows), *values.shape[1:]).index_add(0, case, values)
        return sums / rows.view(-1, *[1] * (values.dim() - 1))


class SurvivalModel(nn.Module):
    """Interface of all models, built as `Model(spec, **hyperparameters)`: `spec` holds the sizes of the data, and the
    keyword arguments with their defaults are the hyperparameters.

    Everything that `prepare` fits is a buffer or a parameter whose size is known in `__init__`, so that it is saved and
    restored with the weights.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"histology", "genomics"})
    """The modalities that the model reads if a case has them; empty: it predicts the same for all cases."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """The modalities without which the model cannot predict a case. A case always needs one of `reads`, and
    clinical covariates are enough only for a model that reads nothing else."""

    gene_sets: ClassVar[tuple[str, ...]] = ()
    """Names of the gene sets by which the model reads expression, such as "pathways"; empty: it reads all genes.
    If a cohort lacks one of them, its expression cannot be read."""

    native: ClassVar[Mapping[str, Any]] = {}
    """The training settings of the model's own paper that differ from the defaults of TrainConfig."""

    space: ClassVar[Mapping[str, Range]] = {}
    """The hyperparameters worth searching, and their ranges."""

    sizes: ClassVar[tuple[str, ...]] = ()
    """The hyperparameters that measure its complexity: of equally good settings, a search selects the smallest sum."""

    learns: ClassVar[bool] = True
    """False: `prepare` fits the whole model, so that one epoch is enough and learning rates change nothing."""

    pretraining_epochs: int = 0
    """Epochs of `pretraining_loss` before training. They do not count as training epochs."""

    nested: bool = False
    """Whether the model contains smaller ones, with fewer of its `sizes`; see `predictions_by_size`."""

    condense: Callable[[Tensor], Tensor] | None = None
    """Optional map of a case's patches (patch, feature) to a smaller tensor (row, any width), without gradient. The
    output replaces the patches in the model's batches. It is called once per case and fold, after `prepare`."""

    @classmethod
    def not_applicable(cls, spec: InputSpec) -> str | None:
        """Why the model cannot be applied to a cohort of these sizes; None if it can."""
        lacking = {"histology": "no slides"} if not spec.patch_features else {}
        if not spec.clinical:
            lacking["clinical"] = "no clinical covariates"
        if not spec.genes:
            lacking["genomics"] = "no expression"
        elif missing := [name for name in cls.gene_sets if not spec.gene_sets.get(name)]:
            lacking["genomics"] = f"no gene of the {' and '.join(missing)}"
        reasons = [reason for modality, reason in lacking.items() if modality in cls.reads]
        if cls.needs & lacking.keys() or (cls.reads and cls._sufficient() <= lacking.keys()):
            return "the cohort has " + " and ".join(reasons)
        return None

    @classmethod
    def space_for(cls, spec: InputSpec) -> Mapping[str, Range]:
        """The part of `space` that matters for a cohort of these sizes."""
        return cls.space

    @classmethod
    def readable(cls, cohort: Cohort, spec: InputSpec | None = None) -> np.ndarray:
        """(case,), bool: the cases that a model of these sizes (default: the cohort's own) can predict."""
        spec = spec or cohort.spec
        present = {
            "histology": cohort.has_slides & bool(spec.patch_features),
            "genomics": cohort.has_expression & all(spec.gene_sets.get(name) for name in cls.gene_sets),
            "clinical": np.full(len(cohort.cases), bool(spec.clinical)),  # unknown values are imputed
        }
        every = np.ones(len(cohort.cases), dtype=bool)
        any_of_them = np.any([present[modality] for modality in cls._sufficient()], axis=0) if cls.reads else every
        return np.all([any_of_them, *(present[modality] for modality in cls.needs)], axis=0)

    def patch_dtype(self, device: torch.device) -> torch.dtype:
        """The dtype to which the model rounds patch features on this device, before it computes anything from them.

        Batches may hold them in this dtype, converted once per study, or in float16, in which they are stored. float16:
        the model does not round them.
        """
        return torch.float16

    def precision(self, device: torch.device) -> torch.dtype:
        """The dtype of the largest matrix products on this device. Sums are in float32."""
        return torch.bfloat16 if torch.is_autocast_enabled(device.type) else torch.float32

    @classmethod
    def _sufficient(cls) -> frozenset[str]:
        """The modalities of which a case needs one."""
        return cls.reads - {"clinical"} or cls.reads

    def prepare(self, training: Iterable[Batch]) -> None:
        """Fit state that is not learned by gradient (prototypes, clusters) on the training cases. Default: nothing.

        `training` can be iterated repeatedly. Each pass yields batches of all training cases of the fold in a new order
        that depends only on the seed.
        """

    def start_epoch(self, number: int) -> None:
        """Called before every epoch of pretraining, then before every epoch of training; both are counted from 1."""

    def pretraining_loss(self, batch: Batch) -> Mapping[str, Tensor]:
        """Terms of the pretraining loss, by name. Each is a mean over cases; the loss is their sum."""
        raise NotImplementedError

    def forward(self, batch: Batch, *, keep_attention: bool = False) -> Prediction:
        raise NotImplementedError

    def predictions_by_size(self, batch: Batch) -> Mapping[tuple[int, ...], Prediction]:
        """The predictions of the models that this one contains, itself included, by their `sizes`. Only if `nested`.

        Each has one row of logits per case.
        """
        raise NotImplementedError
