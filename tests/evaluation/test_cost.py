import importlib.util
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_models import SPEC, build
from torch import nn

from survq.evaluation.cost import milliseconds, peak_memory, random_case
from survq.models import MODELS, TABLE_1, Prediction

MB = 1e6


class Sleeper(nn.Module):
    """Sleeps for `seconds`, and records its calls."""

    def __init__(self, name: str, seconds: float, calls: list):
        super().__init__()
        self.name, self.seconds, self.calls = name, seconds, calls

    def forward(self, batch):
        self.calls.append((self.name, self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return Prediction(torch.zeros(len(batch), 4))


class Hungry(nn.Module):
    """Needs `size` bytes: half for its weights, half for its activations."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size // 8))

    def forward(self, batch):
        return Prediction((2 * self.weight)[:4])


def test_milliseconds_alternates_between_models():
    calls: list = []
    models = {"fast": Sleeper("fast", 0.001, calls), "slow": Sleeper("slow", 0.02, calls)}
    times = milliseconds(models, random_case(SPEC, 3), repeats=4, warm_up=2)
    assert times.shape == (4, 2)
    assert calls == [("fast", False, False), ("slow", False, False)] * 6
    assert times["fast"].min() >= 1
    assert times["slow"].min() >= 20
    assert times["slow"].median() > times["fast"].median()


def test_memory_covers_weights_and_activations():
    """Even if this process has used more memory before."""
    before = torch.ones(100_000_000)
    case = partial(random_case, SPEC, 3)
    small, large = (peak_memory(partial(Hungry, size), case) for size in (8_000, 400_000_000))
    assert 350 * MB < large - small < 450 * MB
    assert small < 100 * MB
    assert before.sum() > 0


def test_random_case_suits_every_model():
    case = random_case(SPEC, 20)
    assert torch.equal(case.bags[0], random_case(SPEC, 20).bags[0])
    times = milliseconds({name: build(name) for name in MODELS}, case, repeats=1, warm_up=0)
    assert list(times) == list(MODELS)
    assert (times > 0).all(axis=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_on_a_gpu():
    need = peak_memory(partial(Hungry, 400_000_000), partial(random_case, SPEC, 3, "cuda"))
    assert 400 * MB <= need < 450 * MB


def test_the_study(tmp_path, monkeypatch, capsys):
    """Sizes and parameters are the paper's; every model has a row, and every repeat is saved."""
    file = Path(__file__).parents[2] / "studies" / "inference_cost.py"
    spec = importlib.util.spec_from_file_location("inference_cost", file)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    monkeypatch.setattr(study, "peak_memory", lambda make_model, make_batch: 10**9)
    study.main(study.InferenceCost(results=tmp_path, patches=50, repeats=2))

    printed = capsys.readouterr().out
    table = (tmp_path / "inference_cost" / "tables" / "table_5_paper.md").read_text()
    assert table in printed
    assert "50 patches x 1024 features, 331 pathways" in table
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert set(TABLE_1) <= set(lines)
    assert "| 25,715,460 |" in lines["survq"]
    assert lines["survq"].endswith("| 1.00 | 106 | 1.21 |")
    assert lines["pibd"].endswith("| 1.00 | 172 | 1.42 |")
    times = pd.read_csv(tmp_path / "inference_cost" / "tables" / "milliseconds_paper.csv", index_col="repeat")
    assert times.shape == (2, len(TABLE_1))

    with pytest.raises(SystemExit) as end:
        study.main(study.InferenceCost(data=str(tmp_path / "nowhere"), results=tmp_path))
    assert end.value.code == 65
