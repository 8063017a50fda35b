"""Nested search: settings are chosen on inner folds of each outer training part; the outer fold is evaluated once.

Optuna suggests trials; the results on disk are the only state, and its suggestions are kept beside them to save time.
Trials are grouped in generations: the setting of trial n and its early stopping depend only on the seed, n and the
trials of earlier generations. Therefore a search ends with the same table after an interruption or on other machines.

In a nested space, trials differ in everything but the sizes of the model. The chosen one has a curve: the C-index on
the inner folds for each of the sizes, from one training per fold. Sizes are chosen from it, too.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from survq.data.cohort import Cohort
from survq.data.folds import Fold, make_folds
from survq.data.problems import DataError, raise_if_any
from survq.data.streams import torch_seed
from survq.evaluation.epochs import Epoch
from survq.models import MODELS
from survq.training.config import TrainConfig
from survq.training.ensemble import curve_of
from survq.training.record import Record
from survq.training.run import Run
from survq.tuning.choice import Sizes, choose_sizes, equally_good
from survq.tuning.suggestions import Suggestions
from survq.tuning.trial import Refit, Trial

GENERATION = 4  # trials that are suggested independently of each other
STARTUP = 8  # random trials before Optuna uses earlier ones
SAMPLER: Mapping[str, Any] = {"n_startup_trials": STARTUP, "constant_liar": False}


@dataclass(frozen=True)
class Space:
    """A search space."""

    configure: Callable[[optuna.trial.BaseTrial], TrainConfig]  # takes its values from the trial, all from fixed ranges
    first: Mapping[str, Any]  # the first trial: a known good setting
    complexity: Callable[[TrainConfig], float]  # the simplest of equally good settings is chosen
    nested: bool = False  # its models contain smaller ones: their sizes are chosen from the curve of the inner folds


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
    curve: Record | None = None  # of the chosen trial at its best epoch, if that is not the last
    curve_started: bool = False
    refits: dict[int, Record | None] = field(default_factory=dict)  # by seed: the chosen setting on the outer fold
    beside_default: bool = False  # whether the first trial's setting is evaluated on the outer fold, too
    defaults: dict[int, Record | None] = field(default_factory=dict)  # by seed: its results
    abandoned: bool = False
    suggestions: Suggestions = field(default_factory=Suggestions)  # of this and of other searches
    _chosen_sizes: dict[Path, Sizes | None] = field(default_factory=dict)  # by the folder of the curve, which is large
    _known_to_optuna: int = 0  # the first trials, which were added to `_optuna`
    _history: Any = field(default_factory=hashlib.sha256)  # of what Optuna is told
    _in_history: int = 0  # the first trials, which were added to `_history`

    def next(self) -> tuple[Run, Trial | Refit] | None:
        """The next run, with its trial or refit."""
        if self.abandoned:
            return None
        if len(self.trials) < min(self.trials_wanted, self._known_generation()):
            trial = self._suggest(len(self.trials))
            self.trials.append(trial)
            return self._run(trial.config, self.inner, f"trial-{trial.number:03d}"), trial
        if not self.outer or not self._searched or self.chosen is None:
            return None
        if self._needs_curve and not self.curve_started:
            self.curve_started = True
            return self._run(self._at_best_epoch, self.inner, f"trial-{self.chosen.number:03d}-curve"), Refit("curve")
        if (config := self.chosen_config) is None:
            return None
        if len(self.refits) < self.seeds:
            seed = len(self.refits)
            self.refits[seed] = None
            run = self._run(replace(config, seed=seed), (self.outer,), "chosen")
            return replace(run, keep_weights=self.keep_weights), Refit("chosen", seed)
        if len(self.defaults) < self._default_seeds:
            seed = len(self.defaults)
            self.defaults[seed] = None
            return self._run(replace(self.first_config, seed=seed), (self.outer,), "default"), Refit("default", seed)
        return None

    def ended(self, part: Trial | Refit, record: Record) -> None:
        """Take the result of a run that `next` returned with this part."""
        if isinstance(part, Trial):
            part.record = record
        elif part.role == "curve":
            self.curve = record
        else:
            (self.refits if part.role == "chosen" else self.defaults)[part.seed] = record

    def _run(self, config: TrainConfig, folds: tuple[Fold, ...], part: str) -> Run:
        return Run(self.cohort.name, config, folds, f"{self.name}/{part}")

    @property
    def _default_seeds(self) -> int:
        return self.seeds if self.beside_default else 0

    @property
    def exhausted(self) -> bool:
        if self.abandoned:
            return True
        if not self._searched:
            return False
        if not self.outer or self.chosen is None:
            return True
        if self._needs_curve and self.curve is None:
            return False
        started = len(self.refits) == self.seeds and len(self.defaults) == self._default_seeds
        return started or self.chosen_config is None

    @property
    def best(self) -> Trial | None:
        """The trial with the highest mean inner C-index."""
        return max(self._candidates, key=lambda trial: (trial.best.mean_c_index, -trial.number), default=None)

    @property
    def chosen(self) -> Trial | None:
        """The simplest setting whose mean inner C-index is within one standard error of the best one."""
        candidates, complexity = self._candidates, self.space.complexity
        good = [candidates[position] for position in equally_good([trial.best.c_index for trial in candidates])]
        return min(good, key=lambda t: (complexity(t.config), t.best.mean_validation_loss, t.number), default=None)

    @property
    def sizes(self) -> Sizes | None:
        """Of a nested space, the sizes chosen from the curve of the chosen trial; None before the curve is known."""
        record = self.curve if self._needs_curve else self.chosen.record if self.chosen else None
        if not self.space.nested or record is None or record.state != "finished":
            return None
        if record.folder not in self._chosen_sizes:
            self._chosen_sizes[record.folder] = choose_sizes(curve_of(record), MODELS[self.model].sizes)
        return self._chosen_sizes[record.folder]

    @property
    def chosen_params(self) -> dict[str, Any]:
        """The searched settings of the choice, including sizes from the curve."""
        assert self.chosen is not None
        return {**self.chosen.params, **(self.sizes.values if self.sizes else {})}

    @property
    def chose_default(self) -> bool:
        """Whether the choice has the settings of the first trial, apart from its epoch."""
        assert self.chosen is not None
        own = self.sizes.values if self.sizes else {}
        return (
            self.chosen.number == 0
            and {**self.first_config.hyperparameters, **own} == self.first_config.hyperparameters
        )

    @property
    def chosen_config(self) -> TrainConfig | None:
        """What is trained on all training cases: the choice up to its best epoch; None while its sizes are unknown."""
        if not self.space.nested:
            return self._at_best_epoch
        if self.sizes is None:
            return None
        config = self._at_best_epoch
        return replace(config, hyperparameters={**config.hyperparameters, **self.sizes.values})

    @property
    def _at_best_epoch(self) -> TrainConfig:
        assert self.chosen is not None
        return replace(self.chosen.config, epochs=self.chosen.best.epoch)

    @property
    def _needs_curve(self) -> bool:
        """Whether the curve is from a run of its own: that of a trial is from its last epoch."""
        if not self.space.nested:
            return False
        chosen = self.chosen
        return chosen is not None and chosen.best.epoch < chosen.config.epochs

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
        curve = self._needs_curve or (self.space.nested and not self._searched)
        return self.trials_wanted + (curve + self.seeds * (1 + self.beside_default) if self.outer else 0)

    @property
    def remaining_epochs(self) -> int:
        """An upper bound of the number of epochs of all runs that have not started."""
        if self.exhausted:
            return 0
        waiting = self.total - len(self.trials) - self.curve_started - len(self.refits) - len(self.defaults)
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
        if self.outer and self.space.nested and self.sizes is None:
            return "no choice, because the curve of the chosen trial is missing or has no C-index"
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
        return self._first[1]

    @cached_property
    def _first(self) -> tuple[optuna.trial.FixedTrial, TrainConfig]:
        trial = optuna.trial.FixedTrial(dict(self.space.first))
        return trial, self.space.configure(trial)

    @property
    def _candidates(self) -> list[Trial]:
        return [t for t in self.trials if t.state == "finished" and not math.isnan(t.best.mean_c_index)]

    @property
    def _searched(self) -> bool:
        return len(self.trials) == self.trials_wanted and all(trial.record is not None for trial in self.trials)

    def _known_generation(self) -> int:
        """The limit of trial numbers that may be suggested now: all earlier generations have ended."""
        complete = len(self.trials) // GENERATION * GENERATION
        last = self.trials[max(0, complete - GENERATION) : complete]  # those before it ended before it started
        return complete + GENERATION * all(trial.record is not None for trial in last)

    def _before(self, number: int) -> list[Trial]:
        """The trials of earlier generations."""
        return self.trials[: number // GENERATION * GENERATION]

    @cached_property
    def _optuna(self) -> optuna.Study:
        """The ended trials of earlier generations, for suggestions."""
        return optuna.create_study(direction="maximize")

    def _suggest(self, number: int) -> Trial:
        fold = f"outer={self.outer.repeat}.{self.outer.index}" if self.outer else "sweep"
        seed = torch_seed(self.seed, "search", self.cohort.name, fold, number) % 2**32
        depends_on = self._dependencies(number, seed)
        params = self.suggestions.get(depends_on)
        if params is None:
            params = self._ask_optuna(number, seed)
            self.suggestions.add(depends_on, params)
        suggestion = optuna.trial.FixedTrial(dict(params))
        config = self.space.configure(suggestion)
        return Trial(number, config, suggestion.params, suggestion.distributions)

    def _dependencies(self, number: int, seed: int) -> str:
        """Everything that a suggestion depends on."""
        before = self._before(number)
        for trial in before[self._in_history :]:
            self._history.update(repr(trial.told).encode())
        self._in_history = len(before)
        first, _ = self._first
        told = first.params, first.distributions, self._history.hexdigest()
        return repr((optuna.__version__, SAMPLER, number, seed, *told))

    def _ask_optuna(self, number: int, seed: int) -> dict[str, Any]:
        # one sampler per trial: a shared sampler would repeat its values after resuming
        self._optuna.sampler = optuna.samplers.TPESampler(seed=seed, **SAMPLER)
        before = self._before(number)
        self._optuna.add_trials([trial.as_optuna_trial() for trial in before[self._known_to_optuna :]])
        self._known_to_optuna = len(before)
        if number == 0:
            self._optuna.enqueue_trial(dict(self.space.first))
        suggestion = self._optuna.ask()
        self.space.configure(suggestion)
        # samplers ignore failed trials: only `as_optuna_trial` of an ended one counts, for the next generation
        self._optuna.tell(suggestion, state=TrialState.FAIL)
        return suggestion.params


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


def _lowest(epochs: Sequence[Epoch]) -> float:
    return min(epoch.mean_validation_loss for epoch in epochs)
