"""What a run costs the driver, in a grid of trivial runs and in a search; and how soon a finished study starts again.

Trivial runs are an MLP of one epoch on 60 cases, one trial at a time, under Tune. The driver's own CPU is counted, of
all its threads, without what Ray and the trials take.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from survq.settings import StudySettings
from survq.simulation.data_folder import write_simulated
from survq.study import open_study
from survq.training.config import TrainConfig
from survq.training.run import Run

from .measure import Row, at_most, exponent, in_a_fresh_process


def driver(quick: bool) -> list[Row]:
    sizes = (20, 60) if quick else (50, 150, 500)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_simulated(Path(folder) / "data", "demo", cases=60, name="TINY")
        for kind in ("grid", "search"):
            found = {runs: in_a_fresh_process("driver", kind, runs, folder) for runs in sizes}
            start = time.monotonic()
            again = in_a_fresh_process("driver", kind, sizes[-1], folder)
            seconds = time.monotonic() - start
            last = found[sizes[-1]]
            note = "; ".join(
                f"{runs} runs: {one['wall']:.0f} s, driver {one['cpu']:.1f} s, memory {one['memory']:.0f} MiB"
                for runs, one in found.items()
            )
            growth = exponent(sizes, [one["cpu"] for one in found.values()])
            rows += [
                at_most(f"{kind}_growth", growth, 1.1, "exponent of the driver's CPU over runs", note),
                at_most(f"{kind}_driver", last["cpu"] / sizes[-1], 1.0, f"s of driver CPU a run, of {sizes[-1]} runs"),
                at_most(f"{kind}_resume", seconds, 5.0, f"s to start and end again, {again['cpu']:.1f} s of CPU"),
            ]
    return rows


def _study(kind: str, runs: int, folder: Path) -> dict[str, float]:
    settings = StudySettings(data=str(folder / "data"), results=folder / f"{kind}-{runs}", epochs=1, cpus=1)
    begun, spent = time.monotonic(), time.process_time()
    with open_study(kind, settings, "trivial runs") as study:
        (cohort,) = study.cohorts.values()
        folds = study.folds(cohort, ["mlp"]).folds
        if kind == "grid":
            study.train([Run(cohort.name, TrainConfig("mlp", epochs=1, seed=seed), folds) for seed in range(runs)])
        else:
            from survq.tuning.schedule import Searches  # Optuna is slow to import, and a grid does not need it
            from survq.tuning.search import sweep

            search = sweep(cohort, folds, study.search_space("mlp", cohort), trials=runs)
            study.run(Searches([search], study.results.folder))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"wall": time.monotonic() - begun, "cpu": time.process_time() - spent, "memory": memory}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(_study(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
