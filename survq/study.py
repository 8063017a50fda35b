"""A study answers one question: it opens data and results, executes runs, and saves tables and figures."""

from __future__ import annotations

import gc
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import survq
from survq import demo
from survq.data.cohort import Cohort, load_cohorts
from survq.data.location import Location, csv_bytes, replace_file
from survq.data.problems import raise_if_any
from survq.exits import UsageError, exit_on_user_error, exit_with
from survq.reporting.configurations import index_table, short_labels
from survq.reporting.figures import png
from survq.reporting.report_material import ABOUT, SETTINGS, Material
from survq.reporting.report_sources import refresh_report
from survq.reporting.run_progress import Progress
from survq.reporting.saved import save
from survq.reporting.study_tables import Trained
from survq.reporting.tables import Table
from survq.reporting.tensorboard import Board
from survq.settings import StudySettings
from survq.text import clock, file_name
from survq.training.comparison import Comparison, compare, has_given_folds
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.ensemble import load_run
from survq.training.fold import FittedFold
from survq.training.queue import Grid, Monitor, RunQueue, Schedule
from survq.training.record import Record
from survq.training.results import Results
from survq.training.run import Run

if TYPE_CHECKING:
    from survq.training.machines import Machines
    from survq.tuning.search import Space

EXCLUDED = "excluded.csv"
RESUME_HINT = "stopped. Run the same command again to resume; finished runs are not repeated."


@contextmanager
def open_study(name: str, settings: StudySettings, protocol: str) -> Iterator[Study]:
    """A study and its folder `results/<name>/`, locked against other processes.

    `protocol` states in one line which settings are fixed, which are selected, and on which data. It is printed first.

    User errors end the program with a message and an exit code, without a traceback.
    """
    if not gc.get_freeze_count():
        gc.freeze()  # what was imported stays: to search it for garbage, at the end once more, takes half a second
    results = Results(Path(settings.results).expanduser() / name)
    with exit_on_user_error(interrupted=RESUME_HINT), results.lock():
        root = Location.at(settings.data) if settings.data else demo.demo_data(settings.results)
        study = Study(name, settings, results, load_cohorts(root, settings.cohorts))
        study.introduce(protocol)
        yield study
        study.farewell()
        if study.missing:
            exit_with(f"{len(study.missing)} result(s) are missing; run the same command again to retry them.", 1)


class TrainedQueries(NamedTuple):
    """The finished run of a cohort."""

    predictions: pd.DataFrame  # out of fold
    folds: list[FittedFold]


@contextmanager
def open_query_study(settings: StudySettings, protocol: str) -> Iterator[tuple[Study, dict[str, TrainedQueries]]]:
    """The common study of all figures and tables of trained queries, and SurvQ with the paper's settings by cohort.

    They share the folder `results/trained_queries/`, so that SurvQ is trained once for all of them.
    """
    with open_study("trained_queries", replace(settings, keep_weights=True), protocol) as study:
        if settings.seeds != 1:
            raise UsageError(f"--seeds is {settings.seeds}; expected 1: one model per fold is shown")
        study.require("histology", "genomics")
        runs = []
        for name, cohort in study.cohorts.items():
            config = TrainConfig(hyperparameters=study.small(), interval_edges="cohort", **study.pace)
            runs.append(Run(name, config, study.folds(cohort).folds))
        trained = {}
        for record in study.train(runs).finished:
            assert record.predictions is not None
            trained[record.cohort] = TrainedQueries(record.predictions, load_run(record.folder)[1])
        yield study, trained


