"""A training step of 32 cases, end to end: reading, forward, backward, optimizer, and for survq all its bookkeeping."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import torch

from survq.training.learner import FoldLearner
from survq.training.loop import train_folds

from . import reference
from .measure import (
    NO_AMX,
    Pairs,
    Row,
    at_least,
    at_most,
    best_gemm,
    has_amx,
    median_of_ours,
    ratio,
    skipped,
    spread,
)
from .work import BATCH, CPU, PATCHES, as_read, make_run, make_work, put_beside, strict_fp32, useful_flops

SAMPLE = 8  # cases that the reference does of each batch: it does them one by one, so the others cost the same


def fp32(quick: bool) -> list[Row]:
    pairs = training_pairs(quick, strict=has_amx())
    rate = BATCH * useful_flops(PATCHES, training=True) / median_of_ours(pairs)
    note = (
        f"{per_case(pairs)}; {rate / best_gemm(torch.float):.2f} of the best fp32 product "
        f"({best_gemm(torch.float) / 1e9:.0f} GFLOP/s); attention of B0: {reference.faster_attention().__name__}"
    )
    return [at_least("training_fp32", ratio(pairs), 1.7, "x B0", note)]


def bf16(quick: bool) -> list[Row]:
    if not has_amx():
        return [skipped("training_bf16", 8, "x B0", NO_AMX)]
    pairs = training_pairs(quick)
    return [at_least("training_bf16", ratio(pairs), 8, "x B0", per_case(pairs))]


def utilisation(quick: bool) -> list[Row]:
    if not has_amx():
        return [skipped("training_mfu", 0.45, "of the best bf16 product", NO_AMX)]
    rate = BATCH * useful_flops(PATCHES, training=True) / median_of_ours(training_pairs(quick))
    return [at_least("training_mfu", rate / best_gemm(torch.bfloat16), 0.45, "of the best bf16 product")]


def with_dropout(quick: bool) -> list[Row]:
    """As survq is configured unless told otherwise: patch dropout as well, in both."""
    pairs = training_pairs(quick, cases=SAMPLE, patch_dropout=0.2)
    note = f"patch dropout 0.2 in both, {SAMPLE} cases a step; {per_case(pairs, SAMPLE)}"
    return [Row("training_as_configured", ratio(pairs), "x B0", note=note)]


def ragged(quick: bool) -> list[Row]:
    """An epoch of slides that all have other sizes, as real ones do: by the patch, against slides of one size."""
    sizes = np.random.default_rng(0).integers(1500, 9000, BATCH if quick else 3 * BATCH).tolist()
    work = make_work(len(sizes), max(sizes), tiny=2)
    run = make_run(work, work.one_fold(), epochs=1)
    learner, bags = FoldLearner(run.config, work.cohort, run.folds[0], CPU), as_read(work, run)

    def epoch(sizes: list[int]) -> float:
        start = time.process_time()
        for first in range(0, len(sizes), BATCH):
            cases = work.case_ids[first : first + BATCH]
            some = [bags[case][:size] for case, size in zip(cases, sizes[first:], strict=False)]
            learner.step(learner.table.batch(cases, some), len(cases), 0)
        return (time.process_time() - start) / sum(sizes)

    same = [round(sum(sizes) / len(sizes))] * BATCH
    epoch(same)
    first, pairs = epoch(sizes), [(epoch(sizes), epoch(same)) for _ in range(1 if quick else 3)]
    value = statistics.median(a / b for a, b in pairs)
    note = f"{len(sizes)} slides of 1,500 to 9,000 patches; the first epoch {first / pairs[0][1]:.2f}"
    return [at_most("training_ragged", value, 1.2, "x the time per patch of slides of one size", note)]


def step_seconds(quick: bool) -> float:
    """CPU seconds of survq's step on 32 cases, in the precision that it takes here."""
    return median_of_ours(training_pairs(quick))


@cache
def training_pairs(quick: bool, *, strict: bool = False, cases: int = BATCH, patch_dropout: float = 0.0) -> Pairs:
    """An epoch of one step through `train_folds`, and the reference's step, in turn. The first of both is warm-up."""
    rounds = 1 if quick else 3
    work = make_work(cases, tiny=2)
    run = make_run(work, work.one_fold(), epochs=1 + rounds, patch_dropout=patch_dropout)
    pairs: Pairs = []
    with tempfile.TemporaryDirectory() as folder, strict_fp32() if strict else nullcontext():
        other = put_beside(work, run, Path(folder), SAMPLE)
        optimizer = reference.adamw(other.model)

        def report(_: object) -> None:
            nonlocal mark
            now = time.process_time()
            reference.accumulate(other.model, other.files, cases)
            read = time.process_time()
            optimizer.step()
            optimizer.zero_grad()
            done = time.process_time()
            pairs.append((now - mark, (read - now) * cases / SAMPLE + done - read))
            mark = time.process_time()

        mark = time.process_time()
        train_folds(run, work.cohort, as_read(work, run), device=CPU, on_epoch=report)
    return pairs[1:]


def per_case(pairs: Pairs, cases: int = BATCH) -> str:
    ours, theirs = (statistics.median(column) / cases * 1e3 for column in zip(*pairs, strict=True))
    return f"{ours:.0f} ms a case, B0 {theirs:.0f}; {spread(pairs)}"
