"""The cost of a forward pass in milliseconds and memory (Table 5)."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec


def random_case(spec: InputSpec, patches: int, device: torch.device | str = "cpu") -> Batch:
    """One case of random numbers, the same in every call."""
    random = torch.Generator().manual_seed(0)
    return Batch(
        case_ids=("CASE",),
        bags=(torch.randn(patches, spec.patch_features, generator=random).half().to(device),),
        expression=(2 * torch.rand(1, spec.genes, generator=random) - 1).to(device),
        has_expression=torch.tensor([True], device=device),
        clinical=torch.randn(1, len(spec.clinical), generator=random).to(device),
        time=torch.tensor([12.0], device=device),
        event=torch.tensor([True], device=device),
        interval=torch.tensor([0], device=device),
    )


def hardware(device: torch.device) -> str:
    """The hardware of the measurement, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads"


def milliseconds(models: Mapping[str, nn.Module], batch: Batch, repeats: int = 30, warm_up: int = 3) -> pd.DataFrame:
    """The time of a forward pass on `batch`: one row per repeat, one column per model.

    The models take turns, so that other load on the machine affects all of them alike.
    """
    rows = [{name: _milliseconds(model, batch) for name, model in models.items()} for _ in range(warm_up + repeats)]
    return pd.DataFrame(rows[warm_up:])


def peak_memory(make_model: Callable[[], nn.Module], make_batch: Callable[[], Batch]) -> int:
    """The peak memory in bytes of a model, a batch and one forward pass together.

    Measured in a new process, because memory kept from earlier work would hide a part. On a CPU it is the growth of the
    resident set, including code that torch loads; on a GPU the memory allocated by torch.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_growth, make_model, make_batch).result()


def _milliseconds(model: nn.Module, batch: Batch) -> float:
    _synchronize(batch)
    start = time.perf_counter()
    _forward(model, batch)
    _synchronize(batch)
    return 1e3 * (time.perf_counter() - start)


@torch.no_grad()
def _forward(model: nn.Module, batch: Batch) -> None:
    """A forward pass as in evaluation of a new case: its patches condensed where the model does so; bf16 on a GPU."""
    device, model = batch.expression.device.type, model.eval()
    if (condense := getattr(model, "condense", None)) is not None:
        batch = replace(batch, bags=tuple(map(condense, batch.bags)))
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        model(batch)


def _synchronize(batch: Batch) -> None:
    if batch.expression.is_cuda:
        torch.cuda.synchronize(batch.expression.device)


def _growth(make_model: Callable[[], nn.Module], make_batch: Callable[[], Batch]) -> int:
    before = _peak_resident()
    batch = make_batch()
    device = batch.expression.device
    _forward(make_model().to(device), batch)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_resident() - before


def _peak_resident() -> int:
    """Bytes. On Linux, getrusage inherits the peak of the parent process, so /proc is read instead."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
