"""Study: one question we answer. It opens the data and the results, has its runs done, and sums up."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from matplotlib.figure import Figure

import survq
from survq.data.batch import Bags
from survq.data.cohort import Cohort, cohort_names
from survq.data.folds import Fold, fold_problems, given_folds, make_folds
from survq.data.location import Location, replace_file
from survq.data.problems import DataError, raise_if_any
from survq.evaluation.measure import measure
from survq.evaluation.significance import bootstrap_difference
from survq.exits import UsageError, exit_on_user_error, exit_with, terminate
from survq.models import MODELS
from survq.reporting.run_progress import Progress, short_labels
from survq.reporting.tables import Table, environment_note, paper_table
from survq.reporting.tensorboard import Board
from survq.settings import StudySettings
from survq.simulation.simulate import read_simulation, simulator, write_simulated
from survq.text import clock, preview
from survq.training.config import TrainConfig, hyperparameters_of
from survq.training.queue import Grid, RunQueue, Schedule
from survq.training.results import Record, Results
from survq.training.run import Run

if TYPE_CHECKING:
    from survq.tuning.search import Search

FOLDS = 5  # where the data come without splits and nothing is asked for (section 4.2)
RESUME_HINT = "stopped. Start the same command again to continue: what is finished is not done again."


@contextmanager
def open_study(name: str, settings: StudySettings, protocol: str) -> Iterator[Study]:
    """A study and its folder `results/<name>/`, which no other process may use meanwhile.

    `protocol` says in a line what is fixed, what is chosen, and by what: readers see it above every result.

    What a user can mend ends the program with a message and an exit code, without a traceback.
    """
    results = Results(Path(settings.results).expanduser() / name)
    with exit_on_user_error(interrupted=RESUME_HINT), results.lock():
        study = Study(name, settings, results, _load(settings))
        study.introduce(protocol)
        yield study
        study.farewell()
        if study.missing:
            exit_with(
                f"{len(study.missing)} result(s) are missing; start the same command again to retry what failed.", 1
            )


@dataclass
class Study:
    """What an open study offers its file in `studies/`."""

    name: str
    settings: StudySettings
    results: Results
    cohorts: dict[str, Cohort]
    missing: dict[str, str] = field(default_factory=dict)  # runs, or searches, that have no result, and why
    _records: dict[str, Record] = field(default_factory=dict)  # by path
    _bags: dict[str, Bags] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    @property
    def simulated(self) -> bool:
        return self.settings.data is None

    def introduce(self, protocol: str) -> None:
        """The first lines: which data, which protocol, where results go. Settings are kept beside the results."""
        asked = {**asdict(self.settings), "results": str(self.settings.results)}
        replace_file(self.results.folder / "study.json", json.dumps(asked, indent=2, default=str).encode() + b"\n")
        data = f"data: {self.settings.data}" if self.settings.data else "SIMULATED data: a demo, no scientific result"
        print(f"survq {survq.__version__} | {self.name} | {data}")
        for cohort in self.cohorts.values():
            print(f"  {cohort.summary()}")
        print(f"  protocol {protocol}")
        print(f"  results in {self.results.folder}; start the same command again to continue\n", flush=True)

    def folds(self, cohort: Cohort, model: str = TrainConfig.model) -> tuple[Fold, ...]:
        """The folds that came with the data, or those asked for, without cases of which the model cannot speak."""
        repeats = self.settings.repeats
        if cohort.splits is None or not self._as_given(cohort):
            folds = make_folds(cohort.cases, self.settings.folds or FOLDS, repeats)
        elif repeats == 1:
            folds = given_folds(cohort.splits, list(cohort.cases.index))
        else:
            raise UsageError(
                f"--repeats {repeats}: the folds of cohort {cohort.name} are given with its data. Fix: add --folds "
                f"{FOLDS} to make other ones, or leave --repeats out."
            )
        present = {"histology": cohort.has_slides, "genomics": cohort.has_expression}
        usable = set(cohort.cases.index)
        for modality in MODELS[model].needs:
            usable -= set(cohort.cases.index[~present[modality]])
        if lacking := sorted(set(cohort.cases.index) - usable):
            print(
                f"  {cohort.name}: {model} leaves out {len(lacking)} cases for want of a modality: {preview(lacking)}"
            )
        folds = [
            Fold(f.repeat, f.index, *(tuple(c for c in cases if c in usable) for cases in (f.training, f.validation)))
            for f in folds
        ]
        raise_if_any([f"cohort {cohort.name}: {problem}" for problem in fold_problems(folds, cohort.cases)])
        return tuple(folds)

    def train(self, runs: Sequence[Run]) -> list[Record]:
        """Do the runs that are not done yet. Returns the records of the finished ones, in the order given.

        Raises DataError where the time intervals of a run cannot be cut.
        """
        by_path = {run.path: run for run in runs}
        problems = [problem for run in by_path.values() for problem in run.problems(self.cohorts[run.cohort].cases)]
        raise_if_any(list(dict.fromkeys(problems)))
        records = self.do(Grid(list(by_path.values())), short_labels(list(by_path)))
        ended = [(path, records[path]) for path in by_path if path in records]
        self.missing |= {path: f"{r.state}: {r.report['reason']}" for path, r in ended if r.state != "finished"}
        return [record for _, record in ended if record.state == "finished"]

    def do(self, schedule: Schedule, label: Callable[[str], str] = str) -> dict[str, Record]:
        """Do what a schedule asks for. Returns the records of what ended, by path; `label` is what people see of it."""
        board = Board(self.results.folder / "tensorboard")
        queue = RunQueue(schedule, self.results, self.cohorts, [Progress(lambda: schedule.total, label), board])
        if queue.has_work():
            self._execute(queue)
        self.missing |= {path: f"failed: {reason}" for path, reason in queue.failures.items()}
        self._records |= queue.records
        return queue.records

    def _execute(self, queue: RunQueue) -> None:
        # Ray takes seconds to import; a study that is finished does without
        from survq.data.shared_bags import share_bags
        from survq.ray_session import ON_CLUSTER, await_machine, connect, resources
        from survq.training.distributed import spread_problem
        from survq.training.ray_runs import TrialResources, execute

        for folds in queue.schedule.fold_counts:
            if problem := spread_problem(self.settings.workers_per_trial, folds):
                raise UsageError(problem)
        connect(self.settings.cpus, self.settings.verbose)
        signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in place, which aborts
        await_machine()
        nodes, cpus, gpus = resources()
        where = f"{nodes} nodes" if ON_CLUSTER else "this machine"
        room = TrialResources.of(self.settings)
        print(f"ray on {where}: {cpus} CPUs, {gpus} GPUs, {room} | torch {torch.__version__}", flush=True)
        for name, cohort in self.cohorts.items():
            if name not in self._bags:
                start = time.monotonic()
                self._bags[name] = share_bags(cohort)
                if len(self._bags[name]):
                    size = 2 * int((cohort.slides["patches"] * cohort.slides["width"]).sum())
                    seconds = time.monotonic() - start
                    print(f"  {name}: features in shared memory, {size / 1e6:,.0f} MB in {clock(seconds)}", flush=True)
        print(flush=True)
        execute(queue, self._bags, room, self.settings.verbose)

    def table(self, runs: Sequence[Run], rows: Sequence[str]) -> Table:
        """The table of runs, with these hyperparameters or settings as rows and a column a cohort.

        For settings that were fixed beforehand: nothing was chosen by looking at what the table says.
        """
        lines, reports = [], []
        for path, run in {run.path: run for run in runs}.items():
            config, record = run.config, self._records.get(path)
            settings = {**asdict(config), **hyperparameters_of(config.model), **config.hyperparameters}
            what = {"cohort": run.cohort, "seed": config.seed, "configurations": 1}
            line = {row: settings[row] for row in rows} | what | _size(self.cohorts[run.cohort], run.folds)
            if record is None or record.predictions is None:
                lines.append(line | {"problem": record.state if record else "failed"})
            else:
                lines.append(line | _measured(record.predictions))
                reports.append(record.report)
        return paper_table(pd.DataFrame(lines), list(rows), note=environment_note(reports))

    def differences(
        self, records: Sequence[Record], rows: Sequence[str], reference: Callable[[Record], bool]
    ) -> pd.DataFrame:
        """By how much the C-index of each run differs from that of its cohort and seed's reference, a line a run.

        With the 95 % interval over the same resampled patients; NaN where none is defined. Runs that have no reference
        have no line.
        """
        references = {(r.cohort, r.settings["seed"]): r for r in records if reference(r)}
        lines = []
        for record in records:
            other = references.get((record.cohort, record.settings["seed"]))
            if other is not None and record is not other:
                found = bootstrap_difference(record.predictions, other.predictions)
                line = {"cohort": record.cohort, **{name: record.settings[name] for name in (*rows, "seed")}}
                lines.append(line | {"difference": found.estimate, "low": found.low, "high": found.high})
        return pd.DataFrame(lines)

    def nested_table(self, searches: Sequence[Search], seeds: int) -> Table:
        """The table of what nested searches chose, on the outer folds, which had no say."""
        from survq.tuning.search import outer_predictions, outer_records  # Optuna is not for those who do not search

        lines, reports = [], []
        for name, cohort in self.cohorts.items():
            own = [search for search in searches if search.cohort.name == name]
            tried = sum(len(search.trials) for search in own)
            size = _size(cohort, [search.outer for search in own if search.outer])
            for seed in range(seeds):
                line = {"protocol": "nested search", "cohort": name, "seed": seed, "configurations": tried} | size
                records, predictions = outer_records(own, seed), outer_predictions(own, seed)
                if predictions is None:
                    lines.append(line | {"problem": f"{len(records)} of {len(own)} outer folds"})
                else:
                    lines.append(line | _measured(predictions))
                reports += [record.report for record in records]
        note = environment_note(reports)
        return paper_table(pd.DataFrame(lines), ["protocol"], epoch="the epoch that inner folds chose", note=note)

    def oracle(self) -> dict[str, float]:
        """The C-index that the truth itself reaches on a simulated cohort, by cohort; empty for real ones."""
        told = {name: read_simulation(cohort.folder) for name, cohort in self.cohorts.items()}
        return {name: float(simulation["oracle"]["eta"]) for name, simulation in told.items() if simulation}

    def save(self, name: str, table: Table | None = None, figures: Mapping[str, Figure] | None = None) -> None:
        """Write a table and figures into the study's folder, and say where they are."""
        written = list(table.save(self.results.folder / name)) if table is not None else []
        for figure_name, figure in (figures or {}).items():
            written.append(self.results.folder / f"{figure_name}.png")
            figure.savefig(written[-1], dpi=150)
        for path in written:
            print(f"  written   {path}")

    def save_rows(self, name: str, rows: pd.DataFrame) -> None:
        """Write a table of any kind as CSV into the study's folder, and say where it is."""
        rows.to_csv(self.results.folder / f"{name}.csv", index=False)
        print(f"  written   {self.results.folder / f'{name}.csv'}")

    def show_oracle(self) -> None:
        """On simulated cohorts, the ceiling that the planted truth sets."""
        for name, c_index in self.oracle().items():
            where = "" if self._as_given(self.cohorts[name]) else " on the folds that came with it, which are others"
            print(f"  {name} is simulated: the truth itself reaches {c_index:.3f}{where}")

    def _as_given(self, cohort: Cohort) -> bool:
        """Whether the folds are those that came with the data."""
        return self.settings.folds is None and cohort.splits is not None

    def farewell(self) -> None:
        """The last lines: where to look, and what is missing."""
        print(f"\n  curves    tensorboard --logdir {self.results.folder / 'tensorboard'}")
        print(f"  runs      {self.results.folder}/<cohort>/<run>/{{config.json,predictions.parquet,report.json}}")
        print(f"  took      {clock(time.monotonic() - self._start)}", flush=True)
        for what, why in self.missing.items():
            print(f"\n{what} {why}", file=sys.stderr)


