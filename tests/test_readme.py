"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import torch

from survq.simulation.data_folder import write_simulated

README = Path(__file__).parents[1] / "README.md"


def test_one_run_in_eight_lines(tmp_path, monkeypatch, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len([line for line in program.splitlines() if line]) == 8
    write_simulated(tmp_path / "data", "demo", cases=60)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # faster for a small model
    exec(compile(program, str(README), "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
