"""The pathway encoders: all together for a batch of 32, against 331 modules case by case; forward and backward."""

from __future__ import annotations

import statistics

import torch

from survq.layers.pathway_encoder import PathwayEncoder

from .measure import Row, alternate, at_least, at_most, ratio, spread
from .reference import ReferenceSurvQ
from .training import step_seconds
from .work import BATCH, FEATURES, GENES, WIDTH, make_work

SAMPLE = 4  # cases that the modules do of the batch


def pathway_branch(quick: bool) -> list[Row]:
    pathways = make_work(4, patches=1).cohort.spec.pathways
    encoder = PathwayEncoder(pathways, WIDTH)
    modules = ReferenceSurvQ(FEATURES, pathways, 4)
    expression = torch.rand(BATCH, GENES)

    def ours() -> None:
        encoder.zero_grad()
        encoder(expression).sum().backward()

    def theirs() -> None:
        for case in expression[:SAMPLE]:
            modules.encode(case).sum().backward()

    theirs()  # gradients are added to from here on, as in accumulation
    pairs = [(a, b * BATCH / SAMPLE) for a, b in alternate(ours, theirs, 3 if quick else 9)]
    a, b = (statistics.median(column) / BATCH * 1e3 for column in zip(*pairs, strict=True))
    note = f"{a:.1f} ms a case, modules {b:.0f}; {spread(pairs)}"
    share = statistics.median(ours for ours, _ in pairs) / step_seconds(quick)
    return [
        at_least("pathway_branch", ratio(pairs), 18, "x modules", note),
        at_most("pathway_share", share, 0.08, "of the training step"),
    ]
