"""The studies of Tables 2, 4 and 6 and of Figures 4 to 8, in this process, without Ray."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from survq.data.cohort import Cohort
from survq.data.location import Location
from survq.settings import MapSettings, StudySettings
from survq.training.ensemble import load_run
from survq.training.learner import initial_model
from survq.training.record import read_record

ROOT = Path(__file__).parents[1]


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"studies/{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # its dataclass looks there
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def study(results, tiny_folder, monkeypatch, run_here, capsys):
    """study(name, **settings) -> what was printed. The demo of a smaller cohort, trained in this process."""
    torch.set_num_threads(1)

    class ThisProcess:
        def __init__(self, settings, cohorts):
            self.bags = {name: cohort.bags() for name, cohort in cohorts.items()}

        def execute(self, queue):
            run_here(queue, self.bags)

    monkeypatch.setattr("survq.training.machines.Machines", ThisProcess)
    monkeypatch.setattr("survq.interpretation.held_out.CASES", 3)  # smaller samples, for speed
    monkeypatch.setattr("survq.reporting.information.SEEDS", (0,))
    monkeypatch.setattr("survq.demo.demo_data", lambda results: Location.at(tiny_folder))

    def study(name: str, **settings) -> str:
        loaded = module(name)
        (kind,) = (
            value
            for value in vars(loaded).values()
            if isinstance(value, type)
            and issubclass(value, StudySettings)
            and value not in (StudySettings, MapSettings)
        )
        loaded.main(kind(**{"results": results, "folds": 2, "epochs": 1, **settings}))
        return capsys.readouterr().out

    return study


def test_the_rows_of_table_2_are_the_ablations(study, results):
    study("ablate_components")
    table = pd.read_csv(results / "ablate_components/tables/table_2.csv")
    assert table[["Hist.", "Geno.", "Self-attn."]].to_numpy().tolist() == [
        [False, False, False], [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip
    records = {record.folder.name: record for record in map(read_record, results.glob("ablate_components/runs/*/*"))}
    assert len(records) == 4
    for record in records.values():  # what the parts are is tested by tests/models/test_survq.py, by the equations
        settings = record.hyperparameters
        has = (settings["histology_queries"] > 0, settings["genomic_queries"] > 0, settings["depth"] > 0)
        row = table[(table[["Hist.", "Geno.", "Self-attn."]] == has).all(axis=1)]
        assert row["mean"].item() == pytest.approx(record.c_index)
        assert settings["block"] is None and settings["width"] == 32
    differences = pd.read_csv(results / "ablate_components/tables/differences_from_survq.csv")
    assert len(differences) == 3


def test_fixed_queries_never_move_and_start_where_learnable_ones_do(study, results):
    printed = study("fixed_queries", keep_weights=True)
    assert "What algebra says" in printed
    queries = {}
    for folder in results.glob("fixed_queries/runs/*/*"):
        record, folds = load_run(folder)
        fold = folds[0]
        initial = initial_model(fold.config, fold.spec, fold.repeat, fold.index)
        queries[record.hyperparameters["learnable_queries"]] = initial.Q_h, fold.model.Q_h, initial.Q_g, fold.model.Q_g
    assert all(torch.equal(a, b) for a, b in zip(queries[False][::2], queries[True][::2], strict=True))
    for before, after in (queries[False][:2], queries[False][2:]):
        assert torch.equal(before, after) and not after.requires_grad
    for before, after in (queries[True][:2], queries[True][2:]):
        assert not torch.equal(before, after) and after.requires_grad


def test_tables_are_on_disk_before_they_are_printed(study, results, monkeypatch):
    study("fixed_queries", keep_weights=True)  # stored, if it has run before
    tables = sorted((results / "fixed_queries/tables").glob("[!m]*"))
    for file in tables:
        file.unlink()

    def full(text, **options):
        if "Table 4" in text:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("builtins.print", full)
    with pytest.raises(SystemExit):
        study("fixed_queries", keep_weights=True)
    assert len(tables) == 3 and all(file.is_file() for file in tables)


def test_maps_of_two_cases(study, results, tiny_folder):
    printed = study("query_maps")
    cohort = Cohort.load(tiny_folder, "TINY")
    folders = sorted((results / "trained_queries/query_maps/TINY").iterdir())
    assert len(folders) == 2
    for folder in folders:
        slides = cohort.slides[cohort.slides["case_id"] == folder.name]
        names = {f"{slide}.geojson" for slide in slides["slide_id"]}
        assert {path.name for path in folder.iterdir()} == names | {"query_maps.png", "attention.parquet"}
        table = pd.read_parquet(folder / "attention.parquet")
        assert table.columns.tolist() == ["slide_id", "x", "y", "patch_size", "query", "weight"]
        sums = table[table["query"].str.startswith("histology")].groupby("query", observed=True)["weight"].sum()
        assert len(sums) == 300 and sums.to_numpy() == pytest.approx(1, abs=1e-4)
        assert table["query"].nunique() == 302 and len(table) == 302 * slides["patches"].sum()
        features = [feature for name in names for feature in json.loads((folder / name).read_bytes())["features"]]
        assert len(features) == slides["patches"].sum() and len(features[0]["properties"]["measurements"]) == 4
    evidence = pd.read_csv(results / "trained_queries/tables/query_maps.csv")
    assert set(evidence["case_id"]) == {folder.name for folder in folders} and len(evidence) == 8
    planted = pd.read_csv(results / "trained_queries/tables/planted_patches_TINY.csv")
    assert planted[["worse", "better"]].to_numpy().min() > 0 and len(planted) == 4
    assert str(folders[0].parent) in printed
    report = (results / "trained_queries/report.html").read_text()
    assert "Query maps" in report and not [case for case in cohort.cases.index if case in printed + report]


def test_the_other_figures_train_nothing_again(study, results):
    study("information")
    for name in ("cross_modal", "query_embedding"):
        assert "stored" in study(name)
    folder = results / "trained_queries"
    assert len(list(folder.glob("runs/*/*"))) == 1
    assert len(list(folder.glob("cross_modal/TINY/*/cross_modal.png"))) == 2
    table = pd.read_csv(folder / "tables/table_6_TINY.csv")
    assert table["modality"].tolist() == ["histology"] * 3 + ["genomics"] * 3
    assert table["original"].between(0.99, 1).all() and table[["in_subspace", "kept"]].to_numpy().min() >= 0
    assert (table["in_subspace"] <= 1 + 1e-9).all()
    points = pd.read_csv(folder / "tables/query_embedding_TINY.csv")
    assert len(points) == 2 * 2 * 428 and np.isfinite(points[["x", "y"]].to_numpy()).all()
    assert (folder / "figures/query_embedding_TINY.png").stat().st_size > 20_000


def test_unknown_cases_and_several_seeds_are_refused(study, capsys):
    with pytest.raises(SystemExit):
        study("query_maps", cases=("NO-SUCH", "../x"))
    assert "NO-SUCH" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study("query_maps", seeds=2)
    assert "--seeds is 2" in capsys.readouterr().err


@pytest.mark.slow  # 10 s: eight trainings and a bootstrap of the curve
def test_the_curve_of_query_counts(study, results):
    printed = study("query_counts", curve=True)
    folder = results / "query_counts_curve"
    table = pd.read_csv(folder / "tables/curve_TINY.csv").set_index(["histology_queries", "genomic_queries"])
    assert len(table) == 10 * 8 and table["c_index"].between(0, 1).all()
    assert (table["low"] <= table["c_index"]).all() and (table["c_index"] <= table["high"]).all()
    assert (table.loc[(300, 128), ["minus_all", "minus_low", "minus_high"]] == 0).all()
    assert table["minus_all"].to_numpy() == pytest.approx(table["c_index"] - table["c_index"][300, 128])
    records = [read_record(path) for path in folder.glob("runs/*/*")]
    assert len(records) == 4
    (nested,) = [record for record in records if record.hyperparameters["nested_queries"]]
    assert table["c_index"][300, 128] == pytest.approx(nested.c_index)
    assert "trained with these numbers alone" in printed
    assert (folder / "figures/curve_TINY.png").stat().st_size > 20_000
