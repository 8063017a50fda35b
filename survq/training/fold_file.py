"""The file of a fitted fold: its tensors, and in the header everything else that prediction needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survq.data.batch import Preprocessing
from survq.data.clinical import ClinicalScale
from survq.data.cohort import InputSpec
from survq.data.expression import ExpressionScale
from survq.data.folds import TimeIntervals
from survq.data.problems import DataError
from survq.models import MODELS, SurvivalModel
from survq.text import shortened
from survq.training.config import TrainConfig
from survq.training.fold import FittedFold
from survq.training.tensor_file import read_tensor_file, tensor_file

FORMAT = 3  # version of the file format
MODEL, FITTED = "model/", "fitted/"  # prefixes of tensor names


def fold_content(fold: FittedFold, further: Mapping[str, Tensor] | None = None) -> bytes:
    """The content of the file of a fold, with `further` tensors in addition to its own."""
    fitted = fold.preprocessing
    tensors = {
        FITTED + "offset": torch.from_numpy(np.asarray(fitted.scale.offset, np.float64)),
        FITTED + "factor": torch.from_numpy(np.asarray(fitted.scale.factor, np.float64)),
        FITTED + "lowest": torch.from_numpy(fitted.lowest),
        FITTED + "highest": torch.from_numpy(fitted.highest),
        FITTED + "means": torch.from_numpy(np.zeros_like(fitted.lowest) if fitted.means is None else fitted.means),
        FITTED + "clinical_mean": torch.from_numpy(fitted.clinical.mean),
        FITTED + "clinical_deviation": torch.from_numpy(fitted.clinical.deviation),
        **{MODEL + name: tensor for name, tensor in fold.model.state_dict().items()},
        **(further or {}),
    }
    return tensor_file(
        tensors,
        {
            "format": FORMAT,
            "config": asdict(fold.config),
            "repeat": fold.repeat,
            "fold": fold.index,
            "spec": asdict(fold.spec),
            "genes": fitted.genes,
            "keeps_zeros": fitted.scale.keeps_zeros,
            "interval_edges": fitted.intervals.edges,
            "gene_set_names": dict(fold.gene_set_names),
            "encoder": fold.encoder,
            "trained_on": sorted(fold.trained_on),
        },
    )


def read_fold(file: Path) -> tuple[FittedFold, dict[str, Tensor]]:
    """The fold in a file, and all tensors of the file.

    Raises DataError if the file does not contain the model that it describes.
    """
    tensors, description = read_tensor_file(file)
    try:
        return _fold(tensors, description), tensors
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, MemoryError) as error:
        reason = shortened(str(error), 200)
        problem = f"{file}: does not contain the model that it describes ({type(error).__name__}: {reason})."
        raise DataError([f"{problem} Fix: restore the file, or train the run again."]) from error


def _fold(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> FittedFold:
    if description["format"] != FORMAT:
        raise ValueError(f"format {description['format']!r}; this version of survq reads {FORMAT}")
    config = TrainConfig(**description["config"])
    sizes = description["spec"]
    gene_sets = {name: tuple(map(tuple, sets)) for name, sets in sizes["gene_sets"].items()}
    spec = InputSpec(**{**sizes, "gene_sets": gene_sets, "clinical": tuple(map(str, sizes["clinical"]))})
    weights = {name.removeprefix(MODEL): tensor for name, tensor in tensors.items() if name.startswith(MODEL)}
    model = _build(config, spec, weights)
    affine = (tensors[FITTED + name].numpy() for name in ("offset", "factor"))
    offset, factor = (value if value.ndim else float(value) for value in affine)
    scale = ExpressionScale(offset, factor, bool(description["keeps_zeros"]))
    lowest, highest, means = (tensors[FITTED + name].numpy() for name in ("lowest", "highest", "means"))
    mean, deviation = (tensors[FITTED + name].numpy() for name in ("clinical_mean", "clinical_deviation"))
    genes = tuple(description["genes"])
    if any(not 0 <= gene < len(genes) for sets in gene_sets.values() for members in sets for gene in members):
        raise ValueError("a gene set refers to an unknown gene")
    if not len(genes) == spec.genes == len(lowest) == len(highest) == len(means) or np.shape(offset) not in (
        (),
        (len(genes),),
    ):
        raise ValueError("the number of genes differs from the number of scales")
    if not len(spec.clinical) == len(mean) == len(deviation):
        raise ValueError("the number of clinical covariates differs from the number of scales")
    return FittedFold(
        config=config,
        repeat=int(description["repeat"]),
        index=int(description["fold"]),
        spec=spec,
        preprocessing=Preprocessing(
            genes=genes,
            scale=scale,
            lowest=lowest,
            highest=highest,
            clinical=ClinicalScale(spec.clinical, mean, deviation),
            intervals=TimeIntervals(tuple(map(float, description["interval_edges"]))),
            means=means,
        ),
        gene_set_names={name: tuple(sets) for name, sets in description["gene_set_names"].items()},
        encoder=str(description["encoder"]),
        trained_on=frozenset(map(str, description["trained_on"])),
        model=model.eval(),
    )


def _build(config: TrainConfig, spec: InputSpec, weights: Mapping[str, Tensor]) -> SurvivalModel:
    """The model with these weights. Sizes are compared first: a wrong description cannot allocate excessive memory."""
    kind = MODELS[config.model]
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in kind(spec, **config.hyperparameters).state_dict().items()}
    if expected != (found := {name: tensor.shape for name, tensor in weights.items()}):
        differing = sorted({*expected.items()} ^ {*found.items()})
        raise ValueError(f"the weights do not match the model; the first difference is {differing[0][0]!r}")
    model = kind(spec, **config.hyperparameters)
    model.load_state_dict(weights)
    return model
