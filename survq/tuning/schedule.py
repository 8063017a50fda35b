"""The searches of all outer folds as one schedule of runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import optuna

from survq.evaluation.epochs import Epoch
from survq.text import file_name
from survq.training.config import TrainConfig
from survq.training.record import Record
from survq.training.run import Run
from survq.tuning.search import GENERATION, Search
from survq.tuning.suggestions import FILE, Suggestions
from survq.tuning.trial import Refit, Trial

READY = 3  # runs that could start for each that is running: some searches wait for the end of a generation


class Searches:
    """The searches for all outer folds of all cohorts, as one schedule: a search that waits lets others run."""

    def __init__(self, searches: Sequence[Search], study: Path | None = None):
        """Suggestions are kept in the folder of the `study`, if it is given."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.searches = list(searches)
        suggestions = Suggestions(study / FILE if study else None)
        for search in searches:
            search.suggestions = suggestions
        self._running: dict[str, tuple[Search, Trial | Refit]] = {}  # by path
        self._begun: dict[str, int] = {}  # cohort -> how many searches had been exhausted when it began
        self._busy = 0  # runs that have started and not ended
        self._open = [search for search in searches if not search.exhausted]

    def next(self) -> Run | None:
        # of the cohorts that began together, searches that are furthest behind come first: a few that are left at the
        # end cannot fill a cluster
        def turn(search: Search) -> tuple[float, int]:
            return self._begun.get(search.cohort.name, math.inf), len(search.trials) + len(search.refits)

        self._begin_cohorts()
        for search in sorted(self._open, key=turn):
            if (found := search.next()) is not None:
                run, part = found
                self._running[run.path] = search, part
                self._begun.setdefault(run.cohort, len(self.searches) - len(self._open))
                self._busy += 1
                self._close_if_exhausted(search)
                return run
        return None

    @property
    def exhausted(self) -> bool:
        return not self._open

    def on_finished(self, run: Run, record: Record) -> None:
        search, part = self._running[run.path]
        self._busy -= 1
        search.ended(part, record)
        self._close_if_exhausted(search)

    def on_failed(self, run: Run) -> None:
        # later trials would depend on the missing result
        search, _ = self._running[run.path]
        self._busy -= 1
        search.abandoned = True
        self._close_if_exhausted(search)

    def _begin_cohorts(self) -> None:
        """Begin as few cohorts as can keep the machines busy, because the runs of a cohort share its features."""
        of_cohort = Counter(search.cohort.name for search in self._open)
        going = sum(count for name, count in of_cohort.items() if name in self._begun)
        for name, count in of_cohort.items():
            if GENERATION * going > READY * self._busy:
                return
            if name not in self._begun:
                self._begun[name] = len(self.searches) - len(self._open)
                going += count

    def _close_if_exhausted(self, search: Search) -> None:
        # only what happens to a search can exhaust it: to ask all of them after every run would take the driver long
        if search.exhausted:
            self._open = [other for other in self._open if other is not search]

    def should_stop(self, run: Run, epochs: Sequence[Epoch]) -> bool:
        search, part = self._running[run.path]
        return isinstance(part, Trial) and search.should_stop(part, epochs)

    @property
    def total(self) -> int:
        return sum(search.total for search in self.searches)

    @property
    def plan(self) -> dict[str, int]:
        plan: Counter[str] = Counter()  # models share the folder of an outer fold
        for search in self.searches:
            plan[f"{file_name(search.cohort.name)}/{search.name}"] += search.total
        return dict(plan)

    @property
    def remaining_epochs(self) -> int:
        return sum(search.remaining_epochs for search in self.searches)

    @property
    def fold_counts(self) -> set[int]:
        return {len(search.inner) for search in self.searches} | {1 for search in self.searches if search.outer}

    @property
    def cohorts(self) -> set[str]:
        return {search.cohort.name for search in self._open}

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
        search, part = self._running[path]
        prefix = f"{search.cohort.name} {search.model} {search.name}"
        if not isinstance(part, Trial):
            return f"{prefix} {part.role}" + (
                f", seed {part.seed}" if search.seeds > 1 and part.role != "curve" else ""
            )
        values = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in part.params.items())
        return f"{prefix} trial {part.number}: {', '.join(values)}"
