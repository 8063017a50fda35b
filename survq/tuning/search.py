"""Nested search: settings are chosen on inner folds of each outer training part; the outer fold is evaluated once.

Optuna suggests trials; the results on disk are the only state. Trials are grouped in generations: the setting of trial
n and its early stopping depend only on the seed, n and the trials of earlier generations. Therefore a search ends with
the same table after an interruption or on other machines.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.trial import TrialState

from survq.data.cohort import Cohort
from survq.data.folds import Fold, make_folds
from survq.data.problems import DataError, raise_if_any
from survq.data.streams import torch_seed
from survq.evaluation.epochs import Epoch
from survq.training.config import TrainConfig
from survq.training.record import Record
from survq.training.run import Run

GENERATION = 4  # trials that are suggested independently of each other
STARTUP = 8  # random trials before Optuna uses earlier ones


@dataclass(frozen=True)
class Space:
    """A search space."""

    configure: Callable[[optuna.trial.BaseTrial], TrainConfig]  # takes its values from the trial
    first: Mapping[str, Any]  # the first trial: a known good setting
    complexity: Callable[[TrainConfig], float]  # the simplest of equally good settings is chosen


@dataclass
class Trial:
    """One setting of a search, and its results on the inner folds."""

    number: int
    config: TrainConfig
    params: dict[str, Any]
    distributions: dict[str, Any]
    record: Record | None = None

    @property
    def epochs(self) -> list[Epoch]:
        return [] if self.record is None else self.record.epochs

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest mean loss on the held-out parts of the inner folds."""
        return min(self.epochs, key=lambda epoch: epoch.mean_validation_loss)

    @property
    def state(self) -> str:
        return "waiting" if self.record is None else self.record.state

    def as_optuna_trial(self) -> optuna.trial.FrozenTrial:
        finished = self.state == "finished" and not math.isnan(self.best.mean_c_index)
        states = {"finished": TrialState.COMPLETE if finished else TrialState.FAIL, "stopped": TrialState.PRUNED}
        return optuna.trial.create_trial(
            state=states.get(self.state, TrialState.FAIL),
            value=self.best.mean_c_index if finished else None,
            params=self.params,
            distributions=self.distributions,
            intermediate_values={epoch.epoch: epoch.mean_c_index for epoch in self.epochs},
        )


@dataclass(frozen=True)
class Refit:
    """A setting that is trained on all training cases of the outer fold: the chosen one, or the default beside it."""

    role: Literal["chosen", "default"]
    seed: int


