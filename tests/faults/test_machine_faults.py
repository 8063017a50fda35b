"""Faults of disks, clocks and locks, without Ray; test_fault_table.py says which fault is tested where."""

import io
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from desk import copied, run

from survq.cli import main
from survq.training.queue import Grid, RunQueue
from survq.training.results import Results

FORK = multiprocessing.get_context("fork")


def survpath(source: Path, data: Path) -> list[str]:
    return ["import", "survpath", str(source), str(data)]


def with_small_files(size: int, arguments: list[str], says) -> None:
    """Run a command on a disk on which no file may be larger than this."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    sys.stdout = sys.stderr = printed = io.StringIO()
    says.send((main(arguments), printed.getvalue()))


@contextmanager
def disk(folder: Path, kilobytes: int):
    """A disk of this size at `folder`; yields a function that mounts it again with other options."""
    folder.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(size, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_what_cannot_be_written_is_named_and_leaves_nothing(small_survpath, tmp_path, tree, size, capsys):
    """F7, with a limit that every user can set."""
    before, (receiver, sender) = tree(small_survpath), FORK.Pipe(duplex=False)
    process = FORK.Process(target=with_small_files, args=(size, survpath(small_survpath, tmp_path / "data"), sender))
    process.start()
    code, printed = receiver.recv()
    process.join(60)
    assert code == 74 and f"'{tmp_path}/data" in printed and "Fix: free space there" in printed
    assert not list((tmp_path / "data").rglob("*.parquet")) and not list(tmp_path.rglob("*.unfinished"))
    assert main(survpath(small_survpath, tmp_path / "data")) == 0
    assert main(survpath(small_survpath, tmp_path / "other")) == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "other") and tree(small_survpath) == before


def test_a_full_disk_is_named_with_its_free_bytes_and_the_same_command_resumes(small_survpath, tmp_path, tree, capsys):
    """F7, with a disk."""
    with disk(tmp_path / "disk", 16) as remount:
        assert main(survpath(small_survpath, tmp_path / "disk/data")) == 74
        printed = capsys.readouterr().err
        assert f"No space left on device: '{tmp_path}/disk/data" in printed
        assert "bytes are free in" in printed and "Fix: free space there, and run the same command again." in printed
        assert not list((tmp_path / "disk").rglob("*.parquet"))
        remount("size=9000k")
        assert main(survpath(small_survpath, tmp_path / "disk/data")) == 0
        assert main(survpath(small_survpath, tmp_path / "other")) == 0
        assert tree(tmp_path / "disk/data") == tree(tmp_path / "other")


def test_a_read_only_results_folder_is_refused_before_ray_starts(template, tmp_path, capsys):
    """F26."""
    desk = copied(template, tmp_path / "desk")
    with disk(tmp_path / "disk", 100) as remount:
        remount("ro")
        code, printed = run([*desk.study(), "--results", str(tmp_path / "disk/results")], capsys)
        assert code == 74 and "Read-only file system: '" in printed and "ray on" not in printed
        assert main(["import", "survpath", str(tmp_path), str(tmp_path / "disk/data")]) != 0
        assert list((tmp_path / "disk").iterdir()) == []


def test_a_lock_that_a_dead_process_of_another_machine_left_holds_nobody_up(tmp_path):
    """F21: the system releases locks with their process, also on a network disk; what the file says is for people."""
    results = Results(tmp_path / "study")
    results.folder.mkdir()
    (results.folder / ".lock").write_text("process 1 on a-machine-that-is-gone")
    with results.lock():
        assert f"process {os.getpid()}" in (results.folder / ".lock").read_text()
    assert not (results.folder / ".lock").exists()


def test_a_clock_that_jumps_back_changes_no_result(tmp_path, run_here, monkeypatch):
    """F22: a day earlier at each look."""
    from small_cohort import make_cohort, make_run

    cohort, bags = make_cohort()
    run = make_run(cohort, epochs=2)

    def trained(folder: Path):
        queue = RunQueue(Grid([run]), Results(folder), {cohort.name: cohort})
        run_here(queue, {cohort.name: bags})
        (record,) = queue.records.values()
        return record

    steady, now = trained(tmp_path / "steady"), time.time()
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 86_400 * next(looks))
    jumping = trained(tmp_path / "jumping")
    assert jumping.report.weights_sha256 == steady.report.weights_sha256
    assert np.array_equal(jumping.predictions["risk"], steady.predictions["risk"])
    assert 0 <= jumping.report.seconds < 600
    again = RunQueue(Grid([run]), Results(tmp_path / "jumping"), {cohort.name: cohort})
    assert not again.has_work()


def test_too_little_memory_of_a_gpu_is_said_with_the_size_of_the_batch(monkeypatch, tmp_path):
    """F10. No GPU here: the model raises what Torch raises. The run fails, and is not trained again and again."""
    from small_cohort import make_cohort, make_run

    from survq.models.survq import SurvQ
    from survq.training.ray_runs import TrialResources, _train

    def full(self, batch, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    reports: list[dict] = []
    monkeypatch.setattr(SurvQ, "forward", full)
    monkeypatch.setattr("survq.training.ray_runs.tune.report", reports.append)
    cohort, bags = make_cohort()
    run = make_run(cohort, epochs=1)
    _train(run, cohort, {run.cohort: bags}, TrialResources(1, {"CPU": 1}, 1), checkpoints=None)
    outcome = reports[-1]["message"]
    assert outcome.state == "failed"
    said = outcome.details["reason"]
    assert re.search(r"the memory of the GPU ran out on 8 cases with \d+ patches, \d of them of one case. Fix: ", said)
    assert "Tried to allocate 20.00 GiB." in said and not [case for case in cohort.cases.index if case in said]
