"""The study of risk groups: it needs the files of a finished study only."""

import json

import numpy as np
import pandas as pd
import pytest
from held_out_table import predictions, save_run
from study_files import run

from survq.training.results import Results


def cuts(table: pd.DataFrame) -> list[float]:
    """The median of a fold, a high quantile of the next, and above all risks of the last."""
    return [table.loc[table["fold"] == fold, "risk"].quantile(q) + (q == 1) for fold, q in enumerate((0.5, 0.7, 1))]


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path / "study")
    table = predictions(90)
    save_run(found, "fixed", table, report={"median_training_risk": cuts(table)}, cohort="../A")
    save_run(found, "older", predictions(90, seed=1), model="snn", cohort="../A")
    (found.folder / "study.json").write_text(json.dumps({"cohorts": ["../A"]}))
    return found


def test_every_method_is_divided_at_the_median_of_its_training_cases(results, capsys):
    assert run("risk_groups", results.folder) == 0
    found = pd.read_csv(results.folder / "tables/risk_groups.csv").set_index("method")
    table = predictions(90)
    high = table["risk"] > table["fold"].map(dict(enumerate(cuts(table))))
    assert found.loc["survq", "high_cases"] == high.sum() == 15 + 9
    assert found.loc["survq", "high_deaths"] == table["event"][high].sum()
    assert found["low_cases"].tolist() == (90 - found["high_cases"]).tolist()
    assert found["cut"].to_dict() == {"survq": "training median", "snn": "held-out median"}
    assert found["p_holm"].max() <= 1 and np.all(found["p_holm"] >= found["p_log_rank"])
    printed = capsys.readouterr().out
    assert "with care" in printed and "report.html" in printed
    assert [path.name for path in (results.folder / "figures").glob("*.png")] == ["risk_groups_..-A.png"]
    assert "training cases of their fold" in (results.folder / "report.md").read_text()
    metrics = pd.read_csv(results.folder / "tables/metrics.csv").set_index(["method", "metric"])["value"]
    assert metrics["survq", "months_gained"] == pytest.approx(found.loc["survq", "months_gained"])


def test_a_folder_without_a_study_or_without_a_finished_run_is_refused(tmp_path, capsys):
    assert run("risk_groups", tmp_path) == 64
    (tmp_path / "study.json").write_text("{}")
    assert run("risk_groups", tmp_path) == 64
    assert "no run has finished" in capsys.readouterr().err