def _load(settings: StudySettings) -> dict[str, Cohort]:
    """All cohorts asked for; what is wrong with any of them is said together."""
    root = Location.at(settings.data) if settings.data else _demo(settings)
    names = settings.cohorts or tuple(cohort_names(root))
    if not names:
        raise DataError([f"{root}: no cohorts; expected <COHORT>/cases.parquet. Fix: make one with `survq import`."])
    cohorts, problems = {}, []
    for name in names:
        try:
            cohorts[name] = Cohort.load(root, name)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return cohorts


def _demo(settings: StudySettings) -> Location:
    """The simulated cohort that stands in where no data are named: the same everywhere, once a simulator."""
    root = Location.at(settings.results) / "simulated-data"
    told = read_simulation(root / "SIM")
    if told is None or told.get("simulator") != simulator():
        write_simulated(root.path, "demo")
    return root


def _size(cohort: Cohort, folds: Sequence[Fold]) -> dict:
    """Of a line of `paper_table`: what is known before anything is measured."""
    cases = cohort.cases.loc[sorted({case for fold in folds for case in fold.validation})]
    unknown = dict.fromkeys(("c_index", "deviation", "low", "high"), math.nan)
    return {"folds": len(folds), "n_cases": len(cases), "n_events": int(cases["event"].sum()), **unknown}


def _measured(predictions: pd.DataFrame) -> dict:
    """Of a line of `paper_table`: what was measured, on the folds where there is a C-index."""
    found = measure(predictions)
    numbers = {"c_index": found["mean"], **{key: found[key] for key in ("deviation", "low", "high")}}
    return numbers | {"folds": sum(not math.isnan(fold["c_index"]) for fold in found["folds"])}
