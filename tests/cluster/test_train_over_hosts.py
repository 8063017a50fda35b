"""Runs over two hosts equal runs in one process: folds and parts of folds over workers, lost workers, and cohorts that
exceed the memory of the hosts. What passes the bridge between them is counted by its interfaces.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster_studies import Started
from hosts import Hosts
from small_cohort import train_together
from train_over_hosts import runs

from survq.data.cohort import Cohort
from survq.training.loop import train_folds
from survq.training.record import read_record

SCRIPT = "python /shared/train_over_hosts.py"
RAY = "RAY_AUTH_MODE=disabled ray"  # no other machine is on this network


@dataclass
class Pair:
    """Two hosts with Ray, and bags of the cohort SIM in `folder`, as host 1 calls it."""

    hosts: Hosts
    folder: str
    cohort: Cohort

    def restart(self, cpus: int, store: int) -> None:
        for host in (2, 1):
            self.hosts.run(host, "ray stop -f")
        first = self.hosts.address(1)
        for host in (1, 2):
            where = "--head --port=6379 --include-dashboard=false" if host == 1 else f"--address={first}:6379"
            options = f"--node-ip-address={self.hosts.address(host)} --num-cpus={cpus} --object-store-memory={store}"
            start = f"{RAY} start {where} {options}"
            done = self.hosts.run(host, f"{start} || {{ ray stop -f; {start}; }}")
            assert done.returncode == 0, done.stdout

    def start(self, name: str, **chosen) -> Started:
        """Training, into /shared/NAME."""
        address = f"RAY_AUTH_MODE=disabled RAY_ADDRESS={self.hosts.address(1)}:6379"
        given = f"{self.folder} /shared/{name} '{json.dumps(chosen)}'"
        return Started(self.hosts.start(1, f"{address} exec {SCRIPT} train {given}"))

    def records(self, name: str, chosen: dict):
        """The records of the runs, in the order of their seeds."""
        chosen = {key: value for key, value in chosen.items() if key != "workers"}
        folder = self.hosts.state / "shared" / name / "runs"
        return [read_record(folder / run.path) for run in runs(self.cohort, **chosen)]

    def crossed(self) -> int:
        """Bytes that either host has sent to the other, or to the launcher, which asks nothing meanwhile."""
        return self.hosts.sent(1) + self.hosts.sent(2)


def simulated(hosts: Hosts, folder: str, outside: Path, cases: int, patches: int, width: int) -> Pair:
    for host in (1, 2):
        done = hosts.run(host, "pip install -q --no-deps -e ~/checkout")
        assert done.returncode == 0, done.stdout
    name = "train_over_hosts.py"
    (hosts.state / "shared" / name).write_text(Path(__file__).with_name(name).read_text())
    done = hosts.run(1, f"{SCRIPT} simulate {folder} {cases} {patches} {width}", timeout=300)
    assert done.returncode == 0, done.stdout
    return Pair(hosts, folder, Cohort.load(outside, "SIM"))


@pytest.fixture(scope="module")
def pair(hosts) -> Pair:
    """Two hosts of two CPUs, and a small cohort that both see."""
    pair = simulated(hosts, "/shared/small", hosts.state / "shared" / "small", cases=60, patches=64, width=32)
    pair.restart(cpus=2, store=300_000_000)
    return pair


def in_one_process(pair: Pair, chosen: dict):
    torch.set_num_threads(1)
    (run,) = runs(pair.cohort, **{key: value for key, value in chosen.items() if key != "workers"})
    return run, train_folds(run, pair.cohort, pair.cohort.bags())


def test_folds_over_two_hosts_end_with_the_same_bits(pair):
    chosen = {"folds": 4, "workers": 4, "epochs": 2, "width": 32}
    pair.start("folds", **chosen).ended()
    (record,), (_, here) = pair.records("folds", chosen), in_one_process(pair, chosen)
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert np.array_equal(record.predictions["risk"], here.predictions["risk"])


def test_the_parts_of_a_fold_share_a_host_and_end_with_the_same_c_index(pair):
    """With the bits of the same division in one process. Without division they are the same to rounding, as the
    gradient of a batch is the sum of those of its parts; where a CPU rounds these to bf16, risks differ by 1e-3.

    Gradients stay on a host, or twice the weights of a fold would cross the bridge at every step."""
    chosen = {"folds": 2, "workers": 4, "epochs": 4, "width": 192, "dropout": False}  # no product in bf16
    study = pair.start("parts", **chosen)
    study.until("epoch 1 of")
    start = pair.crossed()
    study.until("epoch 3 of")
    crossed = pair.crossed() - start
    study.ended()
    (record,), (run, here) = pair.records("parts", chosen), in_one_process(pair, chosen)
    steps = 2 * -(-60 // run.config.batch_size)
    gradients = 4 * steps * here.details["parameters"]
    print(f"over the bridge in 2 epochs: {crossed / 1e6:.1f} MB; gradients of a fold: {gradients / 1e6:.1f} MB")
    assert crossed < 0.5 * gradients
    divided = train_together(
        run, pair.cohort, pair.cohort.bags(), [((fold,), part, 2) for fold in (0, 1) for part in (0, 1)]
    )
    assert list(record.report.weights_sha256) == divided[0].details["weights_sha256"]
    assert np.array_equal(record.predictions["risk"], divided[0].predictions["risk"])
    difference = np.abs(record.predictions["risk"] - here.predictions["risk"]).max()
    print(f"largest difference of a risk: {difference:.1e}")
    assert difference < 1e-6
    assert np.allclose([fold.c_index for fold in record.report.c_index.folds], here.epochs[-1].c_index, atol=1e-9)


def test_a_lost_worker_in_the_middle_of_a_run_costs_time_only(pair):
    chosen = {"folds": 4, "workers": 4, "epochs": 6, "width": 32}
    study = pair.start("lost", **chosen)
    study.until("epoch 2 of")
    killed = pair.hosts.run(2, "pgrep -f '^ray::.*TrainWorker' | head -n 1 | xargs -r kill -KILL -- && echo killed")
    assert "killed" in killed.stdout
    output = study.ended()
    assert "it is started again" in output and "Traceback" not in output
    (record,), (_, here) = pair.records("lost", chosen), in_one_process(pair, chosen)
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3, 4, 5, 6]
    assert list(record.report.weights_sha256) == here.details["weights_sha256"]
    assert np.array_equal(record.predictions["risk"], here.predictions["risk"])


STORE = 80_000_000  # bytes: Ray takes no smaller ones
PATCHES = 3200  # of a slide, in 105 slides of 1024 half floats: 688 MB


@pytest.fixture(scope="module")
def large(hosts) -> Pair:
    """Two hosts of one CPU; on the disk of the first a cohort of four times their stores together."""
    home = hosts.state / "1" / "home" / "large"
    return simulated(hosts, "/root/large", home, cases=80, patches=PATCHES, width=1024)


@pytest.fixture(scope="module")
def resident(large):
    """The runs in stores that hold the cohort."""
    large.restart(cpus=1, store=900_000_000)
    output = large.start("resident", **LARGE).ended()
    assert "exceed" not in output
    return large.records("resident", LARGE)


LARGE = {"folds": 2, "workers": 0, "epochs": 3, "seeds": 2, "width": 128}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cohort_that_exceeds_the_stores_gives_the_same_bits_and_crosses_once(large, resident, workers):
    """Runs on both hosts, or folds of a run over both: each host reads from its own copy, in every epoch."""
    large.restart(cpus=1, store=STORE)
    size = int(2 * (large.cohort.slides["patches"] * large.cohort.slides["width"]).sum())
    assert size >= 4 * 2 * STORE
    chosen, start = LARGE | {"workers": workers}, large.crossed()
    study = large.start(f"streamed-{workers}", **chosen)
    study.until("features in shared memory")
    copied = large.crossed() - start
    output = study.ended()
    read = large.crossed() - start - copied
    assert "exceed the object store of a node" in output
    records = large.records(f"streamed-{workers}", chosen)
    seconds = [[record.report.seconds for record in some] for some in (resident, records)]
    print(
        f"{workers} workers: of {size / 1e6:.0f} MB {copied / 1e6:.0f} MB crossed to make the copies, {read / 1e6:.0f} "
        f"MB in all epochs of two runs; seconds of the runs, resident and streamed: {seconds}"
    )
    for ours, theirs in zip(records, resident, strict=True):
        assert list(ours.report.weights_sha256) == list(theirs.report.weights_sha256)
        assert np.array_equal(ours.predictions["risk"], theirs.predictions["risk"])
    assert read <= 0.01 * size
    assert copied <= 1.1 * size
