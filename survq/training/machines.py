"""Ray for a study: started when the first run is due, with the features of its cohorts in shared memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from survq.data.cohort import Cohort
from survq.data.shared_bags import SharedBags, share_bags
from survq.exits import UsageError, end_on_signals
from survq.models import MODELS
from survq.ray_session import ON_CLUSTER, await_machine, await_nodes, connect, resources, smallest_store
from survq.settings import StudySettings
from survq.text import clock
from survq.training.distributed import worker_problem
from survq.training.fold import patch_dtype_of
from survq.training.queue import RunQueue, Schedule
from survq.training.ray_runs import TrialResources, execute


class Machines:
    """The Ray session on which the runs of a study are trained."""

    def __init__(self, settings: StudySettings, cohorts: Mapping[str, Cohort]):
        self._settings, self._cohorts = settings, cohorts
        self._bags: dict[str, SharedBags] = {}

    def execute(self, queue: RunQueue) -> None:
        """Train all runs of a queue. Raises UsageError if they cannot be distributed over the requested workers."""
        for folds in queue.schedule.fold_counts:
            if problem := worker_problem(self._settings.workers_per_trial, folds):
                raise UsageError(problem)
        end_on_signals()  # also while Ray starts
        connect(self._settings.cpus, self._settings.verbose)
        end_on_signals()  # replaces Ray's handler, which aborts
        await_nodes()
        await_machine()
        nodes, cpus, gpus = resources()
        where = f"{nodes} nodes" if ON_CLUSTER else "this machine"
        trial = TrialResources.of(self._settings)
        print(f"ray on {where}: {cpus} CPUs, {gpus} GPUs, {trial} | torch {torch.__version__}", flush=True)
        for name, cohort in self._cohorts.items():
            dtypes = _dtypes(queue.schedule, cohort, torch.device("cuda" if trial.on_gpu else "cpu"))
            if name not in self._bags or not dtypes <= set(self._bags[name].dtypes):
                self._bags[name] = _shared(cohort, dtypes)
        self._warn_of_small_stores()
        print(flush=True)
        execute(
            queue,
            self._bags,
            trial,
            checkpoint_minutes=self._settings.checkpoint_minutes,
            verbose=self._settings.verbose,
        )

    def _warn_of_small_stores(self) -> None:
        size = sum(_size(self._cohorts[name], len(bags.dtypes)) for name, bags in self._bags.items() if len(bags))
        store = smallest_store()
        if size > store > 0:
            cure = "start Ray with a larger --object-store-memory" if ON_CLUSTER else "use a machine with more memory"
            print(
                f"  the features ({size / 1e6:,.0f} MB) exceed the object store of a node ({store / 1e6:,.0f} MB), and "
                f"the rest is read again in every epoch. To be faster, {cure}, or fewer --cohorts.",
                flush=True,
            )


def _size(cohort: Cohort, dtypes: int) -> int:
    """Bytes of the features of a cohort in shared memory."""
    return 2 * dtypes * int((cohort.slides["patches"] * cohort.slides["width"]).sum())


def _dtypes(schedule: Schedule, cohort: Cohort, device: torch.device) -> set[torch.dtype]:
    """The dtypes in which the runs of a schedule read the patch features of a cohort."""
    spec = cohort.spec
    configs = [config for config in schedule.configs if MODELS[config.model].not_applicable(spec) is None]
    dtypes = {patch_dtype_of(config, spec, device) for config in configs if "histology" in MODELS[config.model].reads}
    # other settings, or other machines, may not round them
    return dtypes if dtypes and schedule.is_fixed and not ON_CLUSTER else dtypes | {torch.float16}


def _shared(cohort: Cohort, dtypes: set[torch.dtype]) -> SharedBags:
    start = time.monotonic()
    bags = share_bags(cohort, dtypes)
    if len(bags):
        size = _size(cohort, len(dtypes))
        kinds = " and ".join(str(dtype).removeprefix("torch.") for dtype in bags.dtypes)
        seconds = clock(time.monotonic() - start)
        print(f"  {cohort.name}: features in shared memory as {kinds}, {size / 1e6:,.0f} MB in {seconds}", flush=True)
    return bags
