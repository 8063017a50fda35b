import math

import pytest
from writers import report

from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import FoldConcordance, Measured
from survq.reporting import run_progress
from survq.reporting.run_progress import Progress
from survq.text import clock as as_clock
from survq.training.record import Record
from survq.training.report import Report


class Schedule:
    """The attributes of a schedule that Progress reads."""

    total, remaining_epochs = 3, 60


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(run_progress.time, "monotonic", clock)
    return clock


@pytest.fixture
def progress(clock):
    progress = Progress(Schedule(), {"a": "the short run", "b": "the long run"}.get)
    clock.now += 20
    return progress


def epoch(number: int) -> Epoch:
    return Epoch(number, (1.0,), (1.0,), (0.625,))


def test_runs_in_progress_are_shown_with_the_remaining_time(progress, clock, capsys):
    """The remaining epochs of all runs, at the pace of the epochs so far."""
    progress.on_started("a", 10)
    progress.on_started("b", 40)
    for path, number in [("a", 1), ("b", 1), ("b", 2), ("b", 3)]:
        clock.now += 20
        progress.on_epoch(path, epoch(number))
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"  ... 0 of 3 done, 1:40 elapsed, about {as_clock(20 * (60 + 9 + 37))} left  |  "
        "the short run: epoch 1 of 10, C 0.625; the long run: epoch 3 of 40, C 0.625"
    )


def test_replayed_epochs_do_not_count_for_the_pace(progress, clock, capsys):
    progress.on_started("b", 40)
    clock.now += 20
    for number in range(1, 31):  # it resumes after epoch 30
        progress.on_epoch("b", epoch(number))
    for number in (31, 32):
        clock.now += 60
        progress.on_epoch("b", epoch(number))
    assert f"about {as_clock(60 * (60 + 8))} left" in capsys.readouterr().out.splitlines()[-1]


def test_pretraining_is_shown_and_not_counted_as_epochs(progress, capsys):
    progress.on_started("a", 10)
    progress.on_pretraining_epoch("a", PretrainingEpoch(7, {"contrast": (1.0,)}))
    line = capsys.readouterr().out.splitlines()[-1]
    assert "the short run: pretraining, epoch 7" in line and "left" not in line
    assert progress._epochs_done == 0


def record(report: Report) -> Record:
    return Record(None, {}, report, None)


def test_every_ended_run_has_a_line(progress, capsys):
    fold = FoldConcordance(0, 0, 9, 3, 5, 0.7, None)
    measured = Measured(0.7, 0.05, 0.6, 0.8, (fold, fold))
    finished = Report("finished", (epoch(1),), c_index=measured, seconds=65.0)
    progress.on_finished("a", record(finished), found=False)
    progress.on_finished(
        "a", record(Report("finished", (), c_index=Measured(math.nan, 0.0, 0.0, 0.0, (fold,)))), found=True
    )
    progress.on_finished("b", record(report(state="stopped")), found=False)
    progress.on_failed("b", "Traceback\n  File\nValueError: no memory\n")
    first, second, third, *failed = capsys.readouterr().out.splitlines()
    assert " ".join(first.split()) == "1 of 3 done C 0.700 ± 0.050 1:05 the short run"
    assert " ".join(second.split()) == "2 of 3 done C undefined stored the short run"
    assert " ".join(third.split()) == "3 of 3 done stopped at epoch 1 0:02 the long run"
    assert failed == ["  FAILED the long run", "    ValueError: no memory"]
