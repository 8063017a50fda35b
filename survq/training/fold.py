"""FittedFold: the trained model of one fold with its fitted preprocessing, for prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survq.data.batch import Bags, Batch, CaseTable, Preprocessing
from survq.data.cohort import Cohort, InputSpec
from survq.layers.precision import may_be_bf16
from survq.models import MODELS, Prediction, SurvivalModel
from survq.training.config import TrainConfig
from survq.training.run import weights_file


@dataclass(frozen=True, eq=False)
class FittedFold:
    """The trained model of one fold. It predicts cases of any cohort with the same genes and encoder."""

    config: TrainConfig
    repeat: int
    index: int
    spec: InputSpec
    preprocessing: Preprocessing
    gene_set_names: Mapping[str, tuple[str, ...]]  # per collection that the model reads, in the order of the spec
    encoder: str  # of the patch features; empty without patch features
    trained_on: frozenset[str]  # digests of the ids of its training cases: the file contains no ids
    model: SurvivalModel

    @property
    def file(self) -> str:
        """The name of its file (see fold_file.py)."""
        return weights_file(self.repeat, self.index)

    @torch.no_grad()
    def predict(self, batch: Batch) -> pd.DataFrame:
        """One row per case: case_id, repeat, fold, event, interval, risk, nll and the hazard of each interval."""
        self.model.eval()
        with autocast(batch.time.device):
            return self._table(batch, self.model(batch))

    @torch.no_grad()
    def predict_by_size(self, batch: Batch) -> pd.DataFrame:
        """`predict` of each model that a nested model contains, with a column for each of its `sizes`."""
        self.model.eval()
        with autocast(batch.time.device):
            found = self.model.predictions_by_size(batch)
        sizes = np.repeat(list(found), len(batch), axis=0)  # (row, size)
        together = Prediction(torch.cat([one.logits for one in found.values()]))
        table = self._table(batch, together, times=len(found))  # one table: many would take longer than the model
        return table.assign(**dict(zip(type(self.model).sizes, sizes.T, strict=True)))

    def _table(self, batch: Batch, prediction: Prediction, times: int = 1) -> pd.DataFrame:
        """`prediction` is of the cases of the batch, `times` over."""
        logits = prediction.logits.double()
        prediction = Prediction(logits.where(logits.isfinite(), torch.nan), prediction.case)
        event, interval = batch.event.repeat(times), batch.interval.repeat(times)
        columns = {
            "event": event,
            "interval": interval,
            "risk": prediction.risk,
            "nll": prediction.nll(interval, event),
            **{f"hazard_{k}": hazard for k, hazard in enumerate(prediction.hazards.T)},
        }
        columns = {name: values.cpu().numpy() for name, values in columns.items()}
        return pd.DataFrame({"case_id": batch.case_ids * times, "repeat": self.repeat, "fold": self.index} | columns)

    def predict_cases(self, table: CaseTable, bags: Bags, case_ids: Sequence[str]) -> pd.DataFrame:
        """`predict` in batches, for cases of `table` with their patches in `bags`, on the device of `table`."""
        size, device = self.config.batch_size, table.time.device
        empty = torch.empty(0, self.spec.patch_features, device=device)
        chunks = [case_ids[start : start + size] for start in range(0, len(case_ids), size)]
        predicted = []
        for chunk in chunks:
            loaded = [bags[case].to(device) if case in bags else empty for case in chunk]
            if self.model.condense is not None:
                loaded = [condensed(self.model, bag) for bag in loaded]
            predicted.append(self.predict(table.batch(chunk, loaded)))
        return pd.concat(predicted, ignore_index=True)


@torch.no_grad()
def condensed(model: SurvivalModel, bag: Tensor) -> Tensor:
    """The condensed patches of a case; unchanged if it has none."""
    assert model.condense is not None
    model.eval()
    return model.condense(bag) if len(bag) else bag


def autocast(device: torch.device) -> torch.autocast:
    # on the CPU, casting costs more time than bfloat16 products save
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def patch_dtype(model: SurvivalModel, device: torch.device) -> torch.dtype:
    """See `SurvivalModel.patch_dtype`; in training and prediction on this device."""
    with autocast(device):
        return model.patch_dtype(device)


def patch_dtype_of(config: TrainConfig, spec: InputSpec, device: torch.device) -> torch.dtype:
    """`patch_dtype` of the model of these settings, which is not built: it would need memory and random numbers."""
    if not may_be_bf16(device):  # on the meta device, PyTorch imports modules for 1.5 seconds
        return torch.float16
    with torch.device("meta"):
        model = MODELS[config.model](replace(spec, intervals=config.intervals), **config.hyperparameters)
    return patch_dtype(model, device)


def digest_of(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()[:16]


def encoder_of(cohort: Cohort) -> str:
    return str(cohort.slides["encoder"].iloc[0]) if len(cohort.slides) else ""
