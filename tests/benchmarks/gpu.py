"""BRCA on one GPU: 869 cases of 12,000 patches, five folds together; 50 epochs from the measured ones.

THIS HAS NOT BEEN RUN ON A GPU: none was there when it was written. `rehearse` drives the same lines on a CPU at a tiny
size, so that they are known to work, and says nothing of speed.
"""

from __future__ import annotations

import itertools
import statistics
import time

import torch

from survq.training.loop import train_folds

from .measure import Row, at_least, at_most, best_gemm
from .work import BATCH, FEATURES, SIZES, Work, make_run, make_work, useful_flops

CASES, PATCHES, FOLDS, EPOCHS = 869, 12_000, 5, 50
PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}  # dense bf16, FLOP/s, as the makers state it


def brca(
    device: torch.device, *, cases: int = CASES, patches: int = PATCHES, measured: int = 3, **smaller: int
) -> list[Row]:
    work = _distinct(cases, patches)
    run = make_run(work, work.folds(FOLDS), epochs=1 + measured, batch_size=BATCH, **smaller)
    marks = [_now(device)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    train_folds(run, work.cohort, work.bags, device=device, on_epoch=lambda _: marks.append(_now(device)))
    epochs = [after - before for before, after in itertools.pairwise(marks)]
    epoch = statistics.median(epochs[1:])
    seconds = epochs[0] + (EPOCHS - 1) * epoch  # the first one brings the features to the device
    flops = cases * ((FOLDS - 1) * useful_flops(patches, training=True) + useful_flops(patches, training=False))
    name, peak = _peak(device)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    size = 2 * cases * patches * FEATURES / 2**30
    note = f"{name}; first epoch {epochs[0]:.2f} s, then {epoch:.2f} s; {cases} cases x {patches:,} patches"
    binds = "A100" in name and (cases, patches) == (CASES, PATCHES)
    return [
        at_most("brca_seconds", seconds, 120, f"s for {EPOCHS} epochs of {FOLDS} folds", note, binds=binds),
        at_least("brca_mfu", flops / epoch / peak, 0.30, "of the bf16 peak", f"{peak / 1e12:.3g} TFLOP/s", binds=binds),
        Row("brca_memory", memory, "GiB on the device", note=f"features {size:.2f} GiB"),
    ]


def rehearse() -> list[Row]:
    """The same at a tiny size on the CPU."""
    return brca(torch.device("cpu"), cases=20, patches=64, measured=1)


def _distinct(cases: int, patches: int) -> Work:
    """Bags that overlap in host memory; on the device each is a copy of its own, as real ones are."""
    work = make_work(cases, 1, distinct=1, sizes=SIZES)
    pool = torch.randn(patches + cases, FEATURES).half()
    bags = {case: pool[at : at + patches] for at, case in enumerate(work.case_ids)}
    work.cohort.slides["patches"] = patches
    return Work(work.cohort, bags)


def _peak(device: torch.device) -> tuple[str, float]:
    """The name of the device and its peak: stated by its maker, else the best product that was found."""
    if device.type != "cuda":  # some CPUs take a hundred times as long for bf16 as for fp32
        return "CPU", best_gemm(torch.float)
    name = torch.cuda.get_device_name(device)
    stated = [peak for model, peak in PEAK.items() if model in name]
    return name, stated[0] if stated else best_gemm(torch.bfloat16, device.type)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
