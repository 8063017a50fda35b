"""Bags that are read ahead of use: in the order of training, a bounded number, and with the same result."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from small_cohort import CPU, make_cohort, make_run, train

from survq.data.read_ahead import ReadAhead
from survq.models import MODELS
from survq.training.checkpoints import Checkpoints
from survq.training.comparison import common_folds
from survq.training.loop import train_folds
from survq.training.reading_order import reading_ahead
from survq.training.share import Share


class Disk(Mapping):
    """Bags that note which of them are read early, by a thread, and which only when training asks for them."""

    ahead = 3  # bags

    def __init__(self, bags):
        self.bags, self.early, self.late = bags, [], []

    def __getitem__(self, case):
        early = threading.current_thread().name.startswith("read-ahead")
        bag = self.bags[case]  # KeyError for a case without slides
        (self.early if early else self.late).append(case)
        return bag

    def __contains__(self, case):
        return case in self.bags

    def __iter__(self):
        return iter(self.bags)

    def __len__(self):
        return len(self.bags)


def train_ahead(run, cohort, disk, share=None, **options):
    with reading_ahead(run, cohort, disk, device=CPU, share=share, on_epoch=lambda epoch: None) as (bags, on_epoch):
        return train_folds(run, cohort, bags, device=CPU, share=share, on_epoch=on_epoch, **options)


@pytest.fixture(scope="module")
def small():
    return make_cohort()


@pytest.mark.parametrize(
    ("settings", "hyperparameters"),
    [
        ({}, {}),
        ({"repeats": 2, "sampling": "balanced", "patches_per_case": 3}, {}),
        ({}, {"nested_queries": True, "block": "residual", "width": 16}),
    ],
)
def test_all_bags_are_read_ahead_in_the_order_of_training(small, settings, hyperparameters):
    cohort, bags = small
    run, disk = make_run(cohort, hyperparameters=hyperparameters, **settings), Disk(bags)
    found, expected = train_ahead(run, cohort, disk), train(run, cohort, bags)
    assert found.details["weights_sha256"] == expected.details["weights_sha256"]
    assert found.predictions.equals(expected.predictions)
    assert disk.late == [next(iter(bags))], "only its dtype is looked at before training"
    # once in training and once where it is held out, in each epoch and repeat; the last evaluation is of all folds
    assert len(disk.early) > run.config.epochs * 2 * len(bags)


class Pretrained(MODELS["abmil"]):
    pretraining_epochs = 2

    def pretraining_loss(self, batch):
        return {"size": sum(parameter.square().mean() for parameter in self.parameters())}


def test_pretraining_is_read_ahead(small, monkeypatch):
    monkeypatch.setitem(MODELS, "pretrained", Pretrained)
    cohort, bags = small
    run, disk = make_run(cohort, epochs=1), Disk(bags)
    config = replace(run.config, model="pretrained", hyperparameters={"width": 8})
    run = replace(run, config=config, folds=common_folds(cohort, run.folds, ["pretrained"]).folds)
    outcome = train_ahead(run, cohort, disk)
    assert len(outcome.pretraining) == 2
    assert disk.late == [next(iter(bags))]


def test_reading_goes_on_after_the_epochs_of_a_checkpoint(small, tmp_path):
    cohort, bags = small
    run = make_run(cohort, epochs=3)

    class Killed(Exception): ...

    def kill(epoch):
        if epoch.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train_folds(run, cohort, bags, device=CPU, checkpoints=Checkpoints(tmp_path, 0), on_epoch=kill)
    disk = Disk(bags)
    outcome = train_ahead(run, cohort, disk, checkpoints=Checkpoints(tmp_path, 0))
    assert outcome.details["resumed_after_epochs"] == 1
    assert outcome.details["weights_sha256"] == train(run, cohort, bags).details["weights_sha256"]
    assert disk.late == [next(iter(bags))]


def test_a_process_reads_ahead_its_part_of_the_batches(small):
    cohort, bags = small
    disk, share = Disk(bags), Share(folds=(0, 1, 2), part=1, parts=2)
    train_ahead(make_run(cohort), cohort, disk, share=share)
    assert disk.late == [next(iter(bags))]


def test_never_more_than_so_many_bags_wait():
    names = [f"CASE-{number}" for number in range(40)]
    alive = set()

    class Counted(dict):
        def __getitem__(self, case):
            alive.add(case)
            return torch.zeros(1)

    ahead = ReadAhead(Counted.fromkeys(names), most=4)
    ahead.follow(names)
    for used, case in enumerate(names, 1):
        assert case in ahead
        ahead[case]
        time.sleep(0.001)
        assert len(alive) <= used + 4
    ahead.close()
    assert len(alive) == len(names)


def test_a_problem_of_reading_is_raised_where_the_bag_is_used():
    ahead = ReadAhead({"first": torch.zeros(1)}, most=4)
    ahead.follow(["first", "gone"])
    ahead["first"]
    with pytest.raises(KeyError, match="gone"):
        ahead["gone"]
    ahead.close()