@dataclass
class Search:
    """The search for one outer fold. It uses only the training cases of this fold.

    Without an outer fold it is a sweep: the same folds select and report, which is common and optimistic.
    """

    cohort: Cohort
    outer: Fold | None
    inner: tuple[Fold, ...]
    space: Space
    trials_wanted: int
    seeds: int
    seed: int
    keep_weights: bool = False  # of the chosen settings, trained on all training cases
    trials: list[Trial] = field(default_factory=list)  # started trials
    refits: dict[int, Record | None] = field(default_factory=dict)  # by seed: the chosen setting on the outer fold
    beside_default: bool = False  # whether the first trial's setting is evaluated on the outer fold, too
    defaults: dict[int, Record | None] = field(default_factory=dict)  # by seed: its results
    abandoned: bool = False

    def next(self) -> tuple[Run, Trial | Refit] | None:
        """The next run, with its trial or refit."""
        if self.abandoned:
            return None
        if len(self.trials) < min(self.trials_wanted, self._known_generation()):
            trial = self._suggest(len(self.trials))
            self.trials.append(trial)
            return Run(self.cohort.name, trial.config, self.inner, f"{self.name}/trial-{trial.number:03d}"), trial
        if self.outer and self._searched and len(self.refits) < self.seeds and self.chosen is not None:
            seed = len(self.refits)
            self.refits[seed] = None
            config = replace(self.chosen.config, epochs=self.chosen.best.epoch, seed=seed)
            run = Run(self.cohort.name, config, (self.outer,), f"{self.name}/chosen", self.keep_weights)
            return run, Refit("chosen", seed)
        if self.outer and self._searched and len(self.defaults) < self._default_seeds:
            seed = len(self.defaults)
            self.defaults[seed] = None
            run = Run(self.cohort.name, replace(self.first_config, seed=seed), (self.outer,), f"{self.name}/default")
            return run, Refit("default", seed)
        return None

    @property
    def _default_seeds(self) -> int:
        return self.seeds if self.beside_default and self.chosen is not None else 0

    @property
    def exhausted(self) -> bool:
        if self.abandoned:
            return True
        return self._searched and (
            not self.outer
            or self.chosen is None
            or (len(self.refits) == self.seeds and len(self.defaults) == self._default_seeds)
        )

    @property
    def best(self) -> Trial | None:
        """The trial with the highest mean inner C-index."""
        return max(self._candidates, key=lambda trial: (trial.best.mean_c_index, -trial.number), default=None)

    @property
    def chosen(self) -> Trial | None:
        """The simplest setting whose mean inner C-index is within one standard error of the best one."""
        best = self.best
        if best is None:
            return None
        folds = [c for c in best.best.c_index if not math.isnan(c)]
        error = statistics.stdev(folds) / math.sqrt(len(folds)) if len(folds) > 1 else 0.0
        good = [t for t in self._candidates if t.best.mean_c_index >= best.best.mean_c_index - error]
        complexity = self.space.complexity
        return min(good, key=lambda t: (complexity(t.config), t.best.mean_validation_loss, t.number))

    def problems(self) -> list[str]:
        """Problems of its folds that prevent training. They do not depend on the searched settings."""
        return Run(self.cohort.name, self.first_config, self.inner, self.name).problems(self.cohort.cases)

    def should_stop(self, trial: Trial, epochs: Sequence[Epoch]) -> bool:
        """Whether the lowest loss of a trial is above the median of earlier generations at this epoch."""
        now = len(epochs)
        earlier = [t.epochs[:now] for t in self._before(trial.number) if t.state == "finished"]
        if now < max(2, trial.config.epochs // 4) or len(earlier) < GENERATION // 2:
            return False
        return _lowest(epochs) > statistics.median(_lowest(others) for others in earlier)

    @property
    def total(self) -> int:
        return self.trials_wanted + (self.seeds * (1 + self.beside_default) if self.outer else 0)

    @property
    def remaining_epochs(self) -> int:
        """An upper bound of the number of epochs of all runs that have not started."""
        if self.exhausted:
            return 0
        waiting = self.total - len(self.trials) - len(self.refits) - len(self.defaults)
        return waiting * self.first_config.epochs

    @property
    def model(self) -> str:
        return self.first_config.model

    @property
    def name(self) -> str:
        return f"outer-{self.outer.repeat}-{self.outer.index}" if self.outer else "sweep"

    @property
    def missing(self) -> str | None:
        """Why it has no result or not the results of all seeds; None if it is complete."""
        if self.abandoned:
            return "abandoned because one of its runs failed"
        if self.chosen is None:
            return "no choice, because no trial ended with a C-index"
        unfinished = [
            f"seed {seed} {record.state}: {record.report.reason}"
            for seed, record in self.refits.items()
            if record is not None and record.state != "finished"
        ]
        return (
            f"the chosen setting could not be trained on all training cases; {'; '.join(unfinished)}"
            if unfinished
            else None
        )

    @property
    def first_config(self) -> TrainConfig:
        return self.space.configure(optuna.trial.FixedTrial(dict(self.space.first)))

    @property
    def _candidates(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "finished" and not math.isnan(t.best.mean_c_index)]

    @property
    def _searched(self) -> bool:
        return len(self.trials) == self.trials_wanted and all(trial.record is not None for trial in self.trials)

    def _known_generation(self) -> int:
        """The limit of trial numbers that may be suggested now: all earlier generations have ended."""
        generation = 0
        while all(t.record is not None for t in self.trials[:generation]) and generation <= len(self.trials):
            generation += GENERATION
        return generation

    def _before(self, number: int) -> list[Trial]:
        """The trials of earlier generations."""
        return self.trials[: number // GENERATION * GENERATION]

    def _suggest(self, number: int) -> Trial:
        fold = f"outer={self.outer.repeat}.{self.outer.index}" if self.outer else "sweep"
        key = (self.seed, "search", self.cohort.name, fold, number)
        # one sampler per trial: a shared sampler would repeat its values after resuming
        sampler = optuna.samplers.TPESampler(
            seed=torch_seed(*key) % 2**32, n_startup_trials=STARTUP, constant_liar=False
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials([trial.as_optuna_trial() for trial in self._before(number)])
        if number == 0:
            study.enqueue_trial(dict(self.space.first))
        suggestion = study.ask()
        config = self.space.configure(suggestion)
        return Trial(number, config, suggestion.params, suggestion.distributions)


class Searches:
    """The searches for all outer folds of all cohorts, as one schedule: a search that waits lets others run."""

    def __init__(self, searches: Sequence[Search]):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.searches = list(searches)
        self._running: dict[str, tuple[Search, Trial | Refit]] = {}  # by path

    def next(self) -> Run | None:
        # those that are furthest behind come first: a few that are left at the end cannot fill a cluster
        for search in sorted(self.searches, key=lambda search: len(search.trials) + len(search.refits)):
            if (found := search.next()) is not None:
                run, role = found
                self._running[run.path] = search, role
                return run
        return None

    @property
    def exhausted(self) -> bool:
        return all(search.exhausted for search in self.searches)

    def on_finished(self, run: Run, record: Record) -> None:
        search, role = self._running[run.path]
        if isinstance(role, Trial):
            role.record = record
        elif role.role == "chosen":
            search.refits[role.seed] = record
        else:
            search.defaults[role.seed] = record

    def on_failed(self, run: Run) -> None:
        # later trials would depend on the missing result
        search, _ = self._running[run.path]
        search.abandoned = True

    def should_stop(self, run: Run, epochs: Sequence[Epoch]) -> bool:
        search, role = self._running[run.path]
        return isinstance(role, Trial) and search.should_stop(role, epochs)

    @property
    def total(self) -> int:
        return sum(search.total for search in self.searches)

    @property
    def remaining_epochs(self) -> int:
        return sum(search.remaining_epochs for search in self.searches)

    @property
    def fold_counts(self) -> set[int]:
        return {len(search.inner) for search in self.searches} | {1 for search in self.searches if search.outer}

    @property
    def cohorts(self) -> set[str]:
        return {search.cohort.name for search in self.searches if not search.exhausted}

    @property
    def configs(self) -> list[TrainConfig]:
        return [search.first_config for search in self.searches]

    is_fixed = False

    @property
    def missing(self) -> dict[str, str]:
        """The incomplete searches, and why."""
        return {
            f"{search.cohort.name} {search.model} {search.name}": reason
            for search in self.searches
            if (reason := search.missing) is not None
        }

    def label(self, path: str) -> str:
        """A readable label of a run: its search and its setting."""
        search, role = self._running[path]
        prefix = f"{search.cohort.name} {search.model} {search.name}"
        if not isinstance(role, Trial):
            return f"{prefix} {role.role}" + (f", seed {role.seed}" if search.seeds > 1 else "")
        values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in role.params.items())
        return f"{prefix} trial {role.number}: {', '.join(values)}"


def nested_searches(
    cohort: Cohort,
    outer: Sequence[Fold],
    space: Space,
    *,
    trials: int,
    inner_folds: int = 3,
    seeds: int = 1,
    seed: int = 0,
    keep_weights: bool = False,
    beside_default: bool = False,
) -> list[Search]:
    """One search per outer fold. Inner folds divide its training cases, stratified by event and site as all folds.

    Raises DataError if this is impossible, or if an inner fold has too few deaths for its time intervals.
    """
    searches, problems = [], []
    for fold in outer:
        try:
            inner = make_folds(cohort.cases.loc[list(fold.training)], inner_folds, seed=seed)
        except DataError as error:
            problems += [f"cohort {cohort.name}, inside outer fold {fold.index}: {line}" for line in error.problems]
            continue
        search = Search(cohort, fold, tuple(inner), space, trials, seeds, seed, keep_weights)
        searches.append(replace(search, beside_default=beside_default))
        problems += searches[-1].problems()
    raise_if_any(problems)
    return searches


def sweep(cohort: Cohort, folds: Sequence[Fold], space: Space, *, trials: int, seed: int = 0) -> Search:
    """A search that selects and reports on the same folds: its best result has a selection bias."""
    search = Search(cohort, None, tuple(folds), space, trials, seeds=0, seed=seed)
    raise_if_any(search.problems())
    return search


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
            | search.chosen.params
            | {"epochs": search.chosen.best.epoch, "trial": search.chosen.number, "trials": len(search.trials)}
            | {"search_c_index_optimistic": search.chosen.best.mean_c_index, "c_index": c_index}
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


def _lowest(epochs: Sequence[Epoch]) -> float:
    return min(epoch.mean_validation_loss for epoch in epochs)
