"""studies/compare_models.py in this process, without Ray: the table, its companions, and a model of one's own."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from survq.data.location import Location
from survq.evaluation.concordance import fold_concordance
from survq.exits import UsageError
from survq.models import MODELS, TABLE_1
from survq.training.record import read_record

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def study():
    """The module of the study."""
    spec = importlib.util.spec_from_file_location("compare_models", ROOT / "studies/compare_models.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_models"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compare_models"]


@pytest.fixture
def compare(study, tiny_folder, tmp_path, monkeypatch, run_here, capsys):
    """compare(*models, **settings) -> the folder of results and what was printed.

    The demo of a smaller cohort; runs are trained in this process.
    """
    torch.set_num_threads(1)

    class ThisProcess:
        def __init__(self, settings, cohorts):
            self.bags = {name: cohort.bags() for name, cohort in cohorts.items()}

        def execute(self, queue):
            run_here(queue, self.bags)

    monkeypatch.setattr("survq.training.machines.Machines", ThisProcess)
    monkeypatch.setattr("survq.demo.demo_data", lambda results: Location.at(tiny_folder))

    def compare(*models: str, **settings) -> tuple[Path, str]:
        defaults = {"results": tmp_path, "folds": 3, "epochs": 1}
        study.main(study.CompareModels(models=models, **{**defaults, **settings}))
        return tmp_path / "compare_models", capsys.readouterr().out

    return compare


def test_the_table_holds_what_the_runs_predicted(compare):
    folder, printed = compare("mlp", "abmil", seeds=2)
    table = pd.read_csv(folder / "tables/table_1.csv")
    assert table[["group", "model"]].to_numpy().tolist() == [
        ["Genomic", "MLP"], ["Histology", "ABMIL"], ["Multimodal", "SurvQ"],
    ]  # fmt: skip
    records = [read_record(report.parent) for report in folder.glob("runs/*/*/report.json")]
    assert len(records) == 6 and {len(set(record.predictions["case_id"])) for record in records} == {table["cases"][0]}
    mean = pd.Series({record.model: record.c_index for record in records if record.training["seed"] == 0})
    other = pd.Series({record.model: record.c_index for record in records if record.training["seed"] == 1})
    assert table["mean"].tolist() == pytest.approx(((mean + other) / 2)[["mlp", "abmil", "survq"]].tolist())
    differences = pd.read_csv(folder / "tables/differences_from_survq.csv").set_index("model")
    by_model = table.set_index("model")["mean"]
    assert differences["difference"]["mlp"] == pytest.approx(by_model["MLP"] - by_model["SurvQ"])
    assert (differences["low"] <= differences["difference"]).all()
    assert differences[["better", "equal", "worse"]].sum(axis=1).tolist() == pytest.approx([1, 1])
    ranks = pd.read_csv(folder / "tables/mean_ranks.csv")
    assert sorted(ranks["rank"]) == [1, 2, 3] and ranks["rank"].is_monotonic_increasing
    assert (folder / "figures/table_1_forest.png").stat().st_size > 10_000
    for text in ("Table 1", "mean over 2 seeds", "undecided", "corrected resampled t-test"):
        assert text in printed
    assert "paper 0." not in printed, "TINY is no cohort of the paper"


def test_late_fusion_is_a_row_beside_its_parts(compare, study, monkeypatch):
    some = {name: MODELS[name] for name in ("snn", "abmil", "survq")}
    monkeypatch.setattr(study, "MODELS", some)
    folder, _ = compare()
    table = pd.read_csv(folder / "tables/table_1.csv").set_index("model")
    assert list(table.index) == ["SNN", "ABMIL", "SurvQ", "late fusion"]
    assert 0 < table["mean"]["late fusion"] < 1
    choices = pd.read_csv(folder / "tables/late_fusion_TINY.csv")
    assert choices["fold"].tolist() == [0, 1, 2] and set(choices["histology"]) == {"abmil"}


def test_the_native_preset_uses_the_settings_of_each_paper(compare):
    folder, printed = compare("mlp", preset="native")
    (record,) = [read_record(report.parent) for report in folder.glob("runs/*/mlp*/report.json")]
    assert record.training["batch_size"] == 1 and record.training["sampling"] == "balanced"
    assert record.training["epochs"] == 1, "as asked for"
    assert "each model's own training settings" in printed


def test_tuned_models_have_the_same_budget(compare):
    folder, printed = compare("mlp", tuned=True, trials=2, inner_folds=2)
    table = pd.read_csv(folder / "tables/table_1.csv").set_index("model")
    assert table["configurations"].tolist() == [6, 6], "two trials in each of three folds"
    assert "2 trials of at most 1 epochs in each of 6 searches" in printed and "the same for all: 18 runs" in printed
    assert "after the epoch selected on inner folds" in " ".join(printed.split())
    chosen = [read_record(report.parent) for report in folder.glob("runs/TINY/outer-*/chosen/mlp*/report.json")]
    own = pd.concat([record.predictions for record in chosen])
    assert table["mean"]["MLP"] == pytest.approx(fold_concordance(own)["c_index"].mean())


def test_settings_that_cannot_be_meant_are_refused(study):
    with pytest.raises(UsageError, match=r"--models: model 'abmli' is unknown; expected one of mlp, "):
        study.CompareModels(models=("abmli",))
    with pytest.raises(UsageError, match="--preset changes nothing"):
        study.CompareModels(tuned=True, preset="native")


def test_the_papers_numbers_are_complete(study):
    """Each row's average is that of its cohorts, as printed: a typing error would stand out."""
    assert list(study.PAPER) == list(TABLE_1)
    for line in study.PAPER.values():
        *cohorts, average = line.split(", ")
        means = [float(cell.split(" ± ")[0]) for cell in cohorts]
        assert len(means) == 5 and sum(means) / 5 == pytest.approx(float(average), abs=0.0011), line


def test_a_fifteenth_model_is_one_file_and_one_line(compare, monkeypatch):
    """It is trained, searched and compared like the others."""
    monkeypatch.setitem(MODELS, "pathway_mean", None)  # removed again afterwards
    from fifteenth_model import PathwayMean

    monkeypatch.setitem(MODELS, "pathway_mean", PathwayMean)
    folder, _ = compare("pathway_mean")
    table = pd.read_csv(folder / "tables/table_1.csv")
    assert set(table["model"]) == {"SurvQ", "PathwayMean"} and table["mean"].notna().all()
    folder, _ = compare("pathway_mean", tuned=True, trials=2, inner_folds=2)
    assert pd.read_csv(folder / "tables/table_1.csv").set_index("model")["configurations"]["PathwayMean"] == 6


def test_a_fifteenth_model_passes_the_contract():
    options = ["-p", "fifteenth_model", "-p", "no:cacheprovider", "-k", "pathway_mean", "-o", "addopts="]
    command = [sys.executable, "-m", "pytest", *options, str(ROOT / "tests/models/test_every_model.py")]
    ended = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout
    (passed,) = re.findall(r"(\d+) passed", ended.stdout.splitlines()[-1])
    assert int(passed) > 15
