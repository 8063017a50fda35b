"""The demo: the simulated cohort of a study without `--data`, and the settings of small models for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from survq.data.cohort import Cohort
from survq.data.location import Location
from survq.simulation.data_folder import read_simulation, simulator, write_simulated

TRAINING = {"epochs": 20, "learning_rate": 2e-3}  # a small cohort needs fewer epochs and larger steps
HYPERPARAMETERS = {"width": 32}  # of a small model, if it has them
SEARCH_EPOCHS, SEARCH_TRIALS = 16, 8  # per trial, and per search
SEARCH_LIMITS = {"histology_queries": 64, "genomic_queries": 64}  # upper ends of a search, if the model has them


def demo_folder(results: Path) -> Location:
    """The data folder of the demo, in the results folder."""
    return Location.at(results) / "simulated-data"


def demo_data(results: Path) -> Location:
    """The data folder of the demo. It is written once per version of the simulator."""
    root = demo_folder(results)
    simulation = read_simulation(root / "SIM")
    if simulation is None or simulation.get("simulator") != simulator():
        write_simulated(root.path, "demo")
    return root


def oracle(cohorts: Mapping[str, Cohort]) -> dict[str, float]:
    """C-index of the true risk on the published folds, by cohort. Real cohorts are omitted."""
    simulations = {name: read_simulation(cohort.folder) for name, cohort in cohorts.items()}
    return {name: float(simulation["oracle"]["eta"]) for name, simulation in simulations.items() if simulation}
