"""The demo: the simulated cohort of a study that names no data, and how small models are trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from survq.data.cohort import Cohort
from survq.data.location import Location
from survq.simulation.data_folder import read_simulation, simulator, write_simulated

TRAINING = {"epochs": 20, "learning_rate": 2e-3}  # a small cohort is learned in few, larger steps
HYPERPARAMETERS = {"width": 32}  # of a small model, where it has them
SEARCH_EPOCHS, SEARCH_TRIALS, SEARCH_QUERIES = 16, 8, 64  # of a search: epochs, trials, and queries at most


def demo_data(results: Path) -> Location:
    """The data folder of the demo, below the results. It is written once by each version of the simulator."""
    root = Location.at(results) / "simulated-data"
    simulation = read_simulation(root / "SIM")
    if simulation is None or simulation.get("simulator") != simulator():
        write_simulated(root.path, "demo")
    return root


def oracle(cohorts: Mapping[str, Cohort]) -> dict[str, float]:
    """By simulated cohort, the C-index of the true risk on the folds that came with it; empty for real ones."""
    simulations = {name: read_simulation(cohort.folder) for name, cohort in cohorts.items()}
    return {name: float(simulation["oracle"]["eta"]) for name, simulation in simulations.items() if simulation}
