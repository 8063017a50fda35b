"""python -m tests.benchmarks [--only ROW ...] [--quick] [--json FILE] [--device cuda]"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from . import (
    cotraining,
    driver,
    feature_reading,
    genes,
    gpu,
    growth,
    importing,
    inference,
    large_slide,
    machinery,
    numerics,
    parity,
    pathway_branch,
    reports,
    scheduling,
    training,
)
from .measure import NO_AMX, Row, has_amx

Benchmark = Callable[[bool], list[Row]]

BENCHMARKS: dict[tuple[str, ...], Benchmark] = {
    ("training_fp32",): training.fp32,
    ("training_bf16",): training.bf16,
    ("training_mfu",): training.utilisation,
    ("training_as_configured",): training.with_dropout,
    ("training_ragged",): training.ragged,
    ("genes_alone",): genes.genes_alone,
    ("inference_loop", "inference_mfu"): inference.loop,
    ("latency",): inference.latency,
    ("pathway_branch", "pathway_share"): pathway_branch.pathway_branch,
    ("feature_reading", "feature_store", "feature_share"): feature_reading.feature_reading,
    ("large_slide_memory",): large_slide.memory,
    ("large_slide_time",): large_slide.time_per_patch,
    ("cotraining_reads", "cotraining_cpu", "cotraining_weights"): cotraining.cotraining,
    ("fp32_logits", "fp32_gradients"): numerics.fp32,
    ("bf16_logits", "bf16_gradients"): numerics.bf16,
    ("parity_c_index", "parity_no_dropout", "parity_loss"): parity.parity,
    ("machinery_cpu", "machinery_second_start"): machinery.machinery,
    ("scheduler_idle", "scheduler_scale", "scheduler_driver"): scheduling.scheduling,
    tuple(f"{kind}_{what}" for kind in ("grid", "search") for what in ("growth", "driver", "resume")): driver.driver,
    tuple(f"growth_{what}" for what in growth.WHAT): growth.growth,
    ("growth_memory",): growth.memory,
    ("report_seconds",): reports.report,
    ("import_speed", "import_trident", "import_clam"): importing.speed,
    ("import_memory",): importing.memory,
}
"""The rows of the table, and the function that measures them."""


def main(arguments: list[str] | None = None) -> None:
    names = [name for group in BENCHMARKS for name in group]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="What SurvQ costs, beside B0.")
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=names, help=f"some rows of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="one round of everything: an impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: BRCA-sized work on a GPU")
    chosen = parser.parse_args(arguments)
    start = time.monotonic()
    torch.set_num_threads(1)
    if chosen.device == "cpu" and not has_amx():
        print(
            f"NOTE: {NO_AMX}.\nbf16 rows are skipped, and what (misses) in brackets has a bar for machines with it.\n"
        )
    rows = show(on_gpu()) if chosen.device == "cuda" else show(on_cpu(chosen.only or names, chosen.quick))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps({row.name: row.as_json() for row in rows}, indent=2) + "\n")
    judged = [row for row in rows if row.holds is not None and row.binds]
    missed = [row.name for row in judged if not row.holds]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} bars that bind here hold", end="")
    print(
        f"; missed: {', '.join(missed)}" if missed else "",
        f"({(time.monotonic() - start) / 60:.1f} minutes, {sum(os.times()[:4]) / 60:.1f} of CPU)",
    )


def on_cpu(wanted: Iterable[str], quick: bool) -> Iterable[Row]:
    for group, benchmark in BENCHMARKS.items():
        if not (asked := set(group) & set(wanted)):
            continue
        try:
            yield from (row for row in benchmark(quick) if row.name in asked)
        except Exception as error:  # the other rows can still be measured
            traceback.print_exc()
            for name in sorted(asked):
                yield Row(name, None, "", holds=False, note=f"{type(error).__name__}: {error}"[:500])


def on_gpu() -> Iterable[Row]:
    if torch.cuda.is_available():
        torch.set_num_threads(8)
        return gpu.brca(torch.device("cuda"))
    print("There is no GPU here: NOTHING IS MEASURED. What follows rehearses the same lines on a CPU at a tiny size.\n")
    return gpu.rehearse()


def show(rows: Iterable[Row]) -> list[Row]:
    print(f"{'row':<24}{'value':>10}{'bar':>9}  {'':<9}unit")
    shown = []
    for row in rows:
        print(row, flush=True)
        shown.append(row)
    return shown


if __name__ == "__main__":
    sys.exit(main())
