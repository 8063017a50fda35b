"""The report of a study is written again if, and only if, it would differ or one of its files does."""

import json
import shutil
from pathlib import Path

import pytest
from held_out_table import predictions, save_run

from survq.reporting import report_sources
from survq.reporting.report_material import Material
from survq.reporting.report_sources import SOURCES, refresh_report, sources_of
from survq.training.report import Report
from survq.training.results import Results


def save_diverged(results: Results, path: str, reason: str = "the loss became nan", seed: int = 0) -> None:
    config = {"cohort": "SIM", "group": "", "model": "snn", "hyperparameters": {}, "training": {"seed": seed}}
    results.save(path, config, Report("diverged", (), reason=reason))


@pytest.fixture
def results(tmp_path) -> Results:
    """A study with an up-to-date report, which has no pictures and is written in milliseconds."""
    results = Results(tmp_path / "study")
    save_diverged(results, "SIM/run")
    (results.folder / "study.json").write_text('{"folds": 5}')
    (results.folder / "about.json").write_text('{"protocol": "paper"}')
    (results.folder / "tables").mkdir()
    (results.folder / "figures").mkdir()
    (results.folder / "tables/table_1.csv").write_text("cohort,c\nSIM,0.7\n")
    assert was_written(results) and not was_written(results)
    return results


def was_written(results: Results) -> bool:
    return refresh_report(Material(results))[1]


def another_run(results):
    save_diverged(results, "SIM/other")


def no_run(results):
    shutil.rmtree(results.runs / "SIM/run")


def a_run_trained_again(results):
    no_run(results)
    save_diverged(results, "SIM/run", "the loss became inf")


def a_run_of_another_seed(results):
    no_run(results)
    save_diverged(results, "SIM/run", seed=1)


def a_damaged_run(results):
    (results.runs / "SIM/run/config.json").write_text("{}")


def another_option(results):
    (results.folder / "study.json").write_text('{"folds": 3}')


def another_exclusion(results):
    (results.folder / "about.json").write_text('{"protocol": "paper", "cohorts": {"SIM": {}}}')


def another_table(results):
    (results.folder / "tables/table_2.md").write_text("| a |\n| --- |\n| 1 |\n")


def a_changed_table(results):
    (results.folder / "tables/table_1.csv").write_text("cohort,c\nSIM,0.8\n")


def a_deleted_table(results):
    (results.folder / "tables/table_1.csv").unlink()


def another_figure(results):
    (results.folder / "figures/figure_3.png").write_bytes(b"PNG")


CHANGES = [
    *(another_run, no_run, a_run_trained_again, a_run_of_another_seed, a_damaged_run, another_option),
    *(another_exclusion, another_table, a_changed_table, a_deleted_table, another_figure),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_report_is_written_again_if_what_it_shows_has_changed(results, change):
    change(results)
    page = (results.folder / "report.html").read_bytes()
    assert was_written(results)
    assert (results.folder / "report.html").read_bytes() != page
    assert not was_written(results)


def test_a_report_has_the_name_of_its_study(results):
    renamed = Results(results.folder.rename(results.folder.with_name("other")))
    assert was_written(renamed) and "survq study other" in (renamed.folder / "report.md").read_text()


@pytest.mark.parametrize("kind", ["code", "versions"])
def test_a_report_of_another_version_is_written_again(results, kind):
    file = results.folder / SOURCES
    written = json.loads(file.read_text())
    written["sources"][kind] = "0" * 64
    file.write_text(json.dumps(written))
    assert was_written(results) and not was_written(results)


def test_each_line_of_code_counts(results, tmp_path, monkeypatch):
    before = sources_of(Material(results))
    monkeypatch.setattr(report_sources, "PACKAGE", Path(shutil.copytree(report_sources.PACKAGE, tmp_path / "survq")))
    assert sources_of(Material(results)) == before
    with (tmp_path / "survq/evaluation/uno.py").open("a") as source:
        source.write("TAU = 0.7\n")
    after = sources_of(Material(results))
    assert {kind for kind in before if before[kind] != after[kind]} == {"code"}


@pytest.mark.parametrize("content", [None, "", "[]", '{"sources": {}, "files": {}}', b"\xff"])
def test_a_report_whose_sources_are_unknown_is_written_again(results, content):
    file = results.folder / SOURCES
    file.unlink()
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert was_written(results) and not was_written(results)


def test_files_of_a_report_that_are_deleted_changed_or_too_many_are_mended(tmp_path, tree):
    results = Results(tmp_path / "study")
    save_run(results, "SIM/run", predictions(60))
    assert was_written(results)
    shown, whole = refresh_report(Material(results))[0], tree(results.folder)
    assert [file.name for file in shown] == ["metrics.csv", "report.md", "report.html"]
    (results.folder / "figures/report/survival-0-0.png").unlink()
    (results.folder / "tables/metrics.csv").write_text("metric,value\nc_index,0.99\n")
    (results.folder / "figures/report/folds-9.png").write_bytes(b"of an earlier report")
    assert was_written(results)
    assert tree(results.folder) == whole and not was_written(results)


def test_a_report_without_metrics_leaves_none_of_an_earlier_one(results):
    (results.folder / "tables/metrics.csv").write_text("metric,value\nc_index,0.99\n")
    assert was_written(results)
    assert not (results.folder / "tables/metrics.csv").exists()
