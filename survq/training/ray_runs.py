"""Runs under Ray: Tune schedules trials over the machines, and the queue remembers. Each trial is a run."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from survq.data.batch import Bags
from survq.data.cohort import Cohort
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.exits import UsageError
from survq.ray_session import resources as session_resources
from survq.settings import StudySettings
from survq.training.checkpoints import Checkpoints, checkpoints_at
from survq.training.distributed import release_workers, train_over_workers, worker_problem
from survq.training.loop import RunOutcome, best_device, train_folds
from survq.training.queue import RunQueue
from survq.training.run import Run

# isort: split
from ray import tune
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

RETRIES = 2  # of a trial whose process died; a model that raised an error would do so again


def execute(
    queue: RunQueue,
    bags: Mapping[str, Bags],
    resources: TrialResources,
    *,
    checkpoint_minutes: float = 10.0,
    verbose: bool = False,
) -> None:
    """Do all runs that the queue hands out, as many at a time as the resources allow.

    Raises what the queue raised, and KeyboardInterrupt where a signal made Tune leave off.
    """
    # Tune wants a place for what it remembers; nothing of it is read again
    scratch = tempfile.mkdtemp(prefix="survq-tune-")
    scheduler = _Scheduler(queue)
    try:
        trial = tune.with_parameters(
            _trial,
            cohorts=queue.cohorts,
            bags=dict(bags),
            resources=resources,
            checkpoint_minutes=checkpoint_minutes,
        )
        tune.Tuner(
            tune.with_resources(trial, resources.trial),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(queue),
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
    except TuneError:
        if scheduler.error is None:
            raise
        raise scheduler.error from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if not queue.done:
        raise KeyboardInterrupt  # on SIGUSR1 Tune returns as if nothing were left


@dataclass(frozen=True)
class TrialResources:
    """How the session's machines are shared out among trials."""

    trials: int  # at a time
    trial: dict[str, float]  # what a trial takes of Ray's resources
    threads: int  # of a trial's process, or of each of its workers
    workers: int = 0  # Ray Train workers a trial
    worker: dict[str, float] | None = None

    @classmethod
    def of(cls, settings: StudySettings) -> TrialResources:
        """Raises UsageError where there is no room for a single trial."""
        _, cpus, gpus = session_resources()
        gpu = 0.0 if not gpus else 1.0 if settings.gpus_per_trial is None else settings.gpus_per_trial
        if workers := settings.workers_per_trial:
            worker = {"CPU": 1.0, "GPU": gpu} if gpu else {"CPU": 1.0}
            places = _places(gpus, gpu) if gpu else cpus
            if places < workers:
                raise UsageError(f"--workers-per-trial {workers}: there is room for {places}. Fix: ask for fewer.")
            # the trial's own process only waits; a request of nothing at all is refused
            return cls(places // workers, {"CPU": 0, "node:__internal_head__": 0.001}, 1, workers, worker)
        if not gpu:
            # one CPU a trial, however many there are: the result must not depend on it
            return cls(cpus, {"CPU": 1}, 1)
        trials = _places(gpus, gpu)
        if not trials:
            raise UsageError(f"--gpus-per-trial {gpu:g}: there are {gpus} GPUs. Fix: ask for fewer.")
        threads = max(1, min(8, cpus // trials))
        return cls(trials, {"CPU": threads, "GPU": gpu}, threads)

    @property
    def device(self) -> torch.device:
        """Where a trial computes that has no workers. Its process sees the GPUs also if none is its own."""
        return best_device() if self.trial.get("GPU") else torch.device("cpu")

    def __str__(self) -> str:
        spread = f", {self.workers} workers each" if self.workers else ""
        return f"{self.trials} trial{'s' if self.trials > 1 else ''} at a time{spread}"


def _places(gpus: int, gpu: float) -> int:
    """How many find room that take so much of a GPU each. Less than one is of a single GPU.

    >>> _places(2, 0.6), _places(2, 0.4), _places(3, 1), _places(4, 2)
    (2, 4, 3, 2)
    """
    return int(gpus / gpu) if gpu >= 1 else gpus * int(1 / gpu)


def _trial(
    parameters: dict,
    *,
    cohorts: Mapping[str, Cohort],
    bags: Mapping[str, Bags],
    resources: TrialResources,
    checkpoint_minutes: float,
) -> None:
    """What a trial's process does: one run. `reuse_actors` lets the process live on for the next one."""
    run: Run = parameters["run"]
    torch.set_num_threads(resources.threads)
    checkpoints = checkpoints_at(parameters["checkpoints"], checkpoint_minutes)

    cohort, its_bags = cohorts[run.cohort], bags[run.cohort]
    if not resources.workers:
        outcome = _train_here(run, cohort, its_bags, resources.device, checkpoints)
    elif problem := worker_problem(resources.workers, len(run.folds)):
        outcome = _failed(problem)
    else:
        # what goes wrong there is mostly a worker that died: left to Tune, which tries again
        return train_over_workers(run, cohort, its_bags, resources.workers, resources.worker, checkpoints)
    tune.report({"epoch": run.config.epochs, "message": outcome})


def _train_here(
    run: Run, cohort: Cohort, bags: Bags, device: torch.device, checkpoints: Checkpoints | None
) -> RunOutcome:
    def on_epoch(epoch: Epoch | PretrainingEpoch) -> None:
        tune.report({"epoch": epoch.epoch, "message": epoch})

    try:
        return train_folds(
            run, cohort, bags, device=device, on_epoch=on_epoch, checkpoints=checkpoints, keep_weights=run.keep_weights
        )
    except Exception:
        return _failed(traceback.format_exc())


def _failed(reason: str) -> RunOutcome:
    return RunOutcome("failed", [], details={"reason": reason})


class _OfThisProcess:
    """Tune pickles what it is given, to remember it. There is nothing to remember: the queue stays here."""

    def __getstate__(self) -> dict:
        return {}


class _Searcher(_OfThisProcess, Searcher):
    """What Tune asks for the next trial. (Optuna is asked by the schedule, see survq/tuning/search.py.)"""

    def __init__(self, queue: RunQueue):
        super().__init__(metric="epoch", mode="max")  # Tune insists on one
        self._queue = queue
        self._runs: dict[str, Run] = {}  # by trial

    def suggest(self, trial_id: str) -> dict | str | None:
        run = self._queue.take()
        if run is not None:
            self._runs[trial_id] = run
            return {"run": run, "checkpoints": self._queue.checkpoints(run)}
        return Searcher.FINISHED if self._queue.exhausted else None

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        run = self._runs[trial_id]
        # Tune gives up without a word to the scheduler where a process dies while it is made ready for another run
        if error and self._queue.is_running(run):
            self._queue.end(run, _failed("its process died"))

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class _Scheduler(_OfThisProcess, FIFOScheduler):
    """What Tune tells of every report, and what it asks whether to go on."""

    def __init__(self, queue: RunQueue):
        super().__init__()
        self._queue = queue
        self.error: Exception | None = None  # of the queue; Tune raises one of its own

    def on_trial_result(self, controller, trial, result: dict) -> str:
        message, run = result.get("message"), trial.config["run"]
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
        if not trial.should_recover():  # else it is only queued again
            reason = Path(trial.error_file).read_text() if trial.error_file else "its process died"
            self._queue.end(trial.config["run"], _failed(reason))
