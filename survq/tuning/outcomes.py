"""The outcomes of searches: tables of trials and choices, predictions on outer folds, a file for Optuna's dashboard."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd

from survq.training.record import Record
from survq.tuning.search import Search


def trials_table(searches: Sequence[Search]) -> pd.DataFrame:
    """One row per trial: its setting, its result on the inner folds, and whether it was the best or chosen."""
    return pd.DataFrame(
        [
            {"cohort": search.cohort.name, "model": search.model, "search": search.name}
            | {"trial": trial.number, "state": trial.state}
            | {"best": trial is search.best, "chosen": trial is search.chosen}
            | ({"epoch": trial.best.epoch, "c_index": trial.best.mean_c_index} if trial.epochs else {})
            | trial.params
            for search in searches
            for trial in search.trials
        ]
    )


def outer_table(searches: Sequence[Search]) -> pd.DataFrame:
    """One row per outer fold: the choice, its C-index in the search (optimistic) and on the outer fold (unbiased)."""
    rows = []
    for search in searches:
        if search.outer is None or search.chosen is None or not all(search.refits.values()) or not search.refits:
            continue
        # NaN if a seed diverged: the mean of the others would be optimistic
        c_index = statistics.fmean(record.c_index for record in search.refits.values() if record is not None)
        rows.append(
            {"cohort": search.cohort.name, "model": search.model}
            | {"repeat": search.outer.repeat, "fold": search.outer.index}
            | search.chosen_params
            | {"epochs": search.chosen.best.epoch, "trial": search.chosen.number, "trials": len(search.trials)}
            | {"search_c_index_optimistic": search.sizes.c_index if search.sizes else search.chosen.best.mean_c_index}
            | {"c_index": c_index}
        )
    return pd.DataFrame(rows)


def outer_records(searches: Sequence[Search], seed: int = 0) -> list[Record]:
    """The finished runs of the choices on their outer folds, which were not used for selection."""
    records = [search.refits.get(seed) for search in searches]
    return [record for record in records if record is not None and record.state == "finished"]


def outer_predictions(searches: Sequence[Search], seed: int = 0) -> pd.DataFrame | None:
    """Their predictions, each case once per repeat; None if a run is missing: the others could be optimistic."""
    return _together(searches, outer_records(searches, seed))


def default_predictions(searches: Sequence[Search], seed: int = 0) -> pd.DataFrame | None:
    """Those of the default setting on the same outer folds; None if a run is missing."""
    records = [search.defaults.get(seed) for search in searches]
    return _together(searches, [record for record in records if record is not None and record.state == "finished"])


def _together(searches: Sequence[Search], records: Sequence[Record]) -> pd.DataFrame | None:
    if not searches or len(records) < len(searches):
        return None
    return pd.concat([record.predictions for record in records], ignore_index=True)


def write_optuna_view(searches: Sequence[Search], file: Path) -> None:
    """Write all trials to an SQLite file for optuna-dashboard. survq never reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}")
    for search in searches:
        name = f"{search.cohort.name}, {search.name}"
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        study.add_trials([trial.as_optuna_trial() for trial in search.trials])
