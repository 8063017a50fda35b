"""How far survq's numbers are from those of the reference in double precision, on 3000 patches and without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from survq.data.batch import Batch
from survq.models.losses import nll_survival_loss
from survq.training.learner import FoldLearner

from .measure import NO_AMX, Row, at_most, has_amx, skipped
from .reference import ReferenceSurvQ, paired
from .work import CPU, make_run, make_work, strict_fp32

PATCHES, CASES = 3000, 2


@dataclass(frozen=True)
class Subject:
    """A learner, some cases, and the reference with the same weights; what it makes of them in double precision."""

    learner: FoldLearner
    batch: Batch
    single: ReferenceSurvQ
    double: ReferenceSurvQ
    logits: Tensor


def fp32(quick: bool) -> list[Row]:
    it = _subject()
    with strict_fp32():
        logits = _ours(it.learner, it.batch)
    gradients, worst = _gradient_error(it)
    return [
        at_most("fp32_logits", _error(logits, it.logits), 5e-7, "relative to fp64"),
        at_most("fp32_gradients", gradients, 1e-5, "relative to fp64", f"the worst of all tensors, {worst}"),
    ]


def bf16(quick: bool) -> list[Row]:
    """No worse than the reference under autocast, either."""
    unit = "relative to fp64"
    if not has_amx():
        return [skipped("bf16_logits", 3e-3, unit, NO_AMX), skipped("bf16_gradients", 2e-2, unit, NO_AMX)]
    it = _subject()
    logits = _error(_ours(it.learner, it.batch), it.logits)
    gradients, worst = _gradient_error(it)
    with torch.autocast("cpu", torch.bfloat16):
        cast_logits = _error(_theirs(it.single, it.batch), it.logits)
    cast_gradients, _ = _gradient_error(it, it.single)
    note = f"the worst of all tensors, {worst}; autocast {cast_gradients:.1e}"
    return [
        at_most("bf16_logits", logits, min(3e-3, cast_logits), unit, f"autocast {cast_logits:.1e}"),
        at_most("bf16_gradients", gradients, min(2.5e-2, 1.05 * cast_gradients), unit, note),
    ]


def _subject() -> Subject:
    work = make_work(CASES, PATCHES, distinct=CASES, tiny=8)
    run = make_run(work, work.one_fold(), epochs=1, pathway_dropout=0.0)
    learner = FoldLearner(run.config, work.cohort, run.folds[0], CPU)
    cases = work.case_ids[:CASES]
    batch = learner.table.batch(cases, [work.bags[case] for case in cases])
    single = ReferenceSurvQ.like(learner.model, work.cohort.spec.pathways)
    double = deepcopy(single).double()
    return Subject(learner, batch, single, double, _theirs(double, batch))


def _ours(learner: FoldLearner, batch: Batch) -> Tensor:
    learner.model.train()
    logits = learner.model(batch).logits
    nll_survival_loss(logits.float(), batch.interval, batch.event).backward()
    return logits.detach()


def _theirs(model: ReferenceSurvQ, batch: Batch) -> Tensor:
    dtype = model.hazard.weight.dtype
    bags = zip(batch.bags, batch.expression, strict=True)
    logits = torch.cat([model(bag.to(dtype), expression.to(dtype)) for bag, expression in bags]).to(dtype)
    nll_survival_loss(logits, batch.interval, batch.event).backward()
    return logits.detach()


def _gradient_error(it: Subject, of: ReferenceSurvQ | None = None) -> tuple[float, str]:
    """The worst of all tensors and its name: of survq's gradients, or of those of a reference."""
    truth = {name: theirs for name, _, theirs in _gradients(it, it.double)}
    if of is None:
        found = {name: ours for name, ours, _ in _gradients(it, it.double)}
    else:
        found = {name: theirs for name, _, theirs in _gradients(it, of)}
    return max((_error(found[name], truth[name]), name) for name in truth)


def _gradients(it: Subject, model: ReferenceSurvQ) -> Iterator[tuple[str, Tensor, Tensor]]:
    for name, ours, theirs in paired(it.learner.model, model, lambda parameter: parameter.grad):
        if not name.endswith("key.bias"):  # softmax does not see it: its gradient is zero, and all else is rounding
            yield name, ours, theirs


def _error(found: Tensor, truth: Tensor) -> float:
    truth = truth.double()
    return float((found.double() - truth).norm() / truth.norm())
