"""B0, the fixed reference of all ratios: SurvQ as a competent user of PyTorch would write it.

One case at a time with gradients accumulated over the batch, fp32, keys and values as linear layers over all patches,
a module a pathway, `torch.load` of a half-precision file a slide, AdamW as it comes. Nothing here is to be made faster.
Given the same weights its numbers are those of survq's model; `check` says so before anything is timed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from survq.data.batch import Batch
from survq.models.losses import nll_survival_loss
from survq.models.survq import SurvQ

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """What the reference reads of a case."""

    file: Path  # (patch, feature), float16
    expression: Tensor  # (gene,)
    interval: Tensor  # (1,)
    event: Tensor  # (1,)


def explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1) @ v


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[None, None], k[None, None], v[None, None])[0, 0]


class Attention(nn.Module):
    def __init__(self, width: int, attend: Attend):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attend = attend

    def forward(self, Q: Tensor, X: Tensor) -> Tensor:
        return self.attend(self.query(Q), self.key(X), self.value(X))


class ReferenceSurvQ(nn.Module):
    """One case in, (1, interval) logits out. Parameters are called as survq calls its own, save for the pathways."""

    def __init__(
        self,
        features: int,
        pathways: Sequence[Sequence[int]],
        intervals: int,
        *,
        width: int = 256,
        histology_queries: int = 300,
        genomic_queries: int = 128,
        patch_dropout: float = 0.0,
        pathway_dropout: float = 0.25,
        attend: Attend = explicit,
    ):
        super().__init__()
        self.genes = torch.tensor([gene for genes in pathways for gene in genes])
        self.sizes = [len(genes) for genes in pathways]
        self.encode_patches = nn.Sequential(
            nn.Linear(features, 2 * width), nn.ReLU(), nn.Dropout(patch_dropout), nn.Linear(2 * width, width)
        )
        self.encode_pathways = nn.ModuleList(snn(size, width, pathway_dropout) for size in self.sizes)
        self.Q_h = nn.Parameter(torch.randn(histology_queries, width))
        self.Q_g = nn.Parameter(torch.randn(genomic_queries, width))
        self.read_patches = Attention(width, attend)
        self.read_pathways = Attention(width, attend)
        self.mix = nn.ModuleList([Attention(width, attend)])
        self.hazard = nn.Linear(width, intervals)

    def forward(self, patches: Tensor, expression: Tensor) -> Tensor:
        X_h = self.encode_patches(patches)  # (patch, width)
        X_g = self.encode(expression)  # (pathway, width)
        M = torch.cat([self.read_patches(self.Q_h, X_h), self.read_pathways(self.Q_g, X_g)])  # (query, width)
        z = self.mix[0](M, M).mean(dim=0, keepdim=True)
        return self.hazard(z)

    def encode(self, expression: Tensor) -> Tensor:
        genes = expression[self.genes].split(self.sizes)
        return torch.stack([module(x) for module, x in zip(self.encode_pathways, genes, strict=True)])

    @classmethod
    def like(cls, model: SurvQ, pathways: Sequence[Sequence[int]], attend: Attend = explicit) -> ReferenceSurvQ:
        """With the sizes, the dropout and the weights of a model of survq's."""
        reference = cls(
            model.encode_patches[0].in_features,
            pathways,
            model.hazard.out_features,
            width=model.hazard.in_features,
            histology_queries=len(model.Q_h),
            genomic_queries=len(model.Q_g),
            patch_dropout=model.encode_patches[2].p,
            pathway_dropout=model.encode_pathways.dropout,
            attend=attend,
        ).to(model.hazard.weight.dtype)
        for _, ours, theirs in paired(model, reference, lambda parameter: parameter.data):
            theirs.copy_(ours)
        return reference


def snn(genes: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(genes, width), nn.ELU(), nn.AlphaDropout(dropout)),
        *(nn.Linear(width, width), nn.ELU(), nn.AlphaDropout(dropout)),
    )


def paired(
    model: SurvQ, reference: ReferenceSurvQ, of: Callable[[nn.Parameter], Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every parameter: its name, what `of` makes of it in survq's model, and in the reference, in equal shapes."""
    theirs = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("encode_pathways."):
            yield name, of(parameter), of(theirs[name])
    encoder = model.encode_pathways
    by_size = sorted(range(len(reference.sizes)), key=reference.sizes.__getitem__)  # as survq keeps them
    rows = of(encoder.weight_1).split([reference.sizes[p] for p in by_size])
    others = [of(parameter) for parameter in (encoder.bias_1, encoder.weight_2, encoder.bias_2)]
    for position, p in enumerate(by_size):
        first, second = (reference.encode_pathways[p][layer] for layer in (0, 3))
        bias_1, weight_2, bias_2 = (other[position] for other in others)
        name = f"encode_pathways.{p}"
        yield f"{name}.weight_1", rows[position], of(first.weight).T
        yield f"{name}.bias_1", bias_1[0], of(first.bias)
        yield f"{name}.weight_2", weight_2, of(second.weight).T
        yield f"{name}.bias_2", bias_2[0], of(second.bias)


def load(case: Case) -> Tensor:
    return torch.load(case.file).float()


def train_step(model: ReferenceSurvQ, optimizer: torch.optim.Optimizer, cases: Sequence[Case]) -> float:
    """Read, forward and backward of each case, and one step of the optimizer. Returns the mean loss."""
    loss = accumulate(model, cases, len(cases))
    optimizer.step()
    optimizer.zero_grad()
    return loss


def accumulate(model: ReferenceSurvQ, cases: Sequence[Case], batch_size: int) -> float:
    model.train()
    total = 0.0
    for case in cases:
        logits = model(load(case), case.expression)
        loss = nll_survival_loss(logits, case.interval, case.event) / batch_size
        loss.backward()
        total += float(loss.detach())
    return total


@torch.no_grad()
def infer(model: ReferenceSurvQ, cases: Sequence[Case]) -> Tensor:
    """(case, interval), logits."""
    model.eval()
    return torch.cat([model(load(case), case.expression) for case in cases])


def adamw(model: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-3)


@cache
def faster_attention(queries: int = 300, patches: int = 12_000, width: int = 256) -> Attend:
    """Explicit softmax or PyTorch's fused attention, whichever takes less CPU time here, forward and backward."""
    q, k, v = (torch.randn(n, width, requires_grad=True) for n in (queries, patches, patches))
    best = {attend: math.inf for attend in (explicit, fused)}
    for _ in range(4):
        for attend in best:
            start = time.process_time()
            attend(q, k, v).sum().backward()
            best[attend] = min(best[attend], time.process_time() - start)
    return min(best, key=best.__getitem__)


def check(model: SurvQ, reference: ReferenceSurvQ, batch: Batch) -> None:
    """Raises AssertionError where the two disagree about some cases by more than fp32 explains."""
    was = model.training
    with torch.no_grad():
        ours = model.eval()(batch).logits
        bags = zip(batch.bags, batch.expression, strict=True)
        theirs = torch.cat([reference.eval()(bag.float(), expression) for bag, expression in bags])
    model.train(was)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-5)
