"""Patch features are read in the dtype that the model computes in, and are never rounded for a model in fp32."""

from dataclasses import replace

import pytest
import torch
from small_cohort import CPU, make_cohort, make_run, train
from small_models import SPEC

from survq.data.batch import BagsByDtype
from survq.models import MODELS
from survq.training.config import TrainConfig
from survq.training.fold import patch_dtype_of


def weights(outcome):
    return outcome.details["weights_sha256"]


@pytest.fixture(scope="module")
def small():
    return make_cohort()


@pytest.fixture(params=[True, False])
def units(request, monkeypatch):
    """Whether the CPU has matrix units for bf16."""
    monkeypatch.setattr("survq.layers.precision.computes_bf16", lambda: request.param)
    return request.param


@pytest.mark.parametrize("model", MODELS)
def test_only_a_model_that_rounds_features_reads_rounded_ones(model, units):
    assert patch_dtype_of(TrainConfig(model=model), SPEC, CPU) == torch.float16  # its layers are small


@pytest.mark.parametrize(
    ("hyperparameters", "rounds"),
    [({}, True), ({"width": 16}, False), ({"depth": 2}, False), ({"histology_queries": 0, "depth": 0}, False)],
)
def test_the_dtype_follows_from_hyperparameters(hyperparameters, rounds, units):
    config, spec = TrainConfig(hyperparameters=hyperparameters), replace(SPEC, patch_features=1024)
    expected = torch.bfloat16 if rounds and units else torch.float16
    assert patch_dtype_of(config, spec, CPU) == expected


class Stored(BagsByDtype):
    """Bags as a study shares them."""

    def __init__(self, bags, dtypes):
        self.bags, self.dtypes, self.asked = bags, dtypes, []

    def of(self, dtype):
        self.asked.append(dtype)
        chosen = dtype if dtype in self.dtypes else torch.float16
        return {case: bag.to(chosen) for case, bag in self.bags.items()}

    def __getitem__(self, case_id):
        return self.bags[case_id].to(self.dtypes[0])

    def __iter__(self):
        return iter(self.bags)

    def __len__(self):
        return len(self.bags)


@pytest.mark.parametrize("dtypes", [(torch.float16,), (torch.bfloat16,), (torch.float16, torch.bfloat16)])
def test_features_rounded_once_give_the_result_of_rounding_in_each_step(small, monkeypatch, dtypes):
    monkeypatch.setattr("survq.models.survq.precision", lambda weight, device=None: torch.bfloat16)
    monkeypatch.setattr("survq.layers.fused.precision", lambda weight: torch.bfloat16)
    cohort, bags = small
    run, stored = make_run(cohort, k=2, epochs=1), Stored(bags, dtypes)
    assert weights(train(run, cohort, stored)) == weights(train(run, cohort, bags))
    assert stored.asked == [torch.bfloat16]


def test_a_model_that_computes_in_fp32_never_reads_rounded_features(small, monkeypatch):
    monkeypatch.setattr("survq.layers.precision.computes_bf16", lambda: False)
    cohort, bags = small
    run, stored = make_run(cohort, k=2, epochs=1), Stored(bags, (torch.bfloat16, torch.float16))
    assert weights(train(run, cohort, stored)) == weights(train(run, cohort, bags))
    with pytest.raises(ValueError, match="rounded to bfloat16"):
        train(run, cohort, stored.of(torch.bfloat16))
