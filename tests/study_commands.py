"""Studies as commands, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def command(study: str, tiny_folder: Path, results: Path, *more: str) -> list[str]:
    flags = ["--data", str(tiny_folder), "--results", str(results), "--epochs", "2", "--folds", "3", "--cpus", "2"]
    return [sys.executable, str(ROOT / "studies" / f"{study}.py"), *flags, *more]


def run(arguments: list[str], timeout: float = 300, **variables: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | variables
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=timeout)
