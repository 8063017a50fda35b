"""Predicting: the loop over 32 cases, whose features lie ready for survq and are read by the reference; one forward."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import torch

from . import reference
from .measure import NO_AMX, Row, alternate, at_least, best_gemm, has_amx, ratio, skipped, spread
from .work import BATCH, PATCHES, as_read, make_run, make_work, put_beside, useful_flops


def loop(quick: bool) -> list[Row]:
    """Also its share of the best bf16 product."""
    work = make_work(BATCH, tiny=2)
    run = make_run(work, work.one_fold(), epochs=1)
    cases = work.case_ids[:BATCH]
    with tempfile.TemporaryDirectory() as folder:
        other, bags = put_beside(work, run, Path(folder), BATCH // 4), as_read(work, run)

        def ours() -> None:
            other.learner.predict(other.learner.table.batch(cases, [bags[case] for case in cases]))

        pairs = [
            (a, 4 * b) for a, b in alternate(ours, lambda: reference.infer(other.model, other.files), 1 if quick else 3)
        ]
    seconds = statistics.median(a for a, _ in pairs) / BATCH
    theirs = statistics.median(b for _, b in pairs) / BATCH
    note = f"{seconds * 1e3:.0f} ms a case, B0 {theirs * 1e3:.0f}; {spread(pairs)}"
    rows = [at_least("inference_loop", ratio(pairs), 8, "x B0", note, binds=has_amx())]
    if not has_amx():
        return [*rows, skipped("inference_mfu", 0.5, "of the best bf16 product", NO_AMX)]
    rate = useful_flops(PATCHES, training=False) / seconds
    return [*rows, at_least("inference_mfu", rate / best_gemm(torch.bfloat16), 0.5, "of the best bf16 product")]


def latency(quick: bool) -> list[Row]:
    """One case, its features in memory as a study shares them, to its logits."""
    work = make_work(1, tiny=10)
    run = make_run(work, work.one_fold(), epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        other = put_beside(work, run, Path(folder), 1)
    with torch.no_grad():
        (case,) = work.case_ids[:1]
        batch = other.learner.table.batch([case], [as_read(work, run)[case]])
        model, their_model = other.learner.model.eval(), other.model.eval()
        pairs = alternate(
            lambda: model(batch), lambda: their_model(work.bags[case].float(), batch.expression[0]), 5 if quick else 15
        )
    ours = statistics.median(a for a, _ in pairs)
    note = f"{ours * 1e3:.0f} ms, B0 {statistics.median(b for _, b in pairs) * 1e3:.0f}; {spread(pairs)}"
    return [at_least("latency", ratio(pairs), 5, "x B0", note, binds=has_amx())]
