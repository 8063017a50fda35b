"""What the README promises of its first command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_study_without_flags_is_a_demo_of_less_than_five_minutes(tmp_path):
    """On two CPU cores: SurvQ above chance and below what the planted truth reaches."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "studies/query_counts.py"), "--results", str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SIMULATED" in ended.stdout.splitlines()[0]
    (simulated,) = (tmp_path / "simulated-data").glob("*/simulation.json")
    oracle = json.loads(simulated.read_text())["oracle"]["eta"]
    table = pd.read_csv(tmp_path / "query_counts/table_3.csv")
    assert len(table) == 5 and table["mean"].between(0.5, oracle).all(), table
