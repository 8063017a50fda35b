"""A study shares its features in the dtypes that its runs read."""

from dataclasses import replace

import pytest
import torch

from survq.data.shared_bags import share_bags
from survq.training import machines
from survq.training.config import TrainConfig
from survq.training.queue import Grid
from survq.training.run import Run

CPU = torch.device("cpu")


def test_shared_bags_are_rounded_once(ray_session, cohort, bags):
    shared = share_bags(cohort, {torch.bfloat16, torch.float16})
    assert set(shared) == set(bags)
    for case, bag in bags.items():
        assert torch.equal(shared[case], bag)
        assert torch.equal(shared.of(torch.float16)[case], bag)
        assert torch.equal(shared.of(torch.bfloat16)[case], bag.bfloat16())


def test_what_is_not_shared_is_read_as_it_is_stored_or_not_at_all(ray_session, cohort):
    few = replace(cohort, slides=cohort.slides.iloc[:2])
    assert next(iter(share_bags(few).of(torch.bfloat16).values())).dtype == torch.float16
    with pytest.raises(KeyError, match="shared as"):
        share_bags(few, {torch.bfloat16}).of(torch.float16)


@pytest.mark.parametrize(
    ("models", "is_fixed", "on_cluster", "expected"),
    [
        (["survq"], True, False, {torch.bfloat16}),
        (["survq", "abmil"], True, False, {torch.bfloat16, torch.float16}),
        (["abmil"], True, False, {torch.float16}),
        (["survq", "mlp"], True, False, {torch.bfloat16}),
        (["mlp"], True, False, set()),
        (["mlp"], False, True, set()),
        (["survq"], False, False, {torch.bfloat16, torch.float16}),
        (["survq"], True, True, {torch.bfloat16, torch.float16}),
    ],
)
def test_dtypes_of_a_study(cohort, monkeypatch, models, is_fixed, on_cluster, expected):
    monkeypatch.setattr("survq.layers.precision.computes_bf16", lambda: True)
    monkeypatch.setattr(machines, "ON_CLUSTER", on_cluster)
    wide = replace(cohort, slides=cohort.slides.assign(width=1024))
    grid = Grid([Run(cohort.name, TrainConfig(model=model), ()) for model in models])
    grid.is_fixed = is_fixed
    assert machines._dtypes(grid, wide, CPU) == expected
