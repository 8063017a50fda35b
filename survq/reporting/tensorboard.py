"""Event files for TensorBoard: curves per fold and epoch, hyperparameters, a Kaplan-Meier figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from survq.evaluation.epochs import Epoch, PretrainingEpoch, mean_defined
from survq.reporting.figures import kaplan_meier_figure
from survq.training.record import Record

DRAWN = "drawn"  # name of an empty file that marks complete curves of a run


class Board:
    """Writes event files, one folder per run, to results/<study>/views/tensorboard/. They are never read again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def on_started(self, path: str, epochs: int) -> None:
        """Delete the curves of an earlier attempt of the same run."""
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
        writer = self._writers.pop(path)
        if record.predictions is not None:
            figure = kaplan_meier_figure(record.predictions, title=record.cohort)
            writer.add_figure("Kaplan-Meier, median risk of each fold", figure, len(record.epochs))
        settings = {**record.settings, "cohort": record.cohort}
        settings = {k: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for k, v in settings.items()}
        for summary in hparams(settings, {"C-index/mean of folds": record.c_index}):
            writer._get_file_writer().add_summary(summary)
        writer.close()
        drawn.touch()

    def on_failed(self, path: str, reason: str) -> None:
        if writer := self._writers.pop(path, None):
            writer.close()

    def notify(self, text: str) -> None: ...
