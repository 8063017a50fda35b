"""A run spread over Ray Train workers: its folds over the workers, and with more workers than folds, the batches of a
fold over several. The training loop is the same; this file gives each worker its share and sums gradients.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from survq.data.batch import Bags
from survq.data.cohort import Cohort
from survq.ray_session import on_loopback, ray
from survq.training.checkpoints import Checkpoints
from survq.training.loop import train_folds
from survq.training.run import Run
from survq.training.share import Share

# isort: split
import ray.train
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup


def train_over_workers(
    run: Run,
    cohort: Cohort,
    bags: Bags,
    workers: int,
    worker: Mapping[str, float] | None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train a run on several workers, from inside a Tune trial. What they report reaches Tune as if it were its own."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # reports are collected this often
    whole_gpus = worker is not None and worker.get("GPU", 0) >= 1
    trial = ray.tune.get_context()
    TorchTrainer(
        _worker,
        train_loop_config={"run": run, "cohort": cohort, "bags": bags, "checkpoints": checkpoints},
        # NCCL refuses two ranks on one GPU
        torch_config=_connection("nccl" if whole_gpus else "gloo", trial.get_trial_dir()),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(worker and worker.get("GPU")), resources_per_worker=dict(worker or {})
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{trial.get_trial_id()}",
            storage_path=trial.get_trial_dir(),
            # Tune tries again, not Train: two layers of retries fight over the workers' places
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=2),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def worker_problem(workers: int, folds: int) -> str | None:
    """Why so many folds cannot be spread over so many workers, or None."""
    if workers <= folds or workers % folds == 0:
        return None
    return (
        f"--workers-per-trial {workers} does not spread over {folds} folds. Fix: ask for at most {folds}, or for a "
        f"multiple of it."
    )


def release_workers(result: dict | None) -> None:
    """Give back the places of a trial's workers. Ray leaks them when a trial is stopped early."""
    place = (result or {}).get("place")
    if place:
        group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(place)))
        if placement_group_table(group).get("state") not in (None, "REMOVED"):
            remove_placement_group(group)


def share_of(rank: int, workers: int, folds: int) -> tuple[tuple[int, ...], int, int]:
    """Which folds a worker trains, and which part of how many of their batches.

    >>> share_of(rank=1, workers=2, folds=5)
    ((1, 3), 0, 1)
    >>> share_of(rank=3, workers=4, folds=2)
    ((1,), 1, 2)
    """
    if workers <= folds:
        return tuple(range(rank, folds, workers)), 0, 1
    parts = workers // folds
    return (rank // parts,), rank % parts, parts


def _connection(backend: str, folder: str) -> TorchConfig:
    """How workers find each other: in a private session by a file below `folder`, elsewhere over the network."""
    if not on_loopback():
        return TorchConfig(backend=backend, timeout_s=600)
    # a new one for every try: the last one's tells of workers that are no more
    return LoopbackConfig(backend=backend, timeout_s=600, file=f"{tempfile.mkdtemp(dir=folder)}/workers")


@dataclass
class LoopbackConfig(TorchConfig):
    """Workers of one machine, talking on its loopback interface only.

    TorchConfig's workers meet at a server that listens on all interfaces, whatever address it is given.
    """

    file: str = ""

    @property
    def backend_cls(self) -> type[Backend]:
        return _LoopbackBackend


class _LoopbackBackend(Backend):
    share_cuda_visible_devices = True  # as TorchConfig's backend has it

    def on_start(self, worker_group: Any, backend_config: LoopbackConfig) -> None:
        workers = len(worker_group)
        ray.get(
            [worker_group.execute_single_async(rank, _meet, backend_config, rank, workers) for rank in range(workers)]
        )


def _meet(config: LoopbackConfig, rank: int, workers: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dist.init_process_group(
        config.backend,
        init_method=f"file://{config.file}",
        rank=rank,
        world_size=workers,
        timeout=timedelta(seconds=config.timeout_s),
    )


def _worker(config: dict[str, Any]) -> None:
    run: Run = config["run"]
    rank, workers = dist.get_rank(), dist.get_world_size()
    folds, part, parts = share_of(rank, workers, len(run.folds))
    messages: Any = dist.new_group(backend="gloo")  # tables and numbers, whatever the gradients travel by
    mates: Any = None
    if parts > 1:
        for first in range(0, workers, parts):  # every process has to make every group
            ranks = list(range(first, first + parts))
            group = dist.new_group(ranks)
            mates = group if rank in ranks else mates

    def gather(mine: Any) -> list[Any]:
        everyone: list[Any] = [None] * workers
        dist.all_gather_object(everyone, mine, group=messages)
        return everyone

    def sum_gradients(model: nn.Module) -> None:
        if parts == 1:
            return
        learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # the loop leaves no gradient out
        flat = torch.cat([cast(Tensor, parameter.grad).reshape(-1) for parameter in learnable])
        dist.all_reduce(flat, group=mates)
        for parameter, gradient in zip(learnable, flat.split([p.numel() for p in learnable]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def copy_buffers(model: nn.Module) -> None:
        if parts == 1:
            return
        saved = model.state_dict(keep_vars=True)  # the others are constants
        for name, buffer in model.named_buffers():
            if name in saved:
                dist.broadcast(buffer, src=rank - part, group=mates)

    place = ray.util.get_current_placement_group()

    def report(epoch: int, message: Any) -> None:
        # a barrier: every worker reports, the first one speaks
        said = {"epoch": epoch, "message": message, "place": place.id.hex() if place else ""}
        ray.train.report(said if rank == 0 else {})

    outcome = train_folds(
        run,
        config["cohort"],
        config["bags"],
        device=get_device(),
        share=Share(folds, part, parts, sum_gradients, copy_buffers, gather),
        on_epoch=lambda epoch: report(epoch.epoch, epoch),
        checkpoints=config["checkpoints"],
        keep_weights=run.keep_weights,
    )
    report(run.config.epochs, outcome)
