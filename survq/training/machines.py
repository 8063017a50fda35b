"""Ray for a study: started when the first run is due."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from survq.data.cohort import Cohort
from survq.exits import UsageError
from survq.models import MODELS
from survq.ray_session import ON_CLUSTER, await_machine, await_nodes, check_versions, connect, resources
from survq.settings import StudySettings
from survq.training.distributed import worker_problem
from survq.training.fold import patch_dtype_of
from survq.training.queue import RunQueue, Schedule
from survq.training.ray_runs import TrialResources, execute
from survq.training.shared_cohorts import SharedCohorts


class Machines:
    """The Ray session on which the runs of a study are trained."""

    def __init__(self, settings: StudySettings, cohorts: Mapping[str, Cohort]):
        self._settings, self._cohorts = settings, cohorts
        self._shared: SharedCohorts | None = None

    def execute(self, queue: RunQueue) -> None:
        """Train all runs of a queue. Raises UsageError if they cannot be distributed over the requested workers."""
        for folds in queue.schedule.fold_counts:
            if problem := worker_problem(self._settings.workers_per_trial, folds):
                raise UsageError(problem)
        connect(self._settings.cpus, self._settings.verbose)
        await_nodes()
        await_machine()
        check_versions()
        nodes, cpus, gpus = resources()
        where = f"{nodes} nodes" if ON_CLUSTER else "this machine"
        trial = TrialResources.of(self._settings)
        print(f"ray on {where}: {cpus} CPUs, {gpus} GPUs, {trial} | torch {torch.__version__}", flush=True)
        shared = self._shared = self._shared or SharedCohorts(self._cohorts)
        device = torch.device("cuda" if trial.on_gpu else "cpu")
        shared.dtypes = {name: _dtypes(queue.schedule, cohort, device) for name, cohort in self._cohorts.items()}
        shared.processes = trial.trials * max(1, trial.workers)
        execute(
            queue,
            shared,
            trial,
            checkpoint_minutes=self._settings.checkpoint_minutes,
            verbose=self._settings.verbose,
        )


def _dtypes(schedule: Schedule, cohort: Cohort, device: torch.device) -> frozenset[torch.dtype]:
    """The dtypes in which the runs of a schedule read the patch features of a cohort; empty if none reads them."""
    spec, models = cohort.spec, {config.model: MODELS[config.model] for config in schedule.configs}
    reading = {name for name, model in models.items() if "histology" in model.reads and not model.not_applicable(spec)}
    dtypes = {patch_dtype_of(config, spec, device) for config in schedule.configs if config.model in reading}
    if reading and (ON_CLUSTER or not schedule.is_fixed):
        dtypes.add(torch.float16)  # other settings, or other machines, may not round them
    return frozenset(dtypes)
