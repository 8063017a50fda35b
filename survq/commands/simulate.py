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
    """Write a data folder with a simulated cohort whose true risks are known.

    Nothing is downloaded. simulation.json gives the C-index of the true risks.

    example:  survq simulate data

    next:     python studies/query_counts.py --data data --cohorts SIM
    """

    dest: Annotated[Positional[Path], arg(metavar="DEST")]
    """Data folder to write."""
    preset: Literal["demo", "test", "rare", "bulk", "interaction"] = "demo"
    """Simulation to draw the cases from."""
    cases: int | None = None
    """Number of cases. If omitted: the preset's."""
    seed: int = 0
    """Random seed; other seeds draw other cases from the same simulation."""
    name: str = "SIM"
    """Name of the cohort."""

    def run(self) -> int:
        if self.seed < 0 or (self.cases is not None and self.cases < 1):
            raise UsageError("--seed must be 0 or more, --cases 1 or more")
        from survq.data.check import check
        from survq.simulation.data_folder import write_simulated

        folder = write_simulated(self.dest, self.preset, cases=self.cases, seed=self.seed, name=self.name)
        print(check(self.dest).table())
        oracle = json.loads((folder / "simulation.json").read_text())["oracle"]
        print(f"\nWritten to {folder}. The true risks reach a C-index of {oracle['eta']:.3f}.")
        show_next(self.dest, [self.name])
        return 0
