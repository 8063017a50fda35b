"""What the report of a large study costs: metrics, tables and page of 1,000 runs of 400 cases, from the files alone."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from survq.reporting.report_material import SETTINGS, material_of
from survq.reporting.study_report import write_report
from survq.training.results import Results

from .measure import ROOT, Row, at_most, in_a_fresh_process

RUNS, CASES, FOLDS = 1000, 400, 5
MOST = 120.0  # CPU seconds: a minute of two cores
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # waiting threads count as CPU, too


def report(quick: bool) -> list[Row]:
    runs = RUNS // 10 if quick else RUNS
    found = in_a_fresh_process("reports", runs, environment=ONE_THREAD)
    note = f"{runs:,} runs of {CASES} cases; {found['wall']:.0f} s by the clock"
    return [at_most("report_seconds", found["cpu"], MOST * runs / RUNS, "CPU seconds", note)]


def _measure(runs: int) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from held_out_table import predictions, save_run

    base = predictions(CASES, folds=FOLDS)
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder) / "study")
        for run in range(runs):
            noise = 0.5 * np.random.default_rng(run).normal(size=len(base))
            save_run(results, f"SIM/run-{run:04}", base.assign(risk=base["risk"] + noise), rate=run)
        (results.folder / SETTINGS).write_text("{}")
        cpu, wall = time.process_time(), time.monotonic()
        write_report(material_of(results.folder))
        print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}))


if __name__ == "__main__":
    _measure(int(sys.argv[1]))
