"""A slide of 100,000 patches: the memory of a training step, in a process of its own, and its time per patch."""

from __future__ import annotations

import json
import sys

import torch

from survq.training.learner import FoldLearner

from .measure import GIVE_BACK, Row, alternate, at_most, in_a_fresh_process, median_of_ours, peak_growth, spread
from .work import CPU, Work, as_read, make_bags, make_run, make_work

LARGE, PARTS = 100_000, 8  # as many patches in slides of 12,500, whose activations are kept


def memory(quick: bool) -> list[Row]:
    found = in_a_fresh_process("large_slide", LARGE, environment=GIVE_BACK)
    first, growth, gradients = (found[name] / 2**20 for name in ("first", "growth", "gradients"))
    note = (
        f"peak growth {growth:.0f} MiB, of which gradients {gradients:.0f}; {first - gradients:.1f} MiB beyond for "
        "the first slide of its size, when oneDNN compiles code for its products, once in a process"
    )
    return [at_most("large_slide_memory", growth - gradients, 16, "MiB beyond the gradients", note)]


def time_per_patch(quick: bool) -> list[Row]:
    work = make_work(PARTS, LARGE // PARTS, distinct=PARTS, tiny=2)
    learner = _learner(work)
    bags = as_read(work, make_run(work, work.one_fold(), epochs=1))
    large = torch.cat([bags[case] for case in work.case_ids[:PARTS]])

    def step(cases: list[str], bags: list[torch.Tensor]) -> None:
        learner.step(learner.table.batch(cases, bags), len(cases), 0)

    cases = work.case_ids[:PARTS]
    pairs = alternate(
        lambda: step(cases, [bags[case] for case in cases]), lambda: step(cases[:1], [large]), 1 if quick else 2
    )
    times = sorted(theirs / ours for ours, theirs in pairs)
    note = f"{median_of_ours(pairs) / LARGE * 1e6:.0f} us a patch in slides of {LARGE // PARTS:,}; {spread(pairs)}"
    return [at_most("large_slide_time", times[len(times) // 2], 1.35, "x the time per patch of saved bags", note)]


def _learner(work: Work) -> FoldLearner:
    run = make_run(work, work.one_fold(), epochs=1)
    return FoldLearner(run.config, work.cohort, run.folds[0], CPU)


def _peak(patches: int) -> dict[str, float]:
    work = make_work(8, 64)
    learner = _learner(work)

    def step(bag: torch.Tensor) -> None:
        learner.step(learner.table.batch(work.case_ids[:1], [bag]), 1, 0)

    slides = dict(zip(("first", "second"), make_bags(patches, 2), strict=True))
    bags = as_read(Work(work.cohort, slides), make_run(work, work.one_fold(), epochs=1))
    step(bags["first"][:64])  # the optimizer's state is there from now on
    growth = []
    for bag in bags.values():
        learner.optimizer.zero_grad(set_to_none=True)
        growth.append(peak_growth(lambda bag=bag: step(bag)))
    gradients = sum(4.0 * parameter.numel() for parameter in learner.learnable)
    return {"first": growth[0], "growth": growth[1], "gradients": gradients}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_peak(int(sys.argv[1]))))
