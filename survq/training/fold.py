"""FittedFold: the trained model of one fold and everything that was fitted with it. It predicts, saves and loads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from survq.data.batch import Bags, Batch, CaseTable, Preprocessing
from survq.data.cohort import Cohort, InputSpec
from survq.data.expression import ExpressionScale
from survq.data.folds import TimeIntervals
from survq.data.problems import DataError
from survq.models import MODELS, Prediction, SurvivalModel
from survq.training.config import TrainConfig
from survq.training.tensor_file import read_tensor_file, tensor_file

FORMAT = 1  # of the files
MODEL, FITTED = "model/", "fitted/"  # prefixes of the names of tensors


@dataclass(frozen=True, eq=False)
class FittedFold:
    """A model as one fold trained it. Case tables and bags are those of any cohort with the same genes and encoder."""

    config: TrainConfig
    repeat: int
    index: int
    spec: InputSpec
    preprocessing: Preprocessing
    gene_set_names: Mapping[str, tuple[str, ...]]  # of each collection that the model reads, in the order of the spec
    encoder: str  # of the patch features; empty where there were none
    trained_on: frozenset[str]  # digests of its training cases' ids, which the file does not name
    model: SurvivalModel

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"fold-{self.repeat}-{self.index}.safetensors"

    @torch.no_grad()
    def predict(self, batch: Batch) -> pd.DataFrame:
        """A row per case: case_id, repeat, fold, event, interval, risk, nll and the hazard of each interval."""
        self.model.eval()
        with autocast(batch.time.device):
            prediction = self.model(batch)
        logits = prediction.logits.double()
        prediction = Prediction(logits.where(logits.isfinite(), torch.nan), prediction.case)
        hazards = prediction.hazards.cpu().numpy()
        columns = {
            "event": batch.event,
            "interval": batch.interval,
            "risk": prediction.risk,
            "nll": prediction.nll(batch.interval, batch.event),
        }
        return pd.DataFrame(
            {"case_id": batch.case_ids, "repeat": self.repeat, "fold": self.index}
            | {name: column.cpu().numpy() for name, column in columns.items()}
            | {f"hazard_{k}": hazards[:, k] for k in range(hazards.shape[1])}
        )

    def predict_cases(self, table: CaseTable, bags: Bags, case_ids: Sequence[str]) -> pd.DataFrame:
        """`predict` in batches, for cases of `table` whose patches are in `bags`; on the device of `table`."""
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

    def content(self, further: Mapping[str, Tensor] | None = None, **description: Any) -> bytes:
        """The content of its file. `further` tensors and descriptions are kept beside it and come back from `load`."""
        fitted = self.preprocessing
        tensors = {
            FITTED + "offset": torch.from_numpy(np.asarray(fitted.scale.offset, np.float64)),
            FITTED + "factor": torch.from_numpy(np.asarray(fitted.scale.factor, np.float64)),
            FITTED + "lowest": torch.from_numpy(fitted.lowest),
            FITTED + "highest": torch.from_numpy(fitted.highest),
            **{MODEL + name: tensor for name, tensor in self.model.state_dict().items()},
            **(further or {}),
        }
        return tensor_file(
            tensors,
            {
                "format": FORMAT,
                "config": asdict(self.config),
                "repeat": self.repeat,
                "fold": self.index,
                "spec": asdict(self.spec),
                "genes": fitted.genes,
                "keeps_zeros": fitted.scale.keeps_zeros,
                "interval_edges": fitted.intervals.edges,
                "gene_set_names": dict(self.gene_set_names),
                "encoder": self.encoder,
                "trained_on": sorted(self.trained_on),
                **description,
            },
        )

    @classmethod
    def load(cls, file: Path) -> FittedFold:
        """Read the file of a fold. Raises DataError where it holds anything but the model that it describes."""
        tensors, description = read_tensor_file(file)
        try:
            return cls._from(tensors, description)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            problem = f"{file}: does not hold the model that it describes ({type(error).__name__}: {reason})."
            raise DataError([f"{problem} Fix: restore the file, or train the run again."]) from error

    @classmethod
    def _from(cls, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> FittedFold:
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']!r}; this version of survq reads {FORMAT}")
        config = TrainConfig(**description["config"])
        sizes = description["spec"]
        gene_sets = {name: tuple(map(tuple, sets)) for name, sets in sizes["gene_sets"].items()}
        spec = InputSpec(**{**sizes, "gene_sets": gene_sets})
        weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
        model = _build(config, spec, weights)
        offset, factor = (tensors[FITTED + name].numpy() for name in ("offset", "factor"))
        scale = ExpressionScale(
            offset if offset.ndim else float(offset),
            factor if factor.ndim else float(factor),
            description["keeps_zeros"],
        )
        lowest, highest = (tensors[FITTED + name].numpy() for name in ("lowest", "highest"))
        genes = tuple(description["genes"])
        if not len(genes) == spec.genes == len(lowest) == len(highest) or np.shape(offset) not in ((), (len(genes),)):
            raise ValueError("its genes and their scales differ in number")
        return cls(
            config=config,
            repeat=int(description["repeat"]),
            index=int(description["fold"]),
            spec=spec,
            preprocessing=Preprocessing(
                genes, scale, lowest, highest, TimeIntervals(tuple(map(float, description["interval_edges"])))
            ),
            gene_set_names={name: tuple(sets) for name, sets in description["gene_set_names"].items()},
            encoder=str(description["encoder"]),
            trained_on=frozenset(map(str, description["trained_on"])),
            model=model.eval(),
        )


def _build(config: TrainConfig, spec: InputSpec, weights: Mapping[str, Tensor]) -> SurvivalModel:
    """The model with these weights. Its sizes are compared first, so that no description asks for absurd memory."""
    kind = MODELS[config.model]
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in kind(spec, **config.hyperparameters).state_dict().items()}
    if expected != (found := {name: tensor.shape for name, tensor in weights.items()}):
        differing = sorted({*expected.items()} ^ {*found.items()})
        raise ValueError(f"its weights are not those of the model, first {differing[0][0]!r}")
    model = kind(spec, **config.hyperparameters)
    model.load_state_dict(weights)
    return model


@torch.no_grad()
def condensed(model: SurvivalModel, bag: Tensor) -> Tensor:
    """What the model makes of a case's patches before anything else; of a case without slides, nothing."""
    assert model.condense is not None
    model.eval()
    return model.condense(bag) if len(bag) else bag


def autocast(device: torch.device) -> torch.autocast:
    # on the CPU autocast loses more in casting than it gains in products
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def digest_of(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()[:16]


def encoder_of(cohort: Cohort) -> str:
    return str(cohort.slides["encoder"].iloc[0]) if len(cohort.slides) else ""