@dataclass
class Study:
    """An open study, as the scripts in `studies/` use it."""

    name: str
    settings: StudySettings
    results: Results
    cohorts: dict[str, Cohort]
    missing: dict[str, str] = field(default_factory=dict)  # runs or searches without a result, and why
    _comparisons: dict[str, Comparison] = field(default_factory=dict)  # by cohort
    _about: dict[str, Any] = field(default_factory=dict)  # what the report says of the data
    _plan: dict[str, dict[str, Any]] = field(default_factory=dict)  # by path: how many runs to expect, and their label
    _records: list[Record] = field(default_factory=list)  # of all ended runs in its folder
    _written: list[Path] = field(default_factory=list)  # tables and figures
    _start: float = field(default_factory=time.monotonic)

    @property
    def simulated(self) -> bool:
        return self.settings.data is None

    @property
    def pace(self) -> dict[str, Any]:
        """Training settings by the data (the demo's or the paper's), overridden by flags."""
        pace = demo.TRAINING if self.simulated else {"epochs": TrainConfig.epochs}
        return pace | ({"epochs": self.settings.epochs} if self.settings.epochs else {})

    @property
    def search_epochs(self) -> int:
        """Epochs of each trial of a search."""
        return self.settings.epochs or (demo.SEARCH_EPOCHS if self.simulated else TrainConfig.epochs)

    def trials(self, asked: int | None) -> int:
        """Trials of each search."""
        return asked or (demo.SEARCH_TRIALS if self.simulated else 32)

    def search_space(self, model: str, cohort: Cohort, **fixed: Any) -> Space:
        """The search space of a model, without the hyperparameters that are `fixed`; that of a small model for the
        demo.
        """
        from survq.tuning.spaces import space_of  # Optuna is slow to import

        limits = demo.SEARCH_LIMITS if self.simulated else {}
        own = self.small(model) | fixed
        return space_of(model, cohort.spec, fixed=own, limits=limits, epochs=self.search_epochs)

    def small(self, model: str = TrainConfig.model) -> dict[str, Any]:
        """The hyperparameters that make a model small enough for the demo; none for real data."""
        known = hyperparameters_of(model)
        return {name: value for name, value in demo.HYPERPARAMETERS.items() if self.simulated and name in known}

    def introduce(self, protocol: str) -> None:
        """Print the first lines: data, protocol, results folder."""
        self._about = {
            "protocol": protocol,
            "simulated": self.simulated,
            "cohorts": {
                name: {
                    "cases": len(cohort.cases),
                    "events": int(cohort.cases["event"].sum()),
                    "excluded": {str(reason): int(n) for reason, n in cohort.dropped["reason"].value_counts().items()},
                }
                for name, cohort in self.cohorts.items()
            },
        }
        data = f"data: {self.settings.data}" if self.settings.data else "SIMULATED data (demo; not a scientific result)"
        print(f"survq {survq.__version__} | {self.name} | {data}")
        for cohort in self.cohorts.values():
            print(f"  {cohort.summary()}")
        print(f"  protocol: {protocol}")
        print(f"  results: {self.results.folder} (run the same command again to resume)\n", flush=True)

    def folds(self, cohort: Cohort, models: Sequence[str] = (TrainConfig.model,)) -> Comparison:
        """The folds on which these models are compared: of the data folder, or new ones on request.

        All models share the same folds, made of the cases that all of them can read. A model that cannot be applied to
        the cohort is skipped by `train` and marked in tables.
        """
        comparison = compare(cohort, models, self.settings)
        for message in comparison.messages():
            print(f"  {message}")
        if comparison.excluded:
            print(f"  {EXCLUDED} in the folder of results names the excluded cases of {cohort.name}")
        self._comparisons[cohort.name] = comparison
        self._note(comparison)
        return comparison

    def require(self, *modalities: str) -> None:
        """Raise DataError if a cohort lacks one of these modalities."""
        problems = [
            f"cohort {name} has no {modality}, needed here. Fix: import it, or choose others with --cohorts."
            for name, cohort in self.cohorts.items()
            for modality in modalities
            if modality not in cohort.modalities
        ]
        raise_if_any(problems)

    def train(self, runs: Sequence[Run]) -> Trained:
        """Execute the runs without a result, except those of a model that cannot be applied to the cohort.

        Raises DataError if the time intervals of a run cannot be defined.
        """
        by_path = {run.path: replace(run, keep_weights=self.settings.keep_weights) for run in runs}
        problems = {path: "not applicable" for path, run in by_path.items() if self._is_not_applicable(run)}
        todo = [run for path, run in by_path.items() if path not in problems]
        # runs of the same folds have the same problems
        cut = {(r.cohort, r.group, r.folds, r.config.intervals, r.config.interval_edges): r for r in todo}
        uncut = [problem for run in cut.values() for problem in run.problems(self.cohorts[run.cohort].cases)]
        raise_if_any(list(dict.fromkeys(uncut)))
        records = self.run(Grid(todo), short_labels(todo))
        self.missing |= {
            path: f"{record.state}: {record.report.reason}"
            for path, record in records.items()
            if record.state != "finished"
        }
        failed = {run.path: "failed" for run in todo if run.path not in records}
        return Trained(list(by_path.values()), records, problems | failed, self.cohorts)

    def run(self, schedule: Schedule, label: Callable[[str], str] = str) -> dict[str, Record]:
        """Execute a schedule. Returns the records of ended runs by path; `label` maps a path to its printed name.

        Until now nothing has been written: a refused study leaves no files.
        """
        self._write_json(SETTINGS, {**asdict(self.settings), "results": str(self.settings.results)})
        self._write_about(schedule, label)
        self._write_excluded()
        with Board(self.results.views / "tensorboard").open() as board:
            monitors: list[Monitor] = [Progress(schedule, label), board]
            queue = RunQueue(schedule, self.results, self.cohorts, monitors)
            if queue.has_work():
                self._machines.execute(queue)
        self._write_about(schedule, label)  # a search knows at its end how many runs it needed
        self.missing |= {path: f"failed: {reason}" for path, reason in queue.failures.items()}
        self._records = self.results.records(known=[*self._records, *queue.records.values()])
        if self._records:
            index = index_table(self._records, self.results.runs)
            replace_file(self.results.folder / "index.csv", csv_bytes(index))
        return queue.records

    def save(self, name: str, content: Table | pd.DataFrame | Figure) -> None:
        """Write a table or a figure into the study's folder. `farewell` prints its path.

        Studies save everything before they print anything: what cannot be printed, in a closed terminal, is on disk.
        """
        self._written += save(self.results.folder, name, content)

    def save_files(self, folder: Sequence[str], contents: Mapping[str, bytes | memoryview | Figure]) -> None:
        """Write the files of a case, by name, into a subfolder of the study, whose last part is its id.

        All parts may hold ids: they become valid names. The id is not printed.
        """
        where = Location.at(self.results.folder.joinpath(*map(file_name, folder)))
        encoded = {file_name(name): content for name, content in contents.items()}
        where.write_files(
            {n: png(content) if isinstance(content, Figure) else content for n, content in encoded.items()}
        )
        above = self.results.folder.joinpath(*map(file_name, folder[:-1]))
        print(f"  written   {above}: {len(encoded)} files of a case")

    def show_oracle(self) -> None:
        """Print the C-index of the true risk of simulated cohorts: the upper bound for models."""
        for name, c_index in demo.oracle(self.cohorts).items():
            other = (
                "" if has_given_folds(self.cohorts[name], self.settings) else " (on its published folds, not on these)"
            )
            print(f"  {name} is simulated: C-index of the true risk {c_index:.3f}{other}")

    def farewell(self) -> None:
        """Write the report if anything in it changed, and print the last lines: paths, duration, missing results."""
        report, was_written = refresh_report(Material(self.results, self._records))
        for path in self._written:
            print(f"  written   {path}")
        for path in report:
            print(f"  {'written' if was_written else 'unchanged':<9} {path}")
        print(f"\n  curves    tensorboard --logdir {shlex.quote(str(self.results.views / 'tensorboard'))}")
        print(f"  runs      {self.results.folder / 'index.csv'}")
        print(f"  took      {clock(time.monotonic() - self._start)}", flush=True)
        for what, why in self.missing.items():
            print(f"\n{what}: {why}", file=sys.stderr)

    def _note(self, comparison: Comparison) -> None:
        """Keep for the report which cases and models a comparison excludes; counts only, no ids."""
        known = self._about.get("cohorts", {}).get(comparison.cohort)
        if known is not None:
            reasons = Counter(f"{reason}, needed by a compared model" for reason in comparison.excluded.values())
            known["excluded"] = known["excluded"] | dict(reasons)
            known["not_applicable"] = dict(comparison.not_applicable)

    def _write_about(self, schedule: Schedule, label: Callable[[str], str]) -> None:
        for path, runs in schedule.plan.items():
            self._plan[path] = {"label": label(path) if schedule.is_fixed else path, "runs": runs}
        self._write_json(ABOUT, self._about | {"plan": self._plan})

    def _write_excluded(self) -> None:
        """The cases that a comparison excludes: cohort, case_id, reason. They are named here only."""
        rows = [
            (cohort, case, reason)
            for cohort, comparison in self._comparisons.items()
            for case, reason in comparison.excluded.items()
        ]
        file = self.results.folder / EXCLUDED
        if rows:
            replace_file(file, csv_bytes(pd.DataFrame(rows, columns=["cohort", "case_id", "reason"])))
        else:
            file.unlink(missing_ok=True)  # of an earlier comparison

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        file = Location.at(self.results.folder) / name
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")

    @cached_property
    def _machines(self) -> Machines:
        # Ray is slow to import, and a finished study does not need it
        from survq.training.machines import Machines

        return Machines(self.settings, self.cohorts)

    def _is_not_applicable(self, run: Run) -> bool:
        comparison = self._comparisons.get(run.cohort)
        return comparison is not None and run.model in comparison.not_applicable
