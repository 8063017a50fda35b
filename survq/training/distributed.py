"""A run distributed over Ray Train workers.

Folds are distributed over the workers. With more workers than folds, several workers share the batches of a fold. The
training loop is the same; this file gives each worker its share and sums gradients.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from survq.data.cohort import Cohort
from survq.ray_session import on_loopback, ray
from survq.training.board import Board
from survq.training.checkpoints import Checkpoints
from survq.training.loop import train_folds
from survq.training.reading_order import reading_ahead
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
    board: Board,
    workers: int,
    worker: Mapping[str, float] | None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train a run on several workers, from inside a Tune trial. Tune receives their reports as the trial's own."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # the interval at which reports are collected
    # a worker that does not answer so long is taken for dead; Ray's ten minutes also hide the errors of the others
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "120")
    whole_gpus = worker is not None and worker.get("GPU", 0) >= 1
    trial = ray.tune.get_context()
    TorchTrainer(
        _worker,
        train_loop_config={"run": run, "cohort": cohort, "board": board, "checkpoints": checkpoints},
        # NCCL refuses two ranks on one GPU
        torch_config=_connection("nccl" if whole_gpus else "gloo", trial.get_trial_dir()),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(worker and worker.get("GPU")), resources_per_worker=dict(worker or {})
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{trial.get_trial_id()}",
            storage_path=trial.get_trial_dir(),
            # Tune retries, not Train: two layers of retries compete for the same resources
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=2),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def worker_problem(workers: int, folds: int) -> str | None:
    """Why this number of folds cannot be distributed over this number of workers; None if it can."""
    if workers <= folds or workers % folds == 0:
        return None
    return (
        f"--workers-per-trial {workers} cannot be distributed over {folds} folds. Fix: use at most {folds} workers, "
        f"or a multiple of {folds}."
    )


def release_workers(result: dict | None) -> None:
    """Release the placement group of a trial's workers. Ray leaks it if a trial is stopped early."""
    placement = (result or {}).get("placement")
    if placement:
        group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(placement)))
        if placement_group_table(group).get("state") not in (None, "REMOVED"):
            remove_placement_group(group)


def share_of(rank: int, workers: int, folds: int) -> tuple[tuple[int, ...], int, int]:
    """The folds of a worker, its part of their batches, and the number of parts.

    The parts of a fold have consecutive ranks. Ray uses few nodes, and numbers their workers node by node, so that they
    share a node where they can and gradients stay on it.

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
    """How workers connect: through a file below `folder` in a private session, else over the network."""
    # after this time without an answer of the others a worker fails, and the run is started again
    patience = int(os.environ.get("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", 600))
    if not on_loopback():
        return ClusterConfig(backend=backend, timeout_s=patience)
    # a new file per attempt: the previous one lists workers that no longer exist
    return LoopbackConfig(backend=backend, timeout_s=patience, file=f"{tempfile.mkdtemp(dir=folder)}/workers")


@dataclass
class ClusterConfig(TorchConfig):
    """Workers that communicate on the network interface by which Ray knows their node."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ClusterBackend


class _ClusterBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_use_ray_interface)
        super().on_start(worker_group, backend_config)


def _use_ray_interface() -> None:
    """Otherwise gloo takes the interface of the host's own name, which on Debian and Ubuntu is the loopback."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.partition("%")[0] == address for one in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


@dataclass
class LoopbackConfig(TorchConfig):
    """Workers of one machine that communicate on its loopback interface only.

    The rendezvous server of TorchConfig listens on all interfaces, whatever its address.
    """

    file: str = ""

    @property
    def backend_cls(self) -> type[Backend]:
        return _LoopbackBackend


class _LoopbackBackend(Backend):
    share_cuda_visible_devices = True  # as in TorchConfig's backend

    def on_start(self, worker_group: Any, backend_config: LoopbackConfig) -> None:
        workers = len(worker_group)
        ray.get(
            [worker_group.execute_single_async(rank, _join, backend_config, rank, workers) for rank in range(workers)]
        )


def _join(config: LoopbackConfig, rank: int, workers: int) -> None:
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
    messages: Any = dist.new_group(backend="gloo")  # for tables and numbers, whatever backend the gradients use
    peers: Any = None
    if parts > 1:
        for first in range(0, workers, parts):  # every process has to create every group
            ranks = list(range(first, first + parts))
            group = dist.new_group(ranks)
            peers = group if rank in ranks else peers

    def gather(mine: Any) -> list[Any]:
        gathered: list[Any] = [None] * workers
        dist.all_gather_object(gathered, mine, group=messages)
        return gathered

    def sum_gradients(model: nn.Module) -> None:
        if parts == 1:
            return
        learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # the training loop sets every gradient
        flat = torch.cat([cast(Tensor, parameter.grad).reshape(-1) for parameter in learnable])
        dist.all_reduce(flat, group=peers)
        for parameter, gradient in zip(learnable, flat.split([p.numel() for p in learnable]), strict=True):
            parameter.grad = gradient.view_as(parameter)

    def copy_buffers(model: nn.Module) -> None:
        if parts == 1:
            return
        saved = model.state_dict(keep_vars=True)  # other buffers are constants
        for name, buffer in model.named_buffers():
            if name in saved:
                dist.broadcast(buffer, src=rank - part, group=peers)

    placement = ray.util.get_current_placement_group()

    def send(epoch: int, message: Any) -> None:
        # a barrier: every worker has to call it; the content is that of the first one
        content = {"epoch": epoch, "message": message, "placement": placement.id.hex() if placement else ""}
        ray.train.report(content if rank == 0 else {})

    cohort, device = config["cohort"], get_device()
    bags = config["board"][run.cohort]  # those of this worker's node
    share = Share(folds, part, parts, sum_gradients, copy_buffers, gather)
    with reading_ahead(
        run, cohort, bags, device=device, share=share, on_epoch=lambda epoch: send(epoch.epoch, epoch)
    ) as (its_bags, on_epoch):
        outcome = train_folds(
            run,
            cohort,
            its_bags,
            device=device,
            share=share,
            on_epoch=on_epoch,
            checkpoints=config["checkpoints"],
            keep_weights=run.keep_weights,
        )
    send(run.config.epochs, outcome)
