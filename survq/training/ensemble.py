"""The fold models of a finished run, applied as an ensemble to cases of any cohort.

A fold model never predicts its own training cases. All models predict a new case; the models that held out a case of
the run predict that case.

Risks of different models are on different scales. Therefore each risk is first converted to a percentile: the fraction
of the fold's held-out cases with a lower risk (ties count one half). The ensemble's risk is the mean percentile, in
[0, 1]. It does not depend on the other predicted cases.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from survq.data.batch import Bags
from survq.data.clinical import clinical_values
from survq.data.cohort import Cohort
from survq.data.problems import DataError, raise_if_any
from survq.models import MODELS
from survq.text import preview
from survq.training.fold import FittedFold, digest_of
from survq.training.fold_file import read_fold
from survq.training.record import CURVE, UNREADABLE, Record, read_record

ENSEMBLE = "ensemble"
OUT_OF_RANGE = 0.1  # largest fraction of genes with a median outside of the training cases' range


def load_run(folder: Path) -> tuple[Record, list[FittedFold]]:
    """A finished run and the models of its folds; all checksums are verified. Raises DataError or FileNotFoundError."""
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{folder}: no finished run; expected a folder with report.json.")
    try:
        record = read_record(folder)
    except UNREADABLE as error:
        raise DataError([f"{folder}: damaged ({error}). Fix: restore it, or train the run again."]) from error
    files = sorted(name for name in record.report.files if name.endswith(".safetensors"))
    if not files or record.predictions is None:
        raise DataError([f"{folder}: the weights were not kept. Fix: run the study again with --keep-weights."])
    for name in files:
        record.read(name)  # checks every byte
    return record, [read_fold(folder / name)[0] for name in files]


def curve_of(record: Record) -> pd.DataFrame:
    """Held-out predictions of a nested run by its sizes. Raises DataError if the run is not nested."""
    if CURVE not in record.report.files:
        raise DataError([f"{record.folder}: has no nested queries. Fix: train it with nested_queries=True."])
    return pq.ParquetFile(io.BytesIO(record.read(CURVE))).read().to_pandas()


def of_size(
    curve: pd.DataFrame, folds: Sequence[FittedFold], sizes: Sequence[int]
) -> tuple[pd.DataFrame, list[FittedFold]]:
    """The models of these `sizes` that nested models contain, and their held-out predictions.

    Raises DataError if the curve lacks these sizes.
    """
    names = list(type(folds[0].model).sizes)
    own = curve[(curve[names] == list(sizes)).all(axis=1)]
    if own.empty:
        has = [",".join(map(str, row)) for row in curve[names].drop_duplicates().to_numpy().tolist()]
        asked = ",".join(map(str, sizes))
        raise DataError([f"the run has no {asked}; it has {', '.join(has)}. Fix: choose one of them."])
    return own, [_smaller(fold, dict(zip(names, sizes, strict=True))) for fold in folds]


def _smaller(fold: FittedFold, sizes: Mapping[str, int]) -> FittedFold:
    """The model with the first rows of each parameter that depends on the sizes."""
    config = replace(fold.config, hyperparameters={**fold.config.hyperparameters, **sizes})
    model = MODELS[config.model](fold.spec, **config.hyperparameters)
    weights = fold.model.state_dict()
    model.load_state_dict(
        {name: weights[name][: len(own)] if own.dim() else weights[name] for name, own in model.state_dict().items()}
    )
    return replace(fold, config=config, model=model.eval())


def incompatibilities(fold: FittedFold, cohort: Cohort) -> list[str]:
    """Why the model of a fold cannot read a cohort: missing genes or covariates, scale of expression, features."""
    problems = []
    if _reads_patches(fold) and len(cohort.slides):
        width, encoder = int(cohort.slides["width"].iloc[0]), str(cohort.slides["encoder"].iloc[0])
        if (width, encoder) != (fold.spec.patch_features, fold.encoder):
            problems.append(
                f"cohort {cohort.name}: patch features of {encoder}, {width} wide; the model was trained on those of "
                f"{fold.encoder}, {fold.spec.patch_features} wide. Fix: extract features with {fold.encoder}."
            )
    genes = fold.preprocessing.genes
    if genes and cohort.expression is not None and "genomics" in type(fold.model).reads:
        if missing := [gene for gene in genes if gene not in cohort.expression.columns]:
            problems.append(
                f"cohort {cohort.name}: {len(missing)} of the {len(genes)} genes of the model are missing: "
                f"{preview(missing)}. Fix: import expression with these genes, under the same symbols."
            )
        else:
            median = cohort.expression[list(genes)].median().to_numpy()
            outside = (median < fold.preprocessing.lowest) | (median > fold.preprocessing.highest)
            if outside.mean() > OUT_OF_RANGE:
                problems.append(
                    f"cohort {cohort.name}: different scale of expression: the medians of {int(outside.sum())} of "
                    f"{len(genes)} genes are outside of the training range. Fix: import it in the unit of the "
                    f"training cohort, such as log2(TPM + 0.001)."
                )
    if "clinical" in type(fold.model).reads:
        values = clinical_values(cohort.cases, fold.spec.clinical)
        unknown = [name for name, column in zip(fold.spec.clinical, values.T, strict=True) if np.isnan(column).all()]
        if unknown:
            problems.append(
                f"cohort {cohort.name}: {preview(unknown)} of no case is known; the model reads it. Fix: import labels "
                f"with these covariates."
            )
    return problems


def _reads_patches(fold: FittedFold) -> bool:
    return bool(fold.spec.patch_features) and "histology" in type(fold.model).reads


def predict(record: Record, folds: Sequence[FittedFold], cohort: Cohort, bags: Bags) -> pd.DataFrame:
    """One row per case and model, the ensemble last: case_id, model, seen, risk, percentile; hazards of the models.

    `seen` is "new" for a case that is not in the run, and "held out" for a case that this model held out. Raises
    DataError if the models cannot read the cohort.
    """
    raise_if_any(incompatibilities(folds[0], cohort))
    readable = cohort.cases.index[type(folds[0].model).readable(cohort, folds[0].spec)]
    digests = {case: digest_of(case) for case in readable}
    seen = {case for case in readable if any(digests[case] in fold.trained_on for fold in folds)}
    rows = []
    for fold in folds:
        chosen = [case for case in readable if digests[case] not in fold.trained_on]
        if not chosen:
            continue
        table = fold.preprocessing.table(cohort)
        found = fold.predict_cases(table, bags if _reads_patches(fold) else {}, chosen)
        own = _held_out(record, fold)
        found.insert(1, "model", fold.file.removesuffix(".safetensors"))
        found.insert(2, "seen", ["held out" if case in seen else "new" for case in chosen])
        found["percentile"] = _percentile(found["risk"].to_numpy(), own["risk"].to_numpy())
        hazards = [column for column in found if column.startswith("hazard_")]
        rows.append(found[["case_id", "model", "seen", "risk", "percentile", *hazards]])
    if not rows:
        raise DataError([f"cohort {cohort.name}: no cases to predict: the models were trained on all readable cases."])
    by_model = pd.concat(rows, ignore_index=True)
    mean = by_model.groupby("case_id", as_index=False).agg(seen=("seen", "first"), percentile=("percentile", "mean"))
    together = mean.assign(model=ENSEMBLE, risk=mean["percentile"])
    return pd.concat([by_model, together], ignore_index=True)


def _held_out(record: Record, fold: FittedFold) -> pd.DataFrame:
    predictions = record.predictions
    assert predictions is not None
    return predictions[(predictions["repeat"] == fold.repeat) & (predictions["fold"] == fold.index)]


def _percentile(risk: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The fraction of the reference that is lower; ties count one half."""
    ordered = np.sort(reference)
    lower, not_higher = np.searchsorted(ordered, risk, "left"), np.searchsorted(ordered, risk, "right")
    return (lower + not_higher) / (2 * len(ordered))
