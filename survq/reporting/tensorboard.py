"""What TensorBoard shows of a study: loss and C-index a fold and epoch, hyperparameters, a Kaplan-Meier figure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from survq.evaluation.epochs import Epoch
from survq.reporting.figures import kaplan_meier_figure
from survq.training.results import Record

DRAWN = "drawn"  # an empty file beside the curves of a run that are whole


class Board:
    """Writes event files, a folder a run: results/<study>/tensorboard/<cohort>/<run>/. They are a view, never read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def started(self, path: str, epochs: int) -> None:
        """An earlier try of the same run leaves no curve behind."""
        if writer := self._writers.pop(path, None):
            writer.close()
        shutil.rmtree(self.folder / path, ignore_errors=True)
        self._writers[path] = SummaryWriter(str(self.folder / path), flush_secs=10)

    def epoch(self, path: str, epoch: Epoch) -> None:
        writer = self._writers[path]
        curves = {
            "C-index": (epoch.c_index, epoch.mean_c_index),
            "validation loss": (epoch.validation_loss, epoch.mean_validation_loss),
            "training loss": (epoch.training_loss, sum(epoch.training_loss) / len(epoch.training_loss)),
        }
        for name, (values, mean) in curves.items():
            writer.add_scalar(f"{name}/mean of folds", mean, epoch.epoch)
            for fold, value in enumerate(values):
                writer.add_scalar(f"{name}/fold {fold}", value, epoch.epoch)

    def ended(self, path: str, record: Record, *, found: bool) -> None:
        """One that is found is drawn where the study was killed before it was, or its curves were deleted."""
        drawn = self.folder / path / DRAWN
        if found:
            if drawn.exists():
                return
            self.started(path, len(record.epochs))
            for epoch in record.epochs:
                self.epoch(path, epoch)
        writer = self._writers.pop(path)
        if record.predictions is not None:
            figure = kaplan_meier_figure(record.predictions, title=record.cohort)
            writer.add_figure("Kaplan-Meier, median risk of each fold", figure, len(record.epochs))
        settings = record.settings | {"cohort": record.cohort}
        settings = {k: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for k, v in settings.items()}
        for summary in hparams(settings, {"C-index/mean of folds": record.c_index}):
            writer._get_file_writer().add_summary(summary)
        writer.close()
        drawn.touch()

    def failed(self, path: str, reason: str) -> None:
        if writer := self._writers.pop(path, None):
            writer.close()

    def say(self, text: str) -> None: ...
