"""How things are measured: CPU seconds of this process at one thread, pairs that alternate, the median of ratios.

CPU seconds because wall time says nothing on a machine that others use too. Alternating because the speed of a core
changes with what its neighbours do; what is measured side by side is slowed down alike.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[2]
Pairs = list[tuple[float, float]]  # (ours, theirs)


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds` is None where nothing was judged: skipped, or a number without a bar."""

    name: str
    value: float | None
    unit: str
    bar: float | None = None
    holds: bool | None = None
    binds: bool = True  # whether the bar was set for machines such as this one
    note: str = ""

    def as_json(self) -> dict:
        content = {"value": self.value, "bar": self.bar, "holds": self.holds, "unit": self.unit}
        return content | {"binds": self.binds, "note": self.note}

    def __str__(self) -> str:
        verdict = {True: "holds", False: "MISSES", None: "-" if self.value is not None else "SKIPPED"}[self.holds]
        if self.holds is False and not self.binds:
            verdict = "(misses)"
        value, bar = (f"{number:.4g}" if number is not None else "-" for number in (self.value, self.bar))
        return f"{self.name:<24}{value:>10}{bar:>9}  {verdict:<9}{self.unit}" + (
            f"\n{'':4}{self.note}" * bool(self.note)
        )


def at_least(name: str, value: float, bar: float, unit: str, note: str = "", *, binds: bool = True) -> Row:
    return Row(name, value, unit, bar, value >= bar, binds, note)


def at_most(name: str, value: float, bar: float, unit: str, note: str = "", *, binds: bool = True) -> Row:
    return Row(name, value, unit, bar, value <= bar, binds, note)


def skipped(name: str, bar: float, unit: str, reason: str) -> Row:
    return Row(name, None, unit, bar, None, note=f"SKIPPED: {reason}")


NO_AMX = "this CPU has no AMX, so bf16 is not what survq computes in here"


def has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


def cpu_seconds(do: Callable[[], object]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> Pairs:
    """CPU seconds of both, in turn; one more round comes first and is thrown away."""
    return [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(rounds + 1)][1:]


def ratio(pairs: Pairs) -> float:
    """The median of theirs over ours: how many times faster we are."""
    return statistics.median(theirs / ours for ours, theirs in pairs)


def median_of_ours(pairs: Pairs) -> float:
    return statistics.median(ours for ours, _ in pairs)


def spread(pairs: Pairs) -> str:
    ratios = [theirs / ours for ours, theirs in pairs]
    return f"{len(ratios)} pairs, {min(ratios):.3g} to {max(ratios):.3g}"


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares: 1 is linear, 0 is flat."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(c) for c in costs]).slope


@cache
def best_gemm(dtype: torch.dtype, device: str = "cpu") -> float:
    """The best rate of a matrix product found here, in FLOP/s: by CPU time, or by the clock on a GPU."""
    best = 0.0
    clock = time.process_time if device == "cpu" else time.perf_counter
    for m, k, n in (
        (12_000, 1024, 512),
        (4096, 1024, 512),
        (4096, 1024, 1024),
        (512, 12_000, 1024),
        (2048, 2048, 2048),
    ):
        a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
        for _ in range(3):
            start = clock()
            a @ b
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 2 * m * k * n / (clock() - start))
    return best


class HalfPrecisionWork(TorchDispatchMode):
    """Adds up the CPU seconds of operations that take half floats: of features being copied or converted."""

    seconds = 0.0
    converted: Tensor | None = None  # a second conversion, from fp32 to bf16, counts as well

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.dtype == torch.float16 for tensor in taken):
            self.converted = result if isinstance(result, Tensor) else None
        elif self.converted is None or not any(tensor is self.converted for tensor in taken):
            return result
        self.seconds += time.process_time() - start
        return result


def in_a_fresh_process(module: str, *arguments: object, environment: dict[str, str] | None = None) -> dict:
    """`python -m tests.benchmarks.MODULE arguments`, and the JSON that is its last line."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""For PyTorch's large tensors, as in the processes of a study (ray_session.py)."""

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Memory that is freed goes back to the system at once, so that peaks are those of what is alive."""


def peak_growth(do: Callable[[], object]) -> float:
    """By how many bytes the resident memory of this process grew at its highest while `do` ran (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    do()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
