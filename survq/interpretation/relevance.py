"""What changes the predicted risk of a case: gradients with respect to its inputs, and inputs left out.

Attention says what a model reads, not what it uses. These do not depend on attention, and exist for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from survq.data.batch import Batch, CaseTable
from survq.models import SurvivalModel

PATHWAYS_BY_GRADIENT = (
    "Relevance of pathways by gradient is weak evidence: in our tests on simulated cohorts, the gradient of the risk "
    "was larger for a pathway without effect than for the planted one, whose absence changed the risk most. "
    "Therefore the figures show the change of the risk without a pathway, and no gradient."
)
REGIONS = 256  # at most as many regions of a case are left out, each in a prediction of its own
TOGETHER = 16  # predictions in one batch


def gradients(model: SurvivalModel, batch: Batch) -> tuple[list[Tensor], Float[Tensor, "case gene"]]:
    """The gradient of each case's risk with respect to its patches, (patch, feature) each, and to its expression."""
    model.eval()
    bags = [bag.detach().float().requires_grad_() for bag in batch.bags]
    expression = batch.expression.detach().clone().requires_grad_()
    risk = model(replace(batch, bags=tuple(bags), expression=expression)).risk
    *of_bags, of_expression = torch.autograd.grad(risk.sum(), [*bags, expression], materialize_grads=True)
    return of_bags, of_expression


def patch_regions(positions: pd.DataFrame, most: int = REGIONS) -> Int[np.ndarray, " patch"]:
    """The number of each patch's region: squares of each slide, the smallest of which there are at most `most`.

    The squares are one or more patches wide. `positions` are those of `Cohort.patch_positions`; where they are unknown,
    each slide is a region.
    """
    known = positions[["x", "y"]].notna().all(axis=1)
    corners = positions[["x", "y"]].fillna(0).to_numpy(float)
    slide = positions["slide_id"].factorize()[0]
    side = np.array([patch_side(rows) for _, rows in positions.groupby("slide_id", sort=False)])[slide]
    for width in range(1, len(positions) + 2):
        squares = np.where(known.to_numpy()[:, None], corners // (width * side[:, None]), 0)
        _, region = np.unique(np.column_stack([slide, squares]), axis=0, return_inverse=True)
        if region.max(initial=0) < most:
            break
    return region.reshape(-1)


def patch_side(positions: pd.DataFrame) -> float:
    """The side of the patches of one slide in level-0 pixels; if unknown, the smallest step between them."""
    if positions["patch_size"].notna().all():
        return float(positions["patch_size"].iloc[0])
    steps = [np.diff(np.unique(positions[axis].dropna().to_numpy(float))) for axis in ("x", "y")]
    return float(min((step.min() for step in steps if len(step)), default=1.0))


@torch.no_grad()
def without_regions(
    model: SurvivalModel, batch: Batch, region: Int[np.ndarray, " patch"]
) -> Float[np.ndarray, " patch"]:
    """The absolute change of a case's risk if the patches of a region are left out, for each patch of the region.

    `batch` is one case.
    """
    model.eval()
    (bag,) = batch.bags
    inside = torch.from_numpy(region).to(bag.device)
    bags = [bag[inside != number] for number in range(int(region.max(initial=-1)) + 1)]
    return _changes(model, batch, bags, [batch.expression] * len(bags))[region]


@torch.no_grad()
def without_pathways(
    model: SurvivalModel, batch: Batch, pathways: Sequence[Sequence[int]], mean: Float[Tensor, " gene"]
) -> Float[np.ndarray, " pathway"]:
    """The absolute change of a case's risk if the genes of a pathway have the value of `mean`.

    Genes that other pathways share change there, too. `batch` is one case.
    """
    model.eval()
    expressions = []
    for genes in pathways:
        expression = batch.expression.clone()
        expression[:, list(genes)] = mean[list(genes)]
        expressions.append(expression)
    return _changes(model, batch, [batch.bags[0]] * len(expressions), expressions)


def typical_expression(table: CaseTable, training: Sequence[str]) -> Float[Tensor, " gene"]:
    """The mean over these cases; over all cases if the table has none of them."""
    chosen = set(training)
    among = torch.tensor([case in chosen for case in table.row])
    rows = table.has_expression & (among if (among & table.has_expression).any() else True)
    return table.expression[rows].mean(dim=0)


def _changes(model: SurvivalModel, batch: Batch, bags: Sequence[Tensor], expressions: Sequence[Tensor]) -> np.ndarray:
    """The absolute change of the risk of one case with other inputs: one value per input."""
    before = float(model(batch).risk)
    risks = []
    for start in range(0, len(bags), TOGETHER):
        some = bags[start : start + TOGETHER]
        row = torch.zeros(len(some), dtype=torch.long, device=batch.time.device)
        columns = ("has_expression", "clinical", "time", "event", "interval")
        copies = replace(
            batch,
            case_ids=batch.case_ids * len(some),
            bags=tuple(some),
            expression=torch.cat(list(expressions[start : start + TOGETHER])),
            **{name: getattr(batch, name)[row] for name in columns},
        )
        risks.append(model(copies).risk.double().cpu().numpy())
    return np.abs(np.concatenate(risks) - before) if risks else np.empty(0)
