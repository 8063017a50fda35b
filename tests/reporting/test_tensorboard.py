"""The event files, read with TensorBoard's own reader."""

from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from writers import CONFIG, PATH, predictions

from survq.data.location import parquet
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.evaluation.measure import Measured
from survq.reporting.tensorboard import Board
from survq.training.record import PREDICTIONS, Record
from survq.training.report import Report
from survq.training.results import Results

HPARAMS = ("experiment", "session_start_info")
LOSSES = {"training_loss": (1.0, 2.0), "validation_loss": (1.5, 2.5), "penalties": {"bottleneck": (0.25, 0.75)}}
EPOCHS = (Epoch(1, c_index=(0.0, 0.0), **LOSSES), Epoch(2, c_index=(0.0, 0.5), **LOSSES))
CURVES = ("penalty bottleneck", "pretraining contrast")
PRETRAINING = (PretrainingEpoch(1, {"contrast": (3.0, 5.0)}),)


@pytest.fixture
def board(tmp_path) -> Board:
    return Board(tmp_path / "tensorboard")


@pytest.fixture
def save(tmp_path):
    def save(state: str = "finished") -> Record:
        finished = state == "finished"
        measured = Measured(0.25, 0.25, 0.0, 0.5, ()) if finished else None
        report = Report(state, EPOCHS, PRETRAINING, c_index=measured)
        files = {PREDICTIONS: parquet(predictions())} if finished else {}
        return Results(tmp_path).save(PATH, CONFIG, report, files)

    return save


def shown(board: Board) -> EventAccumulator:
    board.wait()
    events = EventAccumulator(str(board.folder / PATH))
    events.Reload()
    return events


def draw(board: Board, record: Record) -> None:
    board.on_started(PATH, 2)
    for epoch in record.report.pretraining:
        board.on_pretraining_epoch(PATH, epoch)
    for epoch in record.epochs:
        board.on_epoch(PATH, epoch)
    board.on_finished(PATH, record, found=False)


def test_hyperparameters_refer_to_the_curve_of_the_c_index(board, save):
    """TensorBoard reads the value of a metric from the curve of that name."""
    draw(board, save())
    events = shown(board)
    assert [point.value for point in events.Scalars("C-index/mean of folds")] == [0.0, 0.25]
    contents = [events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content for name in HPARAMS]
    experiment, start = (HParamsPluginData.FromString(content) for content in contents)
    assert experiment.experiment.metric_infos[0].name.tag == "C-index/mean of folds"
    assert {name: value.number_value for name, value in start.session_start_info.hparams.items()} == {
        "learning_rate": 5e-4,
        "seed": 0,
        "depth": 1,
        "model": 0,
        "cohort": 0,
    }


@pytest.mark.parametrize("found", [False, True])
def test_penalties_and_pretraining_have_separate_curves(board, save, found):
    if found:
        board.on_finished(PATH, save(), found=True)
    else:
        draw(board, save())
    events = shown(board)
    means = {name: [point.value for point in events.Scalars(f"{name}/mean of folds")] for name in CURVES}
    assert means == {"penalty bottleneck": [0.5, 0.5], "pretraining contrast": [4.0]}
    assert [point.value for point in events.Scalars("pretraining contrast/fold 1")] == [5.0]


def test_a_stored_run_is_drawn_once(board, save):
    record = save()
    board.on_finished(PATH, record, found=True)  # the curves were deleted or never written
    events = shown(board)
    assert [point.step for point in events.Scalars("validation loss/fold 1")] == [1, 2]
    assert len(events.Tags()["images"]) == 1
    files = sorted(file.name for file in (board.folder / PATH).iterdir())
    board.on_finished(PATH, record, found=True)
    board.wait()
    assert sorted(file.name for file in (board.folder / PATH).iterdir()) == files


def test_incomplete_curves_are_drawn_again(board, save):
    record = save()
    board.on_started(PATH, 2)
    board.on_epoch(PATH, EPOCHS[0])
    board.on_failed(PATH, "killed")  # closes its file, as the end of a process does
    board.on_finished(PATH, record, found=True)
    events = shown(board)
    assert [point.step for point in events.Scalars("C-index/fold 0")] == [1, 2]
    assert len(events.Tags()["images"]) == 1


def test_an_error_while_a_figure_is_drawn_ends_the_study(board, save):
    record = save()
    with pytest.raises(ValueError, match="lack the columns"), board.open():
        board.on_finished(PATH, replace(record, table=parquet(record.predictions.drop(columns="risk"))), found=True)


def test_a_run_that_diverged_is_drawn_without_a_figure(board, save):
    draw(board, save(state="diverged"))
    events = shown(board)
    assert events.Scalars("training loss/fold 0") and not events.Tags()["images"]
