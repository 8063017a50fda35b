"""Studies on hosts: started as a user starts them, waited for by what they print, compared byte for byte."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from hosts import Hosts

SCRIPT = "studies/query_counts.py"
FLAGS = "--data /shared/data --epochs 2"


class Started:
    """A command in the background, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen):
        self.process, self.output = process, ""
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._said:
                self.output += line.replace("\r", "")
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def until(self, text: str, seconds: float = 500) -> None:
        with self._said:
            self._said.wait_for(lambda: text in self.output or self.process.poll() is not None, seconds)
            assert text in self.output, self.output

    def ended(self, code: int = 0, seconds: float = 500) -> str:
        """All that it printed. Asserts its exit code."""
        assert self.process.wait(seconds) == code, self.output
        self._reader.join(20)
        return self.output


def up(hosts: Hosts) -> None:
    """`ray up`, and both hosts in the cluster."""
    done = hosts.run(0, "cd checkout && ray up -y --no-config-cache cluster/local.yaml", timeout=500)
    assert done.returncode == 0, done.stdout[-3000:]
    hosts.wait_for(lambda: both_up(hosts), 90, "both hosts to join")


def both_up(hosts: Hosts) -> bool:
    """`ray status` lists a host for minutes after it is gone."""
    count = "import ray; ray.init(logging_level=50); print(sum(node['Alive'] for node in ray.nodes()), 'up')"
    return "2 up" in hosts.run(1, f'. ~/.bashrc; python -c "{count}"').stdout


def submit(hosts: Hosts, results: str, flags: str = FLAGS, how: str = "") -> Started:
    command = f"ray submit {how} cluster/local.yaml {SCRIPT} -- {flags} --results {results}"
    return Started(hosts.start(0, f"cd checkout && exec {command}"))


def same(ours: Path, theirs: Path) -> int:
    """The number of runs. Their predictions and the table are asserted to be the same, byte for byte."""
    runs = sorted(file.relative_to(theirs) for file in theirs.glob("query_counts/runs/*/*/predictions.parquet"))
    for file in [*runs, Path("query_counts/tables/table_3.csv")]:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file
    return len(runs)


def reports(results: Path) -> dict[str, int]:
    """The inode of each report: a run that is trained again would have another one."""
    return {str(file.relative_to(results)): file.stat().st_ino for file in results.glob("*/runs/*/*/report.json")}
