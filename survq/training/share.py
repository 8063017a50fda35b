"""Share: the part of a run that one process trains, and its communication with the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Share:
    """Some folds of a run, and one of several parts of their batches."""

    folds: tuple[int, ...]  # positions in run.folds
    part: int = 0
    parts: int = 1
    sum_gradients: Callable[[nn.Module], None] = lambda model: None  # over the processes that share these folds
    copy_buffers: Callable[[nn.Module], None] = lambda model: None  # from the first of these processes to the others
    gather: Callable[[Any], list[Any]] = lambda mine: [mine]  # from all processes of the run, to all of them

    def by_fold(self, mine: list[Any]) -> list[Any]:
        """The values of all folds of the run in order, from one value per fold of each process.

        Raises RuntimeError if processes that share a fold differ in its value.
        """
        known: dict[int, Any] = {}
        for pairs in self.gather(list(zip(self.folds, mine, strict=True))):
            for position, value in pairs:
                if known.setdefault(position, value) != value:
                    raise RuntimeError(f"the processes that share fold {position} differ: {known[position]}, {value}")
        return [known[position] for position in sorted(known)]


ALONE = Share(folds=(0,))  # the only process of a run of one fold
