"""survq simulate"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from survq.commands.console import show_next
from survq.exits import UsageError


@dataclass(frozen=True)
class Simulate:
    """Make a data folder with a simulated cohort, whose truth is known.

    Nothing is downloaded. How well the truth itself would rank the cases is in simulation.json.

    example:  survq simulate data

    next:     python studies/query_counts.py --data data --cohorts SIM
    """

    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write."""
    preset: Literal["demo", "test", "rare", "bulk", "interaction"] = "demo"
    """Which world the cases are drawn from."""
    cases: int | None = None
    """How many cases; by default as many as the preset says."""
    seed: int = 0
    """Another seed draws other cases from the same world."""
    name: str = "SIM"
    """Name of the cohort."""

    def run(self) -> int:
        if self.seed < 0 or (self.cases is not None and self.cases < 1):
            raise UsageError("--seed must be 0 or more, --cases 1 or more")
        from survq.data.check import check
        from survq.simulation.simulate import write_simulated

        folder = write_simulated(self.dest, self.preset, cases=self.cases, seed=self.seed, name=self.name)
        print(check(self.dest).table())
        oracle = json.loads((folder / "simulation.json").read_text())["oracle"]
        print(f"\nWritten to {folder}. The truth itself ranks the cases with a C-index of {oracle['eta']:.3f}.")
        show_next(self.dest, [self.name])
        return 0
