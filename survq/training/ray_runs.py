"""Runs under Ray: Tune schedules trials over the machines, and the queue keeps the state. Each trial is a run."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from survq.data.cohort import Cohort
from survq.data.shared_bags import SharedBags
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.exits import UsageError
from survq.ray_session import resources as session_resources
from survq.settings import StudySettings
from survq.training.board import Board
from survq.training.checkpoints import Checkpoints, checkpoints_at
from survq.training.distributed import release_workers, train_over_workers, worker_problem
from survq.training.loop import RunOutcome, best_device, train_folds
from survq.training.queue import RunQueue
from survq.training.reading_order import reading_ahead
from survq.training.run import Run
from survq.training.shared_cohorts import SharedCohorts

# isort: split
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

RETRIES = 2  # of a trial whose process died; errors of a model are not retried


def execute(
    queue: RunQueue,
    shared: SharedCohorts,
    resources: TrialResources,
    *,
    checkpoint_minutes: float = 10.0,
    verbose: bool = False,
) -> None:
    """Train all runs of the queue, as many at a time as the resources allow.

    Raises the errors of the queue and of reading features, and KeyboardInterrupt if a signal stopped Tune.
    """
    # Tune requires a folder for its state; survq never reads it
    scratch = tempfile.mkdtemp(prefix="survq-tune-")
    runs: dict[str, Run] = {}
    scheduler, searcher = _Scheduler(queue, runs), _Searcher(queue, shared, runs)
    try:
        trial = tune.with_parameters(
            _trial,
            cohorts=queue.cohorts,
            board=shared.board,
            resources=resources,
            checkpoint_minutes=checkpoint_minutes,
        )
        with _without_keys():
            tune.Tuner(
                tune.with_resources(trial, resources.trial),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=scheduler,
                    num_samples=-1,
                    max_concurrent_trials=resources.trials,
                    reuse_actors=not resources.workers,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="survq",
                    storage_path=scratch,
                    verbose=2 if verbose else 0,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                ),
            ).fit()
    except Exception as error:
        raise scheduler.error or searcher.error or error from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not queue.done:
        raise KeyboardInterrupt  # after SIGUSR1 Tune returns as if all trials had finished


@contextmanager
def _without_keys() -> Iterator[None]:
    """Within the block, the keys of a bucket are not in this process's environment.

    Tune would copy them into the description of every trial, which Ray writes to a log that all users can read.
    """
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in keys:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(keys)


@dataclass(frozen=True)
class TrialResources:
    """The division of the session's resources among trials."""

    trials: int  # concurrent trials
    trial: dict[str, float]  # Ray resources per trial
    threads: int  # per trial process or worker
    workers: int = 0  # Ray Train workers per trial
    worker: dict[str, float] | None = None

    @classmethod
    def of(cls, settings: StudySettings) -> TrialResources:
        """Raises UsageError if the resources do not suffice for one trial."""
        _, cpus, gpus = session_resources()
        gpu = 0.0 if not gpus else 1.0 if settings.gpus_per_trial is None else settings.gpus_per_trial
        if workers := settings.workers_per_trial:
            worker = {"CPU": 1.0, "GPU": gpu} if gpu else {"CPU": 1.0}
            capacity = _capacity(gpus, gpu) if gpu else cpus
            if capacity < workers:
                raise UsageError(
                    f"--workers-per-trial {workers}: the resources suffice for {capacity}. Fix: use fewer."
                )
            # the trial's own process only waits; Ray rejects an empty request
            return cls(capacity // workers, {"CPU": 0, "node:__internal_head__": 0.001}, 1, workers, worker)
        if not gpu:
            # one CPU per trial on any machine: the result must not depend on the number of CPUs
            return cls(cpus, {"CPU": 1}, 1)
        trials = _capacity(gpus, gpu)
        if not trials:
            raise UsageError(f"--gpus-per-trial {gpu:g}: {gpus} GPUs are available. Fix: use fewer.")
        threads = max(1, min(8, cpus // trials))
        return cls(trials, {"CPU": threads, "GPU": gpu}, threads)

    @property
    def device(self) -> torch.device:
        """The device of a trial without workers. Its process sees the GPUs even if none is assigned to it."""
        return best_device() if self.trial.get("GPU") else torch.device("cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether runs are trained on GPUs, by the trials or by their workers."""
        return bool((self.worker or self.trial).get("GPU"))

    def __str__(self) -> str:
        workers = f", {self.workers} workers each" if self.workers else ""
        return f"{self.trials} trial{'s' if self.trials > 1 else ''} at a time{workers}"


def _capacity(gpus: int, gpu: float) -> int:
    """The number of processes that fit, with `gpu` GPUs each. A fraction is always of a single GPU.

    >>> _capacity(2, 0.6), _capacity(2, 0.4), _capacity(3, 1), _capacity(4, 2)
    (2, 4, 3, 2)
    """
    return int(gpus / gpu) if gpu >= 1 else gpus * int(1 / gpu)


def _trial(
    parameters: dict,
    *,
    cohorts: Mapping[str, Cohort],
    board: Board,
    resources: TrialResources,
    checkpoint_minutes: float,
) -> None:
    """Train one run in the process of a trial. With `reuse_actors` the process serves further trials."""
    run = board.run(parameters["trial"])
    torch.set_num_threads(resources.threads)
    checkpoints = checkpoints_at(parameters["checkpoints"], checkpoint_minutes)
    _train(run, cohorts[run.cohort], board, resources, checkpoints)


def _train(run: Run, cohort: Cohort, board: Board, resources: TrialResources, checkpoints: Checkpoints | None) -> None:
    if not resources.workers:
        outcome = _train_here(run, cohort, board[run.cohort], resources.device, checkpoints)
    elif problem := worker_problem(resources.workers, len(run.folds)):
        outcome = _failed(problem)
    else:
        # errors are raised: most are dead workers, and Tune retries the trial
        return train_over_workers(run, cohort, board, resources.workers, resources.worker, checkpoints)
    tune.report({"epoch": run.config.epochs, "message": outcome})


def _train_here(
    run: Run, cohort: Cohort, bags: SharedBags, device: torch.device, checkpoints: Checkpoints | None
) -> RunOutcome:
    def report(epoch: Epoch | PretrainingEpoch) -> None:
        tune.report({"epoch": epoch.epoch, "message": epoch})

    keep = run.keep_weights
    try:
        with reading_ahead(run, cohort, bags, device=device, on_epoch=report) as (its_bags, on_epoch):
            return train_folds(
                run, cohort, its_bags, device=device, on_epoch=on_epoch, checkpoints=checkpoints, keep_weights=keep
            )
    except Exception:
        return _failed(traceback.format_exc())


def _failed(reason: str) -> RunOutcome:
    return RunOutcome("failed", [], details={"reason": reason})


class _NotPickled:
    """Tune pickles its searcher and its scheduler. Their pickles are empty: the queue stays in this process."""

    def __getstate__(self) -> dict:
        return {}


class _Searcher(_NotPickled, Searcher):
    """Gives Tune the next trial. (The schedule calls Optuna, see survq/tuning/search.py.)"""

    def __init__(self, queue: RunQueue, shared: SharedCohorts, runs: dict[str, Run]):
        super().__init__(metric="epoch", mode="max")  # required by Tune
        self._queue, self._shared = queue, shared
        self._runs = runs  # of all trials that have begun, by their id
        self.error: Exception | None = None  # of the queue, or of reading features; Tune replaces it by its own

    def suggest(self, trial_id: str) -> dict | str | None:
        try:
            run = self._queue.take()
            if run is None:
                return Searcher.FINISHED if self._queue.exhausted else None
            self._shared.enter(run.cohort)
            self._runs[trial_id] = run
            # not by way of Tune, which writes down what a trial is given: a run has the ids of cases
            self._shared.board.give(trial_id, run)
            return {"trial": trial_id, "checkpoints": self._queue.checkpoints(run)}
        except Exception as error:
            self.error = error
            raise

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        run = self._runs.pop(trial_id)
        self._shared.board.take_back(trial_id)
        # Tune does not call the scheduler if a process dies while it is reset for another run
        if error and self._queue.is_running(run):
            self._queue.end(run, _failed("its process died"))
        if needed := self._queue.cohorts_in_use:  # the last one stays: another schedule may follow
            self._shared.leave(needed)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Scheduler(_NotPickled, FIFOScheduler):
    """Receives every report from Tune, and decides whether a trial continues."""

    def __init__(self, queue: RunQueue, runs: dict[str, Run]):
        super().__init__()
        self._queue, self._runs = queue, runs
        self.error: Exception | None = None  # raised by the queue; Tune replaces it by its own

    def on_trial_result(self, controller, trial, result: dict) -> str:
        message, run = result.get("message"), self._runs[trial.trial_id]
        if not self._queue.is_running(run):  # lost after its outcome had come: Tune has started it again
            release_workers(result)
            return self.STOP
        try:
            if isinstance(message, RunOutcome):
                self._queue.end(run, message)
            elif isinstance(message, PretrainingEpoch):
                self._queue.pretraining(run, message)
            elif isinstance(message, Epoch) and self._queue.epoch(run, message):
                release_workers(result)
                return self.STOP
        except Exception as error:
            self.error = error
            raise
        return self.CONTINUE

    def on_trial_error(self, controller, trial) -> None:
        release_workers(trial.last_result)
        run = self._runs[trial.trial_id]
        reason = Path(trial.error_file).read_text() if trial.error_file else "its process died"
        if not self._queue.is_running(run):
            return
        if trial.should_recover():  # Tune retries it
            short = "its memory ran out" if "OutOfMemory" in reason else "its process or machine was lost"
            self._queue.lost(run, short)
        else:
            self._queue.end(run, _failed(reason))
