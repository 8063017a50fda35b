"""Event files for TensorBoard: curves per fold and epoch, hyperparameters, a Kaplan-Meier figure.

The figures are drawn in a thread of their own: one takes 0.1 s, in which Tune would wait.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from survq.evaluation.epochs import Epoch, PretrainingEpoch, mean_defined
from survq.reporting.figures import kaplan_meier_figure
from survq.training.record import Record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter  # is slow to import, and a finished study does not need it

DRAWN = "drawn"  # name of an empty file that marks complete curves of a run


class Board:
    """Writes event files, one folder per run, to results/<study>/views/tensorboard/. They are never read again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}
        self._drawing = ThreadPoolExecutor(max_workers=1)
        self._drawn: list[Future] = []

    @contextmanager
    def open(self) -> Iterator[Board]:
        """Waits for the figures at the end. After an exception, the next start of the study draws missing ones."""
        try:
            yield self
        except BaseException:
            self._drawing.shutdown(cancel_futures=True)
            raise
        self.wait()
        self._drawing.shutdown()

    def wait(self) -> None:
        """Until the figures of all finished runs are drawn. Raises what their drawing raised."""
        for figure in self._drawn:
            figure.result()
        self._drawn.clear()

    def on_started(self, path: str, epochs: int) -> None:
        """Delete the curves of an earlier attempt of the same run."""
        from torch.utils.tensorboard import SummaryWriter

        if writer := self._writers.pop(path, None):
            writer.close()
        shutil.rmtree(self.folder / path, ignore_errors=True)
        self._writers[path] = SummaryWriter(str(self.folder / path), flush_secs=10)

    def on_pretraining_epoch(self, path: str, epoch: PretrainingEpoch) -> None:
        self._draw(path, epoch.epoch, {f"pretraining {name}": values for name, values in epoch.losses.items()})

    def on_epoch(self, path: str, epoch: Epoch) -> None:
        curves = {
            "C-index": epoch.c_index,
            "validation loss": epoch.validation_loss,
            "training loss": epoch.training_loss,
        }
        penalties = {f"penalty {name}": values for name, values in epoch.penalties.items()}
        self._draw(path, epoch.epoch, curves | penalties)

    def _draw(self, path: str, step: int, curves: Mapping[str, Sequence[float]]) -> None:
        writer = self._writers[path]
        for name, values in curves.items():
            writer.add_scalar(f"{name}/mean of folds", mean_defined(values), step)
            for fold, value in enumerate(values):
                writer.add_scalar(f"{name}/fold {fold}", value, step)

    def on_finished(self, path: str, record: Record, *, found: bool) -> None:
        """A stored run (`found`) is drawn only if its curves are missing or incomplete."""
        drawn = self.folder / path / DRAWN
        if found:
            if drawn.exists():
                return
            self.on_started(path, len(record.epochs))
            for before in record.report.pretraining:
                self.on_pretraining_epoch(path, before)
            for epoch in record.epochs:
                self.on_epoch(path, epoch)
        self._drawn.append(self._drawing.submit(_complete, self._writers.pop(path), record, drawn))

    def on_failed(self, path: str, reason: str) -> None:
        if writer := self._writers.pop(path, None):
            writer.close()

    def notify(self, text: str) -> None: ...


def _complete(writer: SummaryWriter, record: Record, drawn: Path) -> None:
    from torch.utils.tensorboard.summary import hparams

    if record.predictions is not None:
        figure = kaplan_meier_figure(record.predictions, title=record.cohort)
        writer.add_figure("Kaplan-Meier, median risk of each fold", figure, len(record.epochs))
    settings = {**record.settings, "cohort": record.cohort}
    settings = {k: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for k, v in settings.items()}
    for summary in hparams(settings, {"C-index/mean of folds": record.c_index}):
        writer._get_file_writer().add_summary(summary)
    writer.close()
    drawn.touch()
