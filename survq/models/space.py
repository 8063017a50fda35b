"""Ranges of a model's hyperparameters for search, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Integers:
    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Floats:
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choices:
    values: tuple[Any, ...]


Range = Integers | Floats | Choices
