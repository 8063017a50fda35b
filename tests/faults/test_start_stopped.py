"""SIGTERM while Ray starts: a sentence and exit code 143, and nothing is left running.

    pytest -m faults tests/faults/test_start_stopped.py        # two minutes; one Ray at a time on a machine

What survq does of it without Ray is in tests/test_ray_start.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from survq.data.write import write_cohort

sys.path.append(str(Path(__file__).parents[1] / "slides"))

from slide_files import stained, write_tiff

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[2]


def of_a_study(folder: Path, tiny_folder: Path) -> list[str]:
    return [str(ROOT / "studies/query_counts.py"), "--data", str(tiny_folder), "--results", str(folder / "results")]


def of_an_extraction(folder: Path, _: Path) -> list[str]:
    (folder / "slides").mkdir()
    write_tiff(folder / "slides/TCGA-AA-0001-01Z-00-DX1.tiff", [stained(900, 900)], 0.5)
    cases = pd.DataFrame({"time": [9.0], "event": [True]}, index=pd.Index(["TCGA-AA-0001"], name="case_id"))
    write_cohort(folder / "data", "X", cases=cases)
    where = [str(folder / "slides"), str(folder / "data"), "--cohort", "X"]
    return ["-m", "survq.cli", "extract", *where, "--encoder", "tiny"]


def processes_of_ray(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "/ray/" in " ".join(child.cmdline())]


@pytest.mark.parametrize("seconds", [0.0, 1.5, 3.0], ids="{} s after its first process".format)
@pytest.mark.parametrize("arguments", [of_a_study, of_an_extraction])
def test_a_stop_while_ray_starts_is_said(tiny_folder, tmp_path, arguments, seconds):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, *arguments(tmp_path, tiny_folder)]
    told = environment | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not processes_of_ray(process.pid):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        time.sleep(seconds)
        started = processes_of_ray(process.pid)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.startswith("survq: ") and len(said.splitlines()) == 1, said
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
