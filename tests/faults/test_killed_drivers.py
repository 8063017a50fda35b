"""Drivers of real studies, killed at random moments: also while they start, write a record, a table or a report.

The runs are trained in the driver's own process instead of under Ray, see driver.py; so ten kills take minutes.
tests/distributed/test_faults.py kills drivers with Ray.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest
from history import History, check_same

DRIVER = Path(__file__).with_name("driver.py")
KILLS = 10


def history_of(study: str, tiny_folder: Path, results: Path) -> History:
    flags = ["--data", str(tiny_folder), "--results", str(results), "--epochs", "2", "--checkpoint-minutes", "0"]
    search = ["--folds", "2", "--trials", "2", "--inner-folds", "2", "--model", "abmil"]  # eight runs of seconds
    more = search if study == "search" else ["--folds", "3"]
    return History([sys.executable, str(DRIVER), study, *flags, *more], results)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("study", ["query_counts", "search"])
def test_ten_kills_at_random_moments_change_no_table(study, tiny_folder, tmp_path):
    """Studies are killed and started again until they end; each ends with the tables of an undisturbed one."""
    (tmp_path / "undisturbed").mkdir()
    undisturbed, start = history_of(study, tiny_folder, tmp_path / "undisturbed"), time.monotonic()
    assert undisturbed.run() == 0
    takes, chance, kills, studies = time.monotonic() - start, random.Random(study), 0, 0
    while kills < KILLS:
        (folder := tmp_path / str(studies)).mkdir()
        history = history_of(study, tiny_folder, folder)
        while history.run(chance.uniform(0, takes), *[signal.SIGKILL] * (kills + history.kills < KILLS)) != 0:
            print(f"{study} {studies}: {kills + history.kills} kills, {len(history.seen)} runs", flush=True)
        kills, studies = kills + history.kills, studies + 1
        check_same(history.tables(), undisturbed.tables())
        assert not list(folder.rglob("*.unfinished")) and not list(folder.glob("*/checkpoints"))
    print(f"{study}: {kills} kills, {studies} studies, all with the same tables; undisturbed {takes:.0f} s")
