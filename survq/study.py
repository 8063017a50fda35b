"""Study: one question we answer. It opens the data and the results, has its runs done, and sums up."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

import survq
from survq.data.batch import Bags
from survq.data.cohort import Cohort, cohort_names
from survq.data.folder import Folder, replace_file
from survq.data.folds import Fold, fold_problems, given_folds, make_folds
from survq.data.problems import DataError, raise_if_any, some
from survq.evaluation.measure import measure
from survq.exits import end, sentences, terminate
from survq.models import MODELS
from survq.reporting.progress import Progress, clock, distinct
from survq.reporting.results import Record, Results
from survq.reporting.tables import Table, paper_table
from survq.reporting.tensorboard import Board
from survq.settings import StudySettings
from survq.training.config import Run, TrainConfig
from survq.training.queue import Grid, RunQueue, Schedule

FOLDS = 5  # where the data come without splits and nothing is asked for (section 4.2)
GO_ON = "stopped. Start the same command again to continue: what is finished is not done again."


@contextmanager
def open_study(name: str, settings: StudySettings, protocol: str) -> Iterator[Study]:
    """A study and its folder `results/<name>/`, which no other process may use meanwhile.

    `protocol` says in a line what is fixed, what is chosen, and by what: readers see it above every result.

    What a user can mend ends the program with a message and an exit code, without a traceback.
    """
    results = Results(Path(settings.results).expanduser() / name)
    with sentences(interrupted=GO_ON), results.lock():
        study = Study(name, settings, results, _load(settings))
        study.introduce(protocol)
        yield study
        study.farewell()


@dataclass
class Study:
    """What an open study offers its file in `studies/`."""

    name: str
    settings: StudySettings
    results: Results
    cohorts: dict[str, Cohort]
    failures: dict[str, str] = field(default_factory=dict)
    _bags: dict[str, Bags] = field(default_factory=dict)
    _start: float = field(default_factory=time.monotonic)

    @property
    def simulated(self) -> bool:
        return self.settings.data is None

    def introduce(self, protocol: str) -> None:
        """The first lines: which data, which protocol, where results go."""
        data = f"data: {self.settings.data}" if self.settings.data else "SIMULATED data: a demo, no scientific result"
        print(f"survq {survq.__version__} | {self.name} | {data}")
        for cohort in self.cohorts.values():
            print(f"  {cohort.summary()}")
        print(f"  protocol {protocol}")
        print(f"  results in {self.results.folder}; start the same command again to continue\n", flush=True)

    def folds(self, cohort: Cohort, model: str = TrainConfig.model) -> tuple[Fold, ...]:
        """The folds that came with the data, or those asked for, without cases of which the model cannot speak."""
        if self.settings.folds is None and cohort.splits is not None:
            folds = given_folds(cohort.splits, list(cohort.cases.index))
        else:
            folds = make_folds(cohort.cases, self.settings.folds or FOLDS)
        present = {"histology": cohort.has_slides, "genomics": cohort.has_expression}
        usable = set(cohort.cases.index)
        for modality in MODELS[model].needs:
            usable -= set(cohort.cases.index[~present[modality]])
        if lacking := sorted(set(cohort.cases.index) - usable):
            print(f"  {cohort.name}: {model} leaves out {len(lacking)} cases for want of a modality: {some(lacking)}")
        folds = [
            Fold(f.repeat, f.index, *(tuple(c for c in cases if c in usable) for cases in (f.training, f.validation)))
            for f in folds
        ]
        raise_if_any([f"cohort {cohort.name}: {problem}" for problem in fold_problems(folds, cohort.cases)])
        return tuple(folds)

    def train(self, runs: Sequence[Run]) -> list[Record]:
        """Do the runs that are not done yet. Returns the records of the finished ones, in the order given."""
        by_path = {run.path: run for run in runs}
        records = self.do(Grid(list(by_path.values())), distinct(list(by_path)))
        return [records[path] for path in by_path if path in records and records[path].state == "finished"]

    def do(self, schedule: Schedule, label: Callable[[str], str] = str) -> dict[str, Record]:
        """Do what a schedule asks for. Returns the records of what ended, by path; `label` is what people see of it."""
        board = Board(self.results.folder / "tensorboard")
        queue = RunQueue(schedule, self.results, self.cohorts, [Progress(lambda: schedule.total, label), board])
        if queue.has_work():
            self._execute(queue)
        self.failures |= queue.failures
        return queue.records

    def _execute(self, queue: RunQueue) -> None:
        # Ray takes seconds to import; a study that is finished does without
        from survq.data.session import ON_CLUSTER, await_machine, connect, resources
        from survq.data.shards import share_bags
        from survq.training.runs import Room, execute

        connect(self.settings.cpus, self.settings.verbose)
        signal.signal(signal.SIGTERM, terminate)  # Ray has put its own in place, which aborts
        await_machine()
        nodes, cpus, gpus = resources()
        where = f"{nodes} nodes" if ON_CLUSTER else "this machine"
        room = Room.of(self.settings)
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
        execute(queue, self._bags, self.settings)

    def table(self, records: Sequence[Record], rows: Sequence[str]) -> Table:
        """The table of some records, with these hyperparameters or settings as rows and a column a cohort.

        For settings that were fixed beforehand: nothing was chosen by looking at what the table says.
        """
        lines = []
        for record in records:
            config = record.config["config"]
            settings = {**config, **config["hyperparameters"]}
            what = {"cohort": record.config["cohort"], "seed": config["seed"], "configurations": 1}
            lines.append({row: settings[row] for row in rows} | what | _measured(record.predictions))
        return paper_table(pd.DataFrame(lines), list(rows))

    def nested_table(self, predictions: Mapping[tuple[str, int], pd.DataFrame], configurations: int) -> Table:
        """The table of out-of-fold predictions, by cohort and seed, of what searches of so many settings chose."""
        lines = [
            {"protocol": "nested search", "cohort": cohort, "seed": seed, "configurations": configurations}
            | _measured(table)
            for (cohort, seed), table in predictions.items()
        ]
        return paper_table(pd.DataFrame(lines), ["protocol"])

    def oracle(self) -> dict[str, float]:
        """The C-index that the truth itself reaches on a simulated cohort, by cohort; empty for real ones."""
        found = {}
        for name, cohort in self.cohorts.items():
            file = Folder(cohort.features.filesystem, cohort.features.path.rsplit("/", 1)[0]) / "simulation.json"
            if file.is_file():
                found[name] = float(json.loads(file.read_text())["oracle"]["eta"])
        return found

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
            print(f"  {name} is simulated: the truth itself reaches {c_index:.3f}")

    def farewell(self) -> None:
        """The last lines: what went wrong, where to look, how to go on. Exits with 1 if a run failed."""
        settings = {**asdict(self.settings), "results": str(self.settings.results)}
        replace_file(self.results.folder / "study.json", json.dumps(settings, indent=2, default=str).encode() + b"\n")
        print(f"\n  curves    tensorboard --logdir {self.results.folder / 'tensorboard'}")
        print(f"  runs      {self.results.folder}/<cohort>/<run>/{{config.json,predictions.parquet,report.json}}")
        print(f"  took      {clock(time.monotonic() - self._start)}", flush=True)
        if self.failures:
            for path, reason in self.failures.items():
                print(f"\nFAILED {path}\n{reason}", file=sys.stderr)
            end(f"{len(self.failures)} run(s) failed; start the same command again to retry them.", 1)


def _load(settings: StudySettings) -> dict[str, Cohort]:
    """All cohorts asked for; what is wrong with any of them is said together."""
    root = Folder.at(settings.data) if settings.data else _demo(settings)
    names = settings.cohorts or tuple(cohort_names(root))
    if not names:
        raise DataError([f"{root}: no cohorts; expected <COHORT>/cases.parquet. Mend: make one with `survq import`."])
    cohorts, problems = {}, []
    for name in names:
        try:
            cohorts[name] = Cohort.load(root, name)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return cohorts


def _demo(settings: StudySettings) -> Folder:
    """The simulated cohort that stands in where no data are named; made once, the same everywhere."""
    from survq.data.simulate import write_simulated

    root = Path(settings.results).expanduser() / "simulated-data"
    if not cohort_names(root):
        write_simulated(root, "demo")
    return Folder.at(root)


def _measured(predictions: pd.DataFrame) -> dict:
    """A line of `paper_table`."""
    found = measure(predictions)
    cases = predictions.drop_duplicates("case_id")
    return {
        "c_index": found["mean"],
        **{key: found[key] for key in ("deviation", "low", "high")},
        "folds": len(found["folds"]),
        "n_cases": len(cases),
        "n_events": int(cases["event"].sum()),
    }
