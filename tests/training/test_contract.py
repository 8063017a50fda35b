"""Every part of the contract of models, tested with toy models that use all of it."""

from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from small_cohort import CPU, make_cohort, make_run, train, train_together
from torch import nn

from survq.data.gene_sets import GeneSets
from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.models import MODELS, Prediction, SurvivalModel
from survq.training.checkpoints import Checkpoints
from survq.training.config import TrainConfig
from survq.training.fold_file import read_fold
from survq.training.loop import train_folds


class Toy(SurvivalModel):
    """Micro-bags, gene sets, condensed bags, pretraining, a memory between steps, and penalties."""

    needs = frozenset({"histology", "genomics"})
    gene_sets = ("families",)
    native: ClassVar = {"optimizer": "sgd", "schedule": "cosine", "nll_alpha": 0.5, "epochs": 3}
    condensed: ClassVar[list] = []
    calls: ClassVar[list] = []

    def __init__(self, spec, *, pretraining: int = 2, micro_bag: int = 2):
        super().__init__()
        self.pretraining_epochs, self.micro_bag = pretraining, micro_bag
        self.families = spec.gene_sets["families"]
        self.genes = nn.Linear(len(self.families), spec.intervals)
        self.patches = nn.Linear(spec.patch_features + 1, spec.intervals)
        self.projection = nn.Linear(len(self.families), 2)
        self.register_buffer("centre", torch.zeros(spec.patch_features))
        self.register_buffer("memory", torch.zeros(len(self.families)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def prepare(self, training):
        passes = [[case for batch in training for case in batch.case_ids] for _ in range(2)]
        self.calls.append(("prepare", passes))
        self.centre.copy_(torch.cat([bag.float() for batch in training for bag in batch.bags]).mean(dim=0))

    def start_epoch(self, number):
        self.calls.append(("epoch", number))

    def condense(self, bag):
        assert not torch.is_grad_enabled() and not self.training
        self.condensed.append(len(bag))
        distance = (bag.float() - self.centre).norm(dim=1, keepdim=True)
        return torch.cat([bag.float(), distance], dim=1)

    def pretraining_loss(self, batch):
        return {"agreement": self.projection(self._families(batch)).square().mean(), "size": self.genes.weight.norm()}

    def forward(self, batch, *, keep_attention=False):
        families = self._families(batch)
        if self.training:
            self.memory.lerp_(families.detach().mean(dim=0), 0.5)
            self.steps += 1
        case, rows = [], []
        for position, bag in enumerate(batch.bags):
            for part in bag.split(self.micro_bag):
                case.append(position)
                rows.append(self.patches(part.mean(dim=0)) + self.genes(families[position] - self.memory))
        penalties = {"genes": 0.01 * self.genes(families).square().mean(), "patches": 0.01 * self.patches.weight.norm()}
        return Prediction(torch.stack(rows), torch.tensor(case), penalties if self.training else {})

    def _families(self, batch):
        return torch.stack([batch.expression[:, list(genes)].mean(dim=1) for genes in self.families], dim=1)


class Fixed(SurvivalModel):
    """A model without parameters: the risk is one gene, with the sign of its correlation in the training cases."""

    reads = needs = frozenset({"genomics"})

    def __init__(self, spec):
        super().__init__()
        self.intervals = spec.intervals
        self.register_buffer("sign", torch.zeros(()))

    def prepare(self, training):
        gene_and_time = torch.cat([torch.stack([batch.expression[:, 0], batch.time]) for batch in training], dim=1)
        self.sign.copy_(-torch.corrcoef(gene_and_time)[0, 1].sign())

    def forward(self, batch, *, keep_attention=False):
        return Prediction((self.sign * batch.expression[:, :1]).expand(-1, self.intervals))


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", Toy)
    monkeypatch.setitem(MODELS, "fixed", Fixed)
    monkeypatch.setattr(Toy, "condensed", [])
    monkeypatch.setattr(Toy, "calls", [])


@pytest.fixture(scope="module")
def small():
    """Cases with both modalities, and a second collection of gene sets."""
    cohort, bags = make_cohort()
    cohort = cohort.select(list(cohort.cases.index[cohort.has_slides & cohort.has_expression]))
    families = GeneSets(("one", "two"), (("A", "B", "C"), ("E", "H")))
    return replace(cohort, gene_sets={**cohort.gene_sets, "families": families}), bags


def toy_run(cohort, model="toy", hyperparameters=None, **settings):
    run = make_run(cohort, k=2, **settings)
    return replace(run, config=replace(run.config, model=model, hyperparameters=hyperparameters or {}))


def weights(outcome):
    return outcome.details["weights_sha256"]


def test_loss_hazards_and_risk_are_means_over_the_rows_of_a_case():
    torch.manual_seed(0)
    logits, case = torch.randn(5, 3, dtype=torch.double), torch.tensor([0, 1, 1, 0, 1])
    together = Prediction(logits, case)
    rows = Prediction(logits)
    interval, event = torch.tensor([2, 0]), torch.tensor([True, False])
    by_row = rows.nll(interval[case], event[case], 0.3)
    for position in (0, 1):
        own = case == position
        assert torch.allclose(together.hazards[position], rows.hazards[own].mean(dim=0))
        assert torch.allclose(together.survival[position], rows.survival[own].mean(dim=0))
        assert torch.allclose(together.risk[position], rows.risk[own].mean())
        assert torch.allclose(together.nll(interval, event, 0.3)[position], by_row[own].mean())

    # tensors of this device have no numbers: on a GPU, nothing is waited for
    outcome = interval.to("meta"), event.to("meta")
    assert Prediction(logits.to("meta"), case).nll(*outcome).shape == (2,)


def test_a_run_uses_all_of_the_contract(small):
    cohort, bags = small
    run = toy_run(cohort, epochs=2)
    calls = []
    outcome = train_folds(run, cohort, bags, device=CPU, on_epoch=calls.append)
    assert outcome.state == "finished"

    # pretraining comes first, is reported by name, and is not counted among the epochs
    assert [type(epoch) for epoch in calls] == [PretrainingEpoch] * 2 + [Epoch] * 2
    assert [epoch.epoch for epoch in calls] == [1, 2, 1, 2]
    assert outcome.pretraining == calls[:2] and outcome.epochs == calls[2:]
    assert {name: len(values) for name, values in calls[0].losses.items()} == {"agreement": 2, "size": 2}
    assert np.mean(calls[1].losses["agreement"]) < np.mean(calls[0].losses["agreement"])

    # penalties are part of the training loss
    epoch = outcome.epochs[-1]
    assert set(epoch.penalties) == {"genes", "patches"}
    for fold in (0, 1):
        assert 0 < sum(values[fold] for values in epoch.penalties.values()) < epoch.training_loss[fold]

    # each fold prepares once, on its training cases, in an order that differs between passes
    prepared = [passes for kind, passes in Toy.calls if kind == "prepare"]
    assert len(prepared) == 2
    for fold, (first, second) in zip(run.folds, prepared, strict=True):
        assert sorted(first) == sorted(second) == sorted(fold.training)
        assert first != second and first != sorted(first)
    assert [number for kind, number in Toy.calls if kind == "epoch"] == [1, 1, 2, 2, 1, 1, 2, 2]


def test_a_bag_is_condensed_once_per_case_and_fold(small):
    cohort, bags = small
    train(toy_run(cohort, epochs=3), cohort, bags)
    sizes = Counter(len(bags[case]) for case in cohort.cases.index)
    assert Counter(Toy.condensed) == {size: 2 * count for size, count in sizes.items()}


def test_pretraining_and_prepare_change_the_weights(small):
    cohort, bags = small
    plain = train(toy_run(cohort), cohort, bags)
    assert weights(train(toy_run(cohort), cohort, bags)) == weights(plain)
    assert weights(train(toy_run(cohort, hyperparameters={"pretraining": 1}), cohort, bags)) != weights(plain)


@pytest.mark.parametrize("shares", [[((1,), 0, 1), ((0,), 0, 1)], [((0,), 0, 1), ((1,), 0, 1)]])
def test_a_fold_does_not_depend_on_the_processes_of_other_folds(small, shares):
    cohort, bags = small
    run = toy_run(cohort)
    alone = train(run, cohort, bags)
    for outcome in train_together(run, cohort, bags, shares):
        assert weights(outcome) == weights(alone)
        assert outcome.epochs == alone.epochs and outcome.pretraining == alone.pretraining
        pd.testing.assert_frame_equal(outcome.predictions, alone.predictions, check_exact=True)


def test_buffers_are_equal_in_processes_that_share_a_fold(small):
    """Each process has its own part of a batch; all end with the same memory. (The digest covers buffers.)"""
    cohort, bags = small
    run = toy_run(cohort, epochs=2)
    outcomes = train_together(run, cohort, bags, [((0,), 0, 2), ((0,), 1, 2), ((1,), 0, 2), ((1,), 1, 2)])
    assert all(weights(outcome) == weights(outcomes[0]) for outcome in outcomes)
    assert all(weights(outcome)[0] != weights(outcome)[1] for outcome in outcomes)


def test_a_model_without_parameters_is_evaluated(small):
    cohort, bags = small
    outcome = train(toy_run(cohort, "fixed", epochs=2), cohort, bags)
    assert outcome.details["parameters"] == 0
    assert outcome.epochs[-1].mean_c_index > 0.6  # the gene carries the planted risk
    assert all(np.isfinite(outcome.epochs[-1].training_loss))


def test_native_settings_replace_defaults():
    config = TrainConfig.native("toy", epochs=7)
    assert (config.optimizer, config.schedule, config.nll_alpha, config.epochs) == ("sgd", "cosine", 0.5, 7)
    assert config.learning_rate == TrainConfig.learning_rate
    for name in MODELS:
        TrainConfig.native(name)


@pytest.mark.parametrize("setting", [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"schedule": "cosine"}])
def test_optimizers_and_schedules_change_the_weights(small, setting):
    cohort, bags = small
    plain = train(toy_run(cohort), cohort, bags)
    assert weights(train(toy_run(cohort, **setting), cohort, bags)) != weights(plain)


def test_cases_that_a_model_cannot_predict_are_refused(small):
    cohort, bags = small
    all_cases, all_bags = make_cohort()
    all_cases = replace(all_cases, gene_sets=cohort.gene_sets)
    with pytest.raises(DataError, match=r"toy needs genomics and histology: 'CASE-002', .* do not have it.*Fix"):
        train(toy_run(all_cases), all_cases, all_bags)
    with pytest.raises(DataError, match=r"toy cannot be applied to cohort SMALL: the cohort has no slides"):
        train(toy_run(cohort), replace(cohort, slides=cohort.slides[:0]), {})
    with pytest.raises(DataError, match=r"toy cannot be applied to cohort SMALL: .*families"):
        train(toy_run(cohort), replace(cohort, gene_sets={}), bags)
    assert not Toy.calls


def test_saved_folds_reproduce_their_predictions(small, tmp_path):
    cohort, bags = small
    run = toy_run(cohort)
    outcome = train_folds(run, cohort, bags, device=CPU, keep_weights=True)
    assert sorted(outcome.files) == ["fold-0-0.safetensors", "fold-0-1.safetensors"]
    medians = outcome.details["median_training_risk"]
    for fold, median, (name, content) in zip(run.folds, medians, sorted(outcome.files.items()), strict=True):
        (tmp_path / name).write_bytes(content)
        fitted = read_fold(tmp_path / name)[0]
        assert fitted.gene_set_names["families"] == ("one", "two")
        found = fitted.predict_cases(fitted.preprocessing.table(cohort), bags, sorted(fold.validation))
        expected = outcome.predictions[outcome.predictions["fold"] == fold.index].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected.drop(columns="time"), check_exact=True)
        own = fitted.predict_cases(fitted.preprocessing.table(cohort), bags, sorted(fold.training))
        assert own["risk"].median() == median, "the cut of risk groups"


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_resumed_from_its_checkpoint_ends_with_the_same_bits(small, tmp_path, stop):
    """Interrupted in pretraining or later, it repeats no epoch, does not prepare again, and reports all epochs."""
    cohort, bags = small
    run = toy_run(cohort, epochs=3)
    undisturbed = train(run, cohort, bags)

    class Interrupted(Exception):
        pass

    def interrupt(epoch):
        seen.append(epoch)
        if len(seen) > stop:
            raise Interrupted

    seen = []
    with pytest.raises(Interrupted):
        train_folds(run, cohort, bags, device=CPU, on_epoch=interrupt, checkpoints=Checkpoints(tmp_path, minutes=0))
    Toy.calls.clear()
    again = []
    outcome = train_folds(
        run, cohort, bags, device=CPU, on_epoch=again.append, checkpoints=Checkpoints(tmp_path, minutes=0)
    )
    assert outcome.details["resumed_after_epochs"] == stop
    assert again == outcome.pretraining + outcome.epochs
    assert sum(kind == "epoch" for kind, _ in Toy.calls) == 2 * (5 - stop)
    assert not any(kind == "prepare" for kind, _ in Toy.calls)
    assert weights(outcome) == weights(undisturbed)
    assert outcome.epochs == undisturbed.epochs and outcome.pretraining == undisturbed.pretraining
    pd.testing.assert_frame_equal(outcome.predictions, undisturbed.predictions, check_exact=True)
