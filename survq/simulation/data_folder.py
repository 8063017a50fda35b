"""Simulated cohorts of a data folder: how they are written with their truth, and recognised."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from survq.data import streams
from survq.data.cohort_files import cohort_folder, read_source
from survq.data.folds import Fold, make_folds
from survq.data.location import Location, parquet
from survq.data.problems import DataError
from survq.data.write import write_cohort
from survq.exits import UsageError
from survq.simulation import cohort as cohorts
from survq.simulation import gene_sets, tissue, worlds
from survq.simulation.cohort import SimulatedCohort, World
from survq.simulation.gene_sets import draw_gene_sets
from survq.simulation.worlds import PRESETS, PROGNOSTIC, WorldConfig
from survq.text import preview

PARTS = ("labels", "expression", "splits", "features")  # of a cohort, as named in source.json
SIMULATED = {"made_by": "survq simulate"}  # entry of a simulated part in source.json
# the modules that determine a simulation
SIMULATOR = (sys.modules[__name__], cohorts, gene_sets, tissue, worlds, streams)


def write_simulated(
    root: str | Path,
    world: str | WorldConfig = "demo",
    cases: int | None = None,
    seed: int = 0,
    name: str = "SIM",
    *,
    held_out: int | None = None,
) -> Path:
    """Simulate a cohort, write it as cohort `name` of a data folder, and return the cohort's folder.

    `world` is the name of a preset or a configuration; `cases` and `held_out` override its numbers. If cases are held
    out, the splits have one fold (repeat 0, fold 0): the first `cases` are for training, the others for validation. All
    cohorts of a data folder share its gene sets and must therefore be of one world. The cohort has two further files:

        truth.parquet       case_id, eta, h, g, has_slides, has_expression
        simulation.json     config, seed, a hash of the simulator, the planted pathways, and the oracle's C-index: on
                            held-out cases per fold, mean over folds ("oracle", comparable to a model's), and on all
                            cases

    An existing simulated cohort is replaced. Raises DataError if the folder contains other data, which would be lost.
    """
    if isinstance(world, str):
        if world not in PRESETS:
            raise UsageError(f"No preset {world!r}; expected one of {', '.join(PRESETS)}, or a WorldConfig.")
        world = PRESETS[world]
    config = replace(
        world,
        cases=world.cases if cases is None else cases,
        held_out=world.held_out if held_out is None else held_out,
    )
    folder = cohort_folder(root, name)
    parts = read_source(folder)
    if (there := folder.names()) and not (parts and all(_is_simulated(part) for part in parts.values())):
        raise DataError(
            [
                f"{folder}: contains data that were not simulated ({preview(there)}) and would be replaced. "
                f"Fix: give the simulated cohort another name or folder."
            ]
        )
    cohort = World(config).cohort(config.cases + config.held_out, seed)
    folds = _folds(cohort, seed)
    return write_cohort(
        root,
        name,
        cases=cohort.cases,
        expression=cohort.expression,
        slides=cohort.slides(),
        splits=_splits(folds),
        gene_sets=draw_gene_sets(config, cohort.world.transcriptome),
        attachments={
            "truth.parquet": parquet(cohort.truth.reset_index()),
            "simulation.json": json.dumps(_account(cohort, folds), indent=2).encode(),
            "source.json": json.dumps(dict.fromkeys(PARTS, SIMULATED), indent=1, sort_keys=True).encode(),
        },
    )


def read_simulation(folder: Location) -> dict | None:
    """simulation.json of a cohort; None if its labels are not simulated (any longer)."""
    if not _is_simulated(read_source(folder).get("labels", {})):
        return None
    return json.loads((folder / "simulation.json").read_text())


def simulator() -> str:
    """A hash of the simulating code, because other code may draw other cohorts."""
    code = "".join(inspect.getsource(module) for module in SIMULATOR)
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _is_simulated(part: dict) -> bool:
    """Whether a part of a cohort was simulated, by its entry in source.json: an import replaces the entry."""
    return part == SIMULATED


def _folds(cohort: SimulatedCohort, seed: int) -> list[Fold]:
    config, case_ids = cohort.world.config, tuple(cohort.cases.index)
    if config.held_out:
        return [Fold(0, 0, case_ids[: config.cases], case_ids[config.cases :])]
    return make_folds(cohort.cases, k=config.folds, seed=seed)


def _splits(folds: Sequence[Fold]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (fold.repeat, fold.index, case, role)
            for fold in folds
            for role, cases in (("training", fold.training), ("validation", fold.validation))
            for case in cases
        ],
        columns=["repeat", "fold", "case_id", "role"],
    )


def _account(cohort: SimulatedCohort, folds: Sequence[Fold]) -> dict:
    """The contents of simulation.json."""
    of_folds = pd.DataFrame([cohort.oracle(fold.validation) for fold in folds])
    return {
        "config": asdict(cohort.world.config),
        "seed": cohort.seed,
        "simulator": simulator(),
        "prognostic_morphologies": list(PROGNOSTIC),
        "planted_pathways": dict(
            zip(cohort.planted_pathways, cohort.world.transcriptome.weight.round(4).tolist(), strict=True)
        ),
        "oracle": _numbers(of_folds.mean().to_dict()),
        "oracle_all_cases": _numbers(cohort.oracle()),
    }


def _numbers(values: dict) -> dict:
    """Rounded values. An undefined C-index becomes null, because JSON has no NaN."""
    return {str(key): None if np.isnan(value) else round(float(value), 6) for key, value in values.items()}
