"""A search that starts again does not ask Optuna for what it has suggested before, and gets the same."""

from dataclasses import replace

import numpy as np
import optuna
import pytest

from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.evaluation.epochs import Epoch
from survq.simulation.data_folder import write_simulated
from survq.training.config import TrainConfig
from survq.training.record import Record
from survq.training.report import Report
from survq.tuning import search as module
from survq.tuning.search import STARTUP, Search, Space, sweep
from survq.tuning.suggestions import Suggestions

TRIALS = STARTUP + 8


def space(most: int = 8) -> Space:
    def configure(trial) -> TrainConfig:
        width = trial.suggest_categorical("width", (8, 16))
        counts = {"width": width, "histology_queries": trial.suggest_int("histology_queries", 2, most, log=True)}
        return TrainConfig(hyperparameters=counts, learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2))

    first = {"width": 8, "histology_queries": 8, "learning_rate": 2e-3}
    return Space(configure, first, complexity=lambda config: config.hyperparameters["histology_queries"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    root = tmp_path_factory.mktemp("search")
    write_simulated(root, "demo", cases=70, name="TINY")
    return Cohort.load(root, "TINY")


def searched(cohort, file=None, *, best=2e-3, **options):
    """All trials of a search; those that learn at the rate `best` have the lowest loss."""
    options = {"space": space(), "trials": TRIALS, **options}
    search = sweep(cohort, tuple(make_folds(cohort.cases, 2)), **options)
    search.suggestions = Suggestions(file)
    while (part := search.next()) is not None:
        _, trial = part
        loss = abs(np.log(trial.config.learning_rate / best))
        epoch = Epoch(1, (loss,) * 2, (loss,) * 2, (1 / (1 + loss),) * 2)
        search.ended(trial, Record(None, {}, Report("finished", (epoch,)), None))
    return [(trial.config, trial.params, trial.distributions) for trial in search.trials]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The numbers of the trials that Optuna was asked for."""
    numbers, ask = [], Search._ask_optuna
    monkeypatch.setattr(
        Search, "_ask_optuna", lambda self, number, seed: numbers.append(number) or ask(self, number, seed)
    )
    return numbers


def test_only_new_trials_are_asked_for(cohort, tmp_path, asked):
    file, trials = tmp_path / "suggestions", searched(cohort)
    asked.clear()
    assert searched(cohort, file, trials=STARTUP + 2) == trials[: STARTUP + 2]
    assert searched(cohort, file) == trials and asked == [*range(TRIALS)]
    assert searched(cohort, file) == trials and asked == [*range(TRIALS)]


@pytest.mark.parametrize(
    ("change", "asked_again"),
    [
        ({"seed": 1}, TRIALS),
        ({"space": space(most=9)}, TRIALS),
        ({"space": replace(space(), first={"width": 16, "histology_queries": 2, "learning_rate": 1e-3})}, TRIALS),
        ({"best": 3e-3}, TRIALS - 4),  # other results, which the first generation does not depend on
        ("a sampler", TRIALS),
        ("another version of Optuna", TRIALS),
    ],
)
def test_whatever_a_suggestion_depends_on_has_it_asked_for_again(
    cohort, tmp_path, asked, monkeypatch, change, asked_again
):
    searched(cohort, tmp_path / "suggestions")
    if change == "a sampler":
        monkeypatch.setattr(module, "SAMPLER", module.SAMPLER | {"n_startup_trials": 2})
    elif change == "another version of Optuna":
        monkeypatch.setattr(optuna, "__version__", "6.0.0")
    options = change if isinstance(change, dict) else {}
    fresh = searched(cohort, **options)
    asked.clear()
    assert searched(cohort, tmp_path / "suggestions", **options) == fresh
    assert asked == [*range(TRIALS)][-asked_again:]


@pytest.mark.parametrize("where", [0, 70, 140, -2])
def test_a_damaged_or_torn_line_is_not_used(cohort, tmp_path, asked, where):
    file = tmp_path / "suggestions"
    trials = searched(cohort, file)
    lines = file.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[3])
    damaged[where] ^= 1
    file.write_bytes(b"".join([*lines[:3], damaged, *lines[4:-1]]) + lines[-1][:100])
    asked.clear()
    assert searched(cohort, file) == trials and asked == [3, TRIALS - 1]
    assert searched(cohort, file) == trials
