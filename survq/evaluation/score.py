"""Score: a metric's value, or the reason why it does not exist."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The value of a metric. If it is undefined, the value is NaN and `reason` says why."""

    value: float
    reason: str = ""

    @classmethod
    def undefined(cls, reason: str) -> Score:
        return cls(math.nan, reason)
