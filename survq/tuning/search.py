"""Nested search: what is chosen is chosen on inner folds of each outer training part; the outer fold reports once.

Optuna suggests, the results on disk remember. Trials come in generations: what trial n tries follows from the seed, n
and the trials of earlier generations alone, and so does whether it is stopped early. Hence a search that was killed, or
that ran on other machines, ends with the same table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from survq.data.cohort import Cohort
from survq.data.folds import Fold, make_folds
from survq.data.problems import DataError, raise_if_any
from survq.data.streams import torch_seed
from survq.evaluation.epochs import Epoch
from survq.models.space import Choices, Floats, Integers, Range
from survq.training.config import TrainConfig
from survq.training.record import Record
from survq.training.run import Run

GENERATION = 4  # trials that are suggested without knowing of each other
STARTUP = 8  # trials before Optuna leans on what it has seen


@dataclass(frozen=True)
class Space:
    """What is searched."""

    configure: Callable[[optuna.trial.BaseTrial], TrainConfig]  # asks the trial for values
    first: Mapping[str, Any]  # what the first trial tries: a setting known to be sound
    complexity: Callable[[TrainConfig], float]  # of settings that are equally good the simplest is taken


def suggest(trial: optuna.trial.BaseTrial, name: str, values: Range) -> Any:
    """Ask a trial for a value of a model's search space."""
    match values:
        case Integers(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Floats(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Choices(choices):
            return trial.suggest_categorical(name, choices)


@dataclass
class Trial:
    """One point of a search, and how it went on the inner folds."""

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


@dataclass
class Search:
    """The search for one outer fold: it knows the cases of its training part and no others.

    Without an outer fold it is a sweep over the folds that also report: what the field does, and optimistic.
    """

    cohort: Cohort
    outer: Fold | None
    inner: tuple[Fold, ...]
    space: Space
    trials_wanted: int
    seeds: int
    seed: int
    keep_weights: bool = False  # of the choices, trained on all training cases
    trials: list[Trial] = field(default_factory=list)  # those handed out
    refits: dict[int, Record | None] = field(default_factory=dict)  # by seed: how the choice does on the outer fold
    abandoned: bool = False

    def next(self) -> tuple[Run, Trial | int] | None:
        """The next run, and what it is: a trial, or the refit of this seed."""
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
            return Run(self.cohort.name, config, (self.outer,), f"{self.name}/chosen", self.keep_weights), seed
        return None

    @property
    def exhausted(self) -> bool:
        if self.abandoned:
            return True
        return self._searched and (not self.outer or self.chosen is None or len(self.refits) == self.seeds)

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
        """Why the folds that it sees cannot be trained on. No setting that is searched changes it."""
        return Run(self.cohort.name, self._first, self.inner, self.name).problems(self.cohort.cases)

    def should_stop(self, trial: Trial, epochs: Sequence[Epoch]) -> bool:
        """Whether a trial's loss is above the median that trials of earlier generations had reached by this epoch."""
        now = len(epochs)
        earlier = [t.epochs[:now] for t in self._before(trial.number) if t.state == "finished"]
        if now < max(2, trial.config.epochs // 4) or len(earlier) < GENERATION // 2:
            return False
        return _lowest(epochs) > statistics.median(_lowest(others) for others in earlier)

    @property
    def total(self) -> int:
        return self.trials_wanted + (self.seeds if self.outer else 0)

    @property
    def remaining_epochs(self) -> int:
        """At most how many epochs the runs have that were not handed out yet."""
        if self.exhausted:
            return 0
        waiting = self.trials_wanted - len(self.trials) + (self.seeds - len(self.refits) if self.outer else 0)
        return waiting * self._first.epochs

    @property
    def name(self) -> str:
        return f"outer-{self.outer.repeat}-{self.outer.index}" if self.outer else "sweep"

    @property
    def missing(self) -> str | None:
        """Why it has no result, or not that of every seed; None where nothing is amiss."""
        if self.abandoned:
            return "was abandoned, for a run of it failed"
        if self.chosen is None:
            return "chose nothing, for no trial ended with a C-index"
        unfinished = [
            f"seed {seed} {record.state}: {record.report.reason}"
            for seed, record in self.refits.items()
            if record is not None and record.state != "finished"
        ]
        return f"chose what did not train on all its cases; {'; '.join(unfinished)}" if unfinished else None

    @property
    def _first(self) -> TrainConfig:
        return self.space.configure(optuna.trial.FixedTrial(dict(self.space.first)))

    @property
    def _candidates(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "finished" and not math.isnan(t.best.mean_c_index)]

    @property
    def _searched(self) -> bool:
        return len(self.trials) == self.trials_wanted and all(trial.record is not None for trial in self.trials)

    def _known_generation(self) -> int:
        """Trials below this number may be suggested: all of the generations before theirs have ended."""
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
        # a sampler of its own for each trial: one that is seeded anew on resuming would repeat itself
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
    """The searches for all outer folds of all cohorts: a schedule whose idle moments are filled by one another."""

    def __init__(self, searches: Sequence[Search]):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.searches = list(searches)
        self._running: dict[str, tuple[Search, Trial | int]] = {}  # by path: the trial, or the seed of a refit

    def next(self) -> Run | None:
        for search in self.searches:
            if (found := search.next()) is not None:
                run, what = found
                self._running[run.path] = search, what
                return run
        return None

    @property
    def exhausted(self) -> bool:
        return all(search.exhausted for search in self.searches)

    def on_finished(self, run: Run, record: Record) -> None:
        search, what = self._running[run.path]
        if isinstance(what, Trial):
            what.record = record
        else:
            search.refits[what] = record

    def on_failed(self, run: Run) -> None:
        # what comes after would depend on a result that is not there
        search, _ = self._running[run.path]
        search.abandoned = True

    def should_stop(self, run: Run, epochs: Sequence[Epoch]) -> bool:
        search, what = self._running[run.path]
        return isinstance(what, Trial) and search.should_stop(what, epochs)

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
    def missing(self) -> dict[str, str]:
        """The searches that have no result, or not that of every seed, and why."""
        return {f"{s.cohort.name} {s.name}": reason for s in self.searches if (reason := s.missing) is not None}

    def label(self, path: str) -> str:
        """A run for people: which search, and what it tries."""
        search, what = self._running[path]
        whose = f"{search.cohort.name} {search.name}"
        if not isinstance(what, Trial):
            return f"{whose} chosen" + (f", seed {what}" if search.seeds > 1 else "")
        values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in what.params.items())
        return f"{whose} trial {what.number}: {', '.join(values)}"


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
) -> list[Search]:
    """A search for each outer fold; inner folds are made of its training cases, by event and site as all folds are.

    Raises DataError where that cannot be, or where an inner fold has too few deaths for its time intervals.
    """
    searches, problems = [], []
    for fold in outer:
        try:
            inner = make_folds(cohort.cases.loc[list(fold.training)], inner_folds, seed=seed)
        except DataError as error:
            problems += [f"cohort {cohort.name}, inside outer fold {fold.index}: {line}" for line in error.problems]
            continue
        searches.append(Search(cohort, fold, tuple(inner), space, trials, seeds, seed, keep_weights))
        problems += searches[-1].problems()
    raise_if_any(problems)
    return searches


def sweep(cohort: Cohort, folds: Sequence[Fold], space: Space, *, trials: int, seed: int = 0) -> Search:
    """A search whose trials see the folds that report them: its best is what choosing has made of it."""
    search = Search(cohort, None, tuple(folds), space, trials, seeds=0, seed=seed)
    raise_if_any(search.problems())
    return search


def trials_table(searches: Sequence[Search]) -> pd.DataFrame:
    """A row a trial: what it tried, how it went on the inner folds, whether it was the best there, and was chosen."""
    return pd.DataFrame(
        [
            {"cohort": search.cohort.name, "search": search.name}
            | {"trial": trial.number, "state": trial.state}
            | {"best": trial is search.best, "chosen": trial is search.chosen}
            | ({"epoch": trial.best.epoch, "c_index": trial.best.mean_c_index} if trial.epochs else {})
            | trial.params
            for search in searches
            for trial in search.trials
        ]
    )


def outer_table(searches: Sequence[Search]) -> pd.DataFrame:
    """A row an outer fold: the choice, its score in the search (optimistic) and on the outer fold (honest)."""
    rows = []
    for search in searches:
        if search.outer is None or search.chosen is None or not all(search.refits.values()) or not search.refits:
            continue
        # NaN if a seed diverged: without it the mean would flatter
        c_index = statistics.fmean(record.c_index for record in search.refits.values() if record is not None)
        rows.append(
            {"cohort": search.cohort.name, "repeat": search.outer.repeat, "fold": search.outer.index}
            | search.chosen.params
            | {"epochs": search.chosen.best.epoch, "trial": search.chosen.number, "trials": len(search.trials)}
            | {"search_c_index_optimistic": search.chosen.best.mean_c_index, "c_index": c_index}
        )
    return pd.DataFrame(rows)


def outer_records(searches: Sequence[Search], seed: int = 0) -> list[Record]:
    """The finished runs of the choices on the outer folds that had no say in them."""
    records = [search.refits.get(seed) for search in searches]
    return [record for record in records if record is not None and record.state == "finished"]


def outer_predictions(searches: Sequence[Search], seed: int = 0) -> pd.DataFrame | None:
    """Their predictions, each case once in each repeat; None unless all are there, for those left would flatter."""
    records = outer_records(searches, seed)
    if not searches or len(records) < len(searches):
        return None
    return pd.concat([record.predictions for record in records], ignore_index=True)


def write_optuna_view(searches: Sequence[Search], file: Path) -> None:
    """All trials as an SQLite file for optuna-dashboard. A view: survq writes it and never reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}")
    for search in searches:
        name = f"{search.cohort.name}, {search.name}"
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        study.add_trials([trial.as_optuna_trial() for trial in search.trials])


def _lowest(epochs: Sequence[Epoch]) -> float:
    return min(epoch.mean_validation_loss for epoch in epochs)
