import itertools
import math

import pytest
from writers import report

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import FoldConcordance, Measured
from survq.reporting import run_progress
from survq.reporting.run_progress import Progress
from survq.training.record import Record
from survq.training.report import Report


class Schedule:
    """What progress asks of one."""

    total, epochs_ahead = 3, 60


@pytest.fixture
def progress(monkeypatch):
    """Its clock ticks 20 s whenever it is looked at."""
    ticks = itertools.count(0, 20)
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: next(ticks))
    return Progress(Schedule(), {"a": "the short run", "b": "the long run"}.get)


def epoch(number: int) -> Epoch:
    return Epoch(number, (1.0,), (1.0,), (0.625,))


def test_what_runs_is_shown_with_the_time_that_is_left(progress, capsys):
    """In the pace of the epochs so far, over those of all runs, however many each has."""
    progress.started("a", 10)
    progress.started("b", 40)
    progress.epoch("a", epoch(1))
    progress.epoch("b", epoch(1))
    for number in (2, 3):
        progress.epoch("b", epoch(number))
    line = capsys.readouterr().out.splitlines()[-1]
    assert "the short run: epoch 1 of 10, C 0.625; the long run: epoch 3 of 40, C 0.625" in line
    assert "0 of 3 done" in line and ", about " in line
    progress._epochs_done, progress._first_epoch = 5, 0.0
    minutes = progress._left().split()[2]
    seconds_per_epoch = (next_tick(progress) - 20) / 4
    assert minutes == run_progress.clock(seconds_per_epoch * (60 + 9 + 37))


def next_tick(progress) -> float:
    return run_progress.time.monotonic()


def test_pretraining_is_shown_as_such_and_is_no_epoch(progress, capsys):
    progress.started("a", 10)
    progress.pretraining("a", PretrainingEpoch(7, {"contrast": (1.0,)}))
    line = capsys.readouterr().out.splitlines()[-1]
    assert "the short run: pretraining, epoch 7" in line and "left" not in line
    assert progress._epochs_done == 0


def record(report: Report) -> Record:
    return Record(None, {}, report, None)


def test_a_line_per_run_that_ended(progress, capsys):
    fold = FoldConcordance(0, 0, 9, 3, 5, 0.7, None)
    measured = Measured(0.7, 0.05, 0.6, 0.8, (fold, fold))
    finished = Report("finished", (epoch(1),), c_index=measured, seconds=65.0)
    progress.ended("a", record(finished), found=False)
    progress.ended("a", record(Report("finished", (), c_index=Measured(math.nan, 0.0, 0.0, 0.0, (fold,)))), found=True)
    progress.ended("b", record(report(state="stopped")), found=False)
    progress.failed("b", "Traceback\n  File\nValueError: no memory\n")
    first, second, third, *failed = capsys.readouterr().out.splitlines()
    assert " ".join(first.split()) == "1 of 3 done C 0.700 ± 0.050 1:05 the short run"
    assert " ".join(second.split()) == "2 of 3 done C undefined found the short run"
    assert " ".join(third.split()) == "3 of 3 done stopped at epoch 1 0:02 the long run"
    assert failed == ["  FAILED the long run", "    ValueError: no memory"]
