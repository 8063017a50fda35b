"""Checkpoints within a run: an interrupted run resumes after its last saved epoch, with the same result to the bit.

    <folder>/<number>/fold-0-1.safetensors   a fitted fold and its optimizer; random numbers depend on seeds alone
                      checkpoint.json        the epochs so far and checksums; written last

The newest complete checkpoint is used; older ones are removed when it is complete. A damaged checkpoint is not used.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from survq.data.location import replace_file
from survq.data.problems import DataError
from survq.evaluation.epochs import Epoch, PretrainingEpoch
from survq.training.fold import FittedFold
from survq.training.fold_file import fold_content, read_fold
from survq.training.learner import FoldLearner
from survq.training.share import Share
from survq.training.typed_json import parse, read_sealed, sealed_json

MANIFEST = "checkpoint.json"
LARGEST_SHARE = 0.01  # of the training time that may be spent on writing checkpoints


@dataclass
class History:
    """The completed epochs of a run."""

    pretraining: list[PretrainingEpoch] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    problem: str = ""  # why an existing checkpoint was not used

    def __len__(self) -> int:
        return len(self.pretraining) + len(self.epochs)


def checkpoints_at(folder: Path, minutes: float) -> Checkpoints | None:
    """The checkpoints in a folder of the study; None on a machine without access to this folder."""
    return Checkpoints(folder, minutes) if folder.is_dir() else None


class Checkpoints:
    """The checkpoints of one run, in a folder of its own, which all its processes share."""

    def __init__(self, folder: Path, minutes: float):
        """`minutes` is the interval between checkpoints, longer if writing is slow; 0 means after every epoch."""
        self.folder, self.minutes = folder, minutes
        self._last, self._seconds = time.monotonic(), 0.0

    def save(self, learners: Sequence[FoldLearner], history: History, share: Share) -> None:
        """Write a checkpoint if one is due. All processes of the run call it after the same epoch."""
        wait = max(60 * self.minutes, self._seconds / LARGEST_SHARE) if self.minutes else 0.0
        if not any(share.gather(time.monotonic() - self._last >= wait)):
            return
        start = time.monotonic()
        folder = self.folder / f"{len(history):06}"
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for learner in learners if share.part == 0 else ():
            fold = fold_content(learner.fitted, learner.state())
            replace_file(folder / learner.fitted.file, fold)
            written[learner.fitted.file] = hashlib.sha256(fold).hexdigest()
        all_written = share.gather((share.folds, written))  # a barrier: all files are on the disk
        if share.part == 0 and share.folds == min(folds for folds, _ in all_written):
            checksums = {file: sha256 for _, files in all_written for file, sha256 in files.items()}
            pretraining, epochs = list(map(asdict, history.pretraining)), list(map(asdict, history.epochs))
            content = {"pretraining": pretraining, "epochs": epochs, "files": checksums}
            replace_file(folder / MANIFEST, sealed_json(content))
            for other in self.folder.iterdir():
                if other.is_dir() and other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        self._last = time.monotonic()
        self._seconds = self._last - start

    def restore(self, learners: Sequence[FoldLearner], share: Share) -> History:
        """Restore the newest checkpoint, the same one in all processes. The history is empty if none is complete."""
        manifest = max(self.folder.glob(f"*/{MANIFEST}"), default=None)
        try:
            history, folds = _read(manifest, learners) if manifest is not None else (History(), [])
        except (OSError, DataError, ValueError, KeyError, TypeError) as error:
            history, folds = History(problem=f"{manifest}: {error}"), []
        problems = sorted(filter(None, share.gather(history.problem)))
        if problems:
            return History(problem=problems[0])
        if len({len(history), *share.gather(len(history))}) > 1 or not history:
            return History()
        for learner, (fold, tensors) in zip(learners, folds, strict=True):
            learner.restore(fold, tensors)
        return history


def _read(
    manifest: Path, learners: Sequence[FoldLearner]
) -> tuple[History, list[tuple[FittedFold, dict[str, Tensor]]]]:
    """A checkpoint's history, and for each learner its fold and all tensors of its file."""
    content = read_sealed(manifest)
    folds = []
    for learner in learners:
        file = manifest.parent / learner.fitted.file
        if hashlib.sha256(file.read_bytes()).hexdigest() != content["files"][file.name]:
            raise ValueError(f"{file} does not match its checksum")
        folds.append(read_fold(file))
    history = History(
        pretraining=[parse(PretrainingEpoch, epoch) for epoch in content["pretraining"]],
        epochs=[parse(Epoch, epoch) for epoch in content["epochs"]],
    )
    return history, folds
