"""Checkpoints within a run: a killed run ends with the same bits; a damaged checkpoint only costs time."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from small_cohort import CPU, make_cohort, make_run, train, train_together

from survq.training.checkpoints import Checkpoints, checkpoints_at
from survq.training.loop import train_folds

EPOCHS = 9
PROGRAM = """
    import json, sys, time
    from pathlib import Path
    from small_cohort import CPU, make_cohort, make_run
    from survq.training.checkpoints import Checkpoints
    from survq.training.loop import train_folds

    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    cohort, bags = make_cohort()

    def on_epoch(epoch):
        print(epoch.epoch, flush=True)
        time.sleep(0.02)

    outcome = train_folds(
        make_run(cohort, epochs=epochs), cohort, bags, device=CPU, on_epoch=on_epoch, checkpoints=Checkpoints(folder, 0)
    )
    result = {"weights": outcome.details["weights_sha256"], "resumed": outcome.details["resumed_after_epochs"]}
    print(json.dumps(result | {"risk": outcome.predictions["risk"].tolist()}))
"""


@pytest.fixture(scope="module")
def small():
    return make_cohort()


@pytest.fixture(scope="module")
def undisturbed(small):
    return train(make_run(small[0], epochs=EPOCHS), *small)


def start(folder: Path) -> subprocess.Popen:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), str(EPOCHS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_bits(undisturbed, tmp_path, kills):
    """At most the interrupted epoch is trained again."""
    chance = random.Random(0)
    reached = 0
    for _ in range(kills):
        process = start(tmp_path)
        stop = min(reached + chance.randint(1, 3), EPOCHS - 1)
        for line in process.stdout:
            if int(line) >= stop:
                break
        time.sleep(chance.uniform(0, 0.05))  # at any time in the next epoch, also while a checkpoint is written
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = max((int(folder.parent.name) for folder in tmp_path.glob("*/checkpoint.json")), default=0)
        assert kept >= stop - 1
        reached = stop
    process = start(tmp_path)
    lines = process.communicate(timeout=120)[0].splitlines()
    assert process.returncode == 0
    assert [int(line) for line in lines[:-1]] == list(range(1, EPOCHS + 1))  # all epochs are reported once
    result = json.loads(lines[-1])
    assert result["resumed"] >= reached - 1
    assert result["weights"] == undisturbed.details["weights_sha256"]
    assert result["risk"] == undisturbed.predictions["risk"].tolist()


class Interrupted(Exception):
    pass


def interrupted(small, folder, after: int, **settings) -> None:
    """Train with a checkpoint after every epoch, and stop after `after` epochs."""

    def on_epoch(epoch):
        if epoch.epoch > after:
            raise Interrupted

    run = make_run(small[0], epochs=EPOCHS, **settings)
    with pytest.raises(Interrupted):
        train_folds(run, *small, device=CPU, on_epoch=on_epoch, checkpoints=Checkpoints(folder, 0))


def resumed(small, folder):
    run = make_run(small[0], epochs=EPOCHS)
    return train_folds(run, *small, device=CPU, checkpoints=Checkpoints(folder, 0))


def flip(file: Path, position: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", ["bit", "truncated", "missing", "manifest"])
def test_a_damaged_checkpoint_is_not_used(small, undisturbed, tmp_path, damage):
    interrupted(small, tmp_path, 4)
    (file,) = tmp_path.glob("*/fold-0-1.safetensors")
    if damage == "bit":
        flip(file, 0.7)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "missing":
        file.unlink()
    else:
        (file.parent / "checkpoint.json").write_text("{")
    outcome = resumed(small, tmp_path)
    assert outcome.details["resumed_after_epochs"] == 0
    assert "checkpoint.json: " in outcome.details["checkpoint_problem"]
    assert outcome.details["weights_sha256"] == undisturbed.details["weights_sha256"]


def test_only_the_newest_checkpoint_is_kept_and_none_is_written_after_the_last_epoch(small, tmp_path):
    interrupted(small, tmp_path, 5)
    assert [folder.name for folder in tmp_path.iterdir()] == ["000005"]
    resumed(small, tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == [
        f"{EPOCHS - 1:06}"
    ]  # the queue removes it with the result


def test_checkpoints_are_written_at_the_requested_interval(small, tmp_path):
    train_folds(make_run(small[0], epochs=3), *small, device=CPU, checkpoints=Checkpoints(tmp_path, minutes=10))
    assert not list(tmp_path.iterdir())


def test_a_machine_without_the_folder_writes_no_checkpoints(tmp_path):
    assert checkpoints_at(tmp_path / "elsewhere", 10) is None
    assert checkpoints_at(tmp_path, 10) is not None


@pytest.mark.parametrize(
    "shares",
    [
        [((2,), 0, 1), ((0,), 0, 1), ((1,), 0, 1)],
        [((2, 0), 0, 1), ((1,), 0, 1)],
    ],
)
def test_processes_of_a_run_share_a_checkpoint(small, undisturbed, tmp_path, shares):
    """Several processes restore the checkpoint of one, and vice versa."""
    interrupted(small, tmp_path, 6)
    run = make_run(small[0], epochs=EPOCHS)
    for outcome in train_together(run, *small, shares, checkpoints=Checkpoints(tmp_path, 0)):
        assert outcome.details["resumed_after_epochs"] == 6
        assert outcome.details["weights_sha256"] == undisturbed.details["weights_sha256"]
    again = resumed(small, tmp_path)
    assert again.details["resumed_after_epochs"] == EPOCHS - 1
    assert again.details["weights_sha256"] == undisturbed.details["weights_sha256"]
