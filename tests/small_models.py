"""Small models, and cases that every one of them understands."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from survq.data.batch import Batch
from survq.data.cohort import InputSpec
from survq.layers.pathway_encoder import PathwayEncoder
from survq.models import MODELS, Prediction, SurvivalModel
from survq.training.config import hyperparameters_of

SPEC = InputSpec(
    patch_features=16,
    genes=10,
    gene_sets={
        "pathways": ((0, 1, 2), (3,), (5, 4), (6, 7, 8), (1, 9), (2,)),
        "six_groups": ((3, 8), (0, 1, 4), (2,), (5, 9, 6), (7,), (9, 3)),
        "eight_families": ((1,), (4, 2), (0, 3, 5), (6,), (8, 7, 9), (2, 9), (5,), (6, 1)),
        "hallmarks": ((2, 0), (9, 4, 6), (1,), (8, 3), (7, 5)),
    },
    intervals=4,
    clinical=("age", "sex", "stage"),
)
"""Every collection of gene sets that a model reads, and a number of features that can be cut into eight parts."""

SMALL = {"width": 16, "histology_queries": 5, "genomic_queries": 3}
"""Hyperparameters that make a model small, where it has them."""


def small_of(name: str) -> dict:
    """The hyperparameters of SMALL that a model has."""
    return {key: value for key, value in SMALL.items() if key in hyperparameters_of(name)}


def build(name: str, spec: InputSpec = SPEC, seed: int = 0, **hyperparameters) -> SurvivalModel:
    torch.manual_seed(seed)
    return MODELS[name](spec, **{**small_of(name), **hyperparameters})


def make_batch(sizes=(7, 1, 4, 9), has_expression=None, seed: int = 0, spec: InputSpec = SPEC) -> Batch:
    """A case for each of `sizes`, the numbers of patches; 0 for a case without slides."""
    random = np.random.default_rng(seed)
    n = len(sizes)
    has = torch.ones(n, dtype=torch.bool) if has_expression is None else torch.tensor(has_expression)
    expression = torch.from_numpy(random.uniform(-1, 1, (n, spec.genes)).astype(np.float32))
    shapes = [(size, spec.patch_features) for size in sizes]
    return Batch(
        case_ids=tuple(f"C{number}" for number in range(n)),
        bags=tuple(torch.from_numpy(random.normal(size=shape).astype(np.float16)) for shape in shapes),
        expression=expression * has[:, None],
        has_expression=has,
        clinical=torch.from_numpy(np.random.default_rng([seed, 1]).normal(size=(n, len(spec.clinical)))).float(),
        time=torch.from_numpy(random.uniform(1, 60, n)).float(),
        event=torch.arange(n) % 2 == 0,
        interval=torch.arange(n) % spec.intervals,
    )


def seen(model: SurvivalModel, batch: Batch) -> Batch:
    """The batch as the loop hands it to this model: with condensed bags, where the model condenses them."""
    if model.condense is None:
        return batch
    with torch.no_grad():
        return replace(batch, bags=tuple(model.condense(bag) if len(bag) else bag for bag in batch.bags))


def loss_of(prediction: Prediction, batch: Batch) -> Tensor:
    """What the loop minimises."""
    return prediction.nll(batch.interval, batch.event).mean() + sum(prediction.penalties.values())


def take(batch: Batch, positions: list[int]) -> Batch:
    """Some of the cases, in this order."""
    columns = ("expression", "has_expression", "clinical", "time", "event", "interval")
    return replace(
        batch,
        case_ids=tuple(batch.case_ids[position] for position in positions),
        bags=tuple(batch.bags[position] for position in positions),
        **{column: getattr(batch, column)[torch.tensor(positions)] for column in columns},
    )


def modules_of(encoder: PathwayEncoder, pathways) -> list[nn.Sequential]:
    """The same weights as one network a pathway, written as anybody would write it."""
    width = encoder.weight_1.shape[1]
    by_size = sorted(range(len(pathways)), key=lambda number: len(pathways[number]))
    weights = encoder.weight_1.split([len(pathways[number]) for number in by_size])
    modules = {}
    for position, number in enumerate(by_size):
        dropout = encoder.dropout
        module = nn.Sequential(
            *(nn.Linear(len(pathways[number]), width), nn.ELU(), nn.AlphaDropout(dropout)),
            *(nn.Linear(width, width), nn.ELU(), nn.AlphaDropout(dropout)),
        )
        with torch.no_grad():
            module[0].weight.copy_(weights[position].T)
            module[0].bias.copy_(encoder.bias_1[position, 0])
            module[3].weight.copy_(encoder.weight_2[position].T)
            module[3].bias.copy_(encoder.bias_2[position, 0])
        modules[number] = module
    return [modules[number] for number in range(len(pathways))]
