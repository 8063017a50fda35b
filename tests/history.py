"""The history of a study whose processes are killed: no finished run is ever lost, and none is trained again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def finished(results: Path) -> dict[str, tuple[int, str]]:
    """Inode and content of each report. A run that is trained again would have another inode."""
    reports = (p for p in results.rglob("report.json") if not any(part.startswith(".") for part in p.parts))
    return {str(path.relative_to(results)): (path.stat().st_ino, path.read_text()) for path in reports}


class History:
    """What the processes of a study said and what they left behind."""

    def __init__(self, arguments: Sequence[str], results: Path, **variables: str):
        """The variables are added to the environment."""
        self.arguments, self.results, self.variables = arguments, results, variables
        self.seen: dict[str, tuple[int, str]] = {}
        self.kills, self.said = 0, ""

    def run(self, until: float = 0.0, *numbers: signal.Signals, act: Callable[[int], None] | None = None) -> int:
        """Run the same command, and send the signals after `until` seconds, a second apart. Returns its exit code.

        `act` is called with the process id, as soon as a run has finished.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.variables}
        with (self.results / "said").open("w+") as said:
            # not in this folder: Ray would add it to the path of all nodes
            driver = subprocess.Popen(
                self.arguments, env=environment, cwd=self.results, stdout=said, stderr=subprocess.STDOUT
            )
            for number in numbers:
                try:
                    driver.wait(until)
                except subprocess.TimeoutExpired:
                    driver.send_signal(number)
                    self.kills += number == signal.SIGKILL
                until = 1.0
            while act is not None and driver.poll() is None and not self.seen.items() < finished(self.results).items():
                time.sleep(0.1)
            if act is not None:
                act(driver.pid)
            code = driver.wait(600)
            said.seek(0)
            self.said = said.read()
            self.check(self.said)
        return code

    def check(self, said: str) -> None:
        now = finished(self.results)
        assert self.seen.items() <= now.items(), "a finished run was lost or trained again"
        acknowledged = max((int(count) for count in re.findall(r"^ +(\d+) of \d+ done", said, re.M)), default=0)
        assert len(now) >= acknowledged, f"{acknowledged} runs were said to be done, {len(now)} are on disk:\n{said}"
        self.seen = now

    def tables(self) -> dict[str, pd.DataFrame]:
        """The study's tables, without the times that training took."""
        return {file.name: pd.read_csv(file) for file in self.results.glob("*/tables/*.csv")}


def check_same(ours: dict[str, pd.DataFrame], theirs: dict[str, pd.DataFrame]) -> None:
    assert ours and set(ours) == set(theirs), f"tables {sorted(ours)} instead of {sorted(theirs)}"
    for name, table in theirs.items():
        pd.testing.assert_frame_equal(ours[name], table, check_exact=True, obj=name)
