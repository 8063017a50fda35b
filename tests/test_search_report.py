"""studies/search.py in this process, without Ray: its findings, and its report, also after the data are gone."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from survq.cli import main
from survq.data.cohort import Cohort
from survq.training.record import read_record

ROOT = Path(__file__).parents[1]
SECRETS = {"AWS_SECRET_ACCESS_KEY": "KEY-CANARY-1", "RAY_AUTH_TOKEN": "TOKEN-CANARY-2"}


@pytest.fixture
def searched(tiny_folder, tmp_path, monkeypatch, run_here, capfd):
    """The folder of a finished nested search whose data are gone, the ids of its cases, and what was printed."""
    torch.set_num_threads(1)

    class ThisProcess:
        def __init__(self, settings, cohorts):
            self.bags = {name: cohort.bags() for name, cohort in cohorts.items()}

        def execute(self, queue):
            run_here(queue, self.bags)

    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setattr("survq.training.machines.Machines", ThisProcess)
    spec = importlib.util.spec_from_file_location("search", ROOT / "studies/search.py")
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search", study)
    spec.loader.exec_module(study)
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    ids = list(Cohort.load(data, "TINY").cases.index)
    study.main(
        study.SearchSettings(data=str(data), results=tmp_path, model="snn", folds=2, epochs=1, trials=4, inner_folds=2)
    )
    shutil.rmtree(data)
    return tmp_path / "search_snn", ids, "".join(capfd.readouterr())


def test_a_search_says_if_it_was_worth_it_and_its_report_needs_no_data(searched, capfd):
    folder, ids, printed = searched
    records = [read_record(report.parent) for report in folder.glob("runs/TINY/*/*/*/report.json")]
    c_index = {role: [r.c_index for r in records if r.group.endswith(role)] for role in ("chosen", "default")}
    assert [len(values) for values in c_index.values()] == [2, 2]
    (row,) = pd.read_csv(folder / "tables/chosen_minus_default.csv").itertuples()
    assert row.difference == pytest.approx(sum(c_index["chosen"]) / 2 - sum(c_index["default"]) / 2)
    assert f"chosen minus default setting on the outer folds: {row.difference:+.3f}" in printed
    assert "of 2 outer searches chose the default setting" in printed
    assert (folder / "figures/searches_TINY.png").is_file()
    assert str(folder / "report.html") in printed

    first = (folder / "report.html").read_text()
    assert "snn, chosen by nested search" in first and "snn, default setting" in first
    assert "Chosen minus default" in first and "trial-" not in first and "Incomplete" not in first
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == first

    printed += "".join(capfd.readouterr())
    assert "2 cases excluded" in printed and not [case for case in ids if case in printed]
    files = [path for path in folder.rglob("*") if path.is_file()]
    for file in files:
        content = file.read_bytes()
        for secret in SECRETS.values():
            assert secret.encode() not in content and secret not in printed, file
        if file.name not in ("predictions.parquet", "excluded.csv"):  # they belong there
            assert not [case for case in ids if case.encode() in content], file
