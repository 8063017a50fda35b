"""The `survq` command: output, exit codes, and user errors as messages without tracebacks."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from survq.cli import main
from survq.data.lock import InUse
from survq.data.problems import DataError
from survq.data.write import write_cohort
from survq.exits import UsageError, exit_on_user_error
from survq.simulation.worlds import PRESETS


def test_import_and_check_real_cohorts(real_data, tmp_path, capsys):
    data = str(tmp_path / "data")
    assert main(["import", "survpath", str(real_data / "survpath"), data]) == 0
    out = capsys.readouterr().out
    assert "BLCA: 359 cases, 113 events, 1577 genes, 281 of 331 pathways covered" in out
    assert "COADREAD: 296 cases, 37 events" in out
    assert "excluded, expression without a label: 21" in out
    ids = "'TCGA-EI-6883', 'TCGA-G4-6323'"
    assert f"excluded, neither slides nor expression: 2, until their slides are imported: {ids}" in out
    assert "'TCGA-G4-6317', 'TCGA-G5-6572', 'TCGA-NH-A8F7'" in out
    assert f"Next: python studies/query_counts.py --data {data} --cohorts BLCA COADREAD" in out
    assert main(["check", data]) == 0
    out = capsys.readouterr().out
    assert re.search(r"held-out events +25 24 23 25 16 +5 13 5 9 5", out)
    assert "No problems found" in out


def test_a_cohort_from_single_tables(real_data, tmp_path, capsys):
    """With real tables, in the order that the messages propose."""
    survpath, data = real_data / "survpath", str(tmp_path / "data")
    labels = str(survpath / "datasets_csv/metadata/tcga_hnsc.csv")
    sets = [str(survpath / f"datasets_csv/metadata/{name}_signatures.csv") for name in ("hallmarks", "xena")]
    expression = str(real_data / "porpoise/datasets_csv_mutsig/tcga_hnsc_all_clean.csv.zip")
    splits = str(survpath / "splits/5foldcv/tcga_hnsc")

    assert main(["import", "labels", labels, data, "--cohort", "HNSC"]) == 0
    out = capsys.readouterr().out
    assert "HNSC: 394 cases, 117 events, disease-specific survival" in out
    assert "time: survival_months_dss in months; event: censorship_dss = 0; censored: censorship_dss = 1" in out
    assert main(["check", data]) == 65
    assert "no case has slides or expression" in capsys.readouterr().out

    assert main(["import", "pathways", *sets, data]) == 0
    assert "331 pathways from 2 files" in capsys.readouterr().out
    assert main(["import", "expression", expression, data, "--cohort", "HNSC"]) == 0
    out = capsys.readouterr().out
    assert "HNSC: expression of 394 cases, 769 of the 1,557 genes" in out
    assert "covers 10 of 331 pathways; " in out
    assert "excluded, expression without a label: 22" in out
    assert main(["import", "splits", splits, data, "--cohort", "HNSC"]) == 0
    assert "HNSC: 5 folds with 16 25 18 45 13 held-out events" in capsys.readouterr().out
    assert main(["check", data]) == 0
    assert "No problems found" in capsys.readouterr().out


def test_gene_sets_of_several_collections(small_survpath, tmp_path, capsys, tree):
    data, groups = str(tmp_path / "data"), tmp_path / "groups.gmt"
    assert main(["import", "survpath", str(small_survpath), data]) == 0
    groups.write_text("half\t\tG1\tX\nnone\t\tY\n")
    capsys.readouterr()
    assert main(["import", "pathways", str(groups), data, "--set", "six_groups"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 six_groups from 1 files\n")
    assert "BLCA: 1 covered by at least one gene; 1 excluded" in out
    assert f"Written to {data}/gene_sets/six_groups.gmt; coverage in {data}/coverage.csv." in out
    assert main(["check", data]) == 0
    assert re.search(r"pathways +2 of 2\nsix_groups +1 of 2\n", capsys.readouterr().out)
    before = tree(tmp_path)
    assert main(["import", "pathways", str(groups), data, "--set", "../x"]) == 65
    assert "'../x' cannot be the name of a collection of gene sets. Fix: use letters" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_clinical_table_with_stated_columns(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,days,status\nP1,60,dead\nP2,90,alive\nP3,,dead\n")
    stated = ["--case-column", "id", "--time-column", "days", "--time-unit", "days", "--event-column", "status"]
    coding = ["--event-values", "dead", "--censored-values", "alive"]
    command = ["import", "labels", str(tmp_path / "t.csv"), str(tmp_path / "data"), "--cohort", "MINE"]
    assert main([*command, *stated, *coding]) == 0
    assert "MINE: 2 cases, 1 events" in capsys.readouterr().out
    assert main([*command, *stated]) == 65
    assert "status 'dead'; expected '1' for an event" in capsys.readouterr().err
    assert main([*command, *stated[:4]]) == 64
    assert main([*command, *stated, *coding[:2]]) == 64
    assert main([*command, *stated, "--censorship-column", "status"]) == 64
    assert main(command) == 65
    assert "or state the columns: --case-column" in capsys.readouterr().err


def test_cohorts_can_be_chosen(real_data, tmp_path, capsys):
    assert main(["import", "survpath", str(real_data / "survpath"), str(tmp_path), "--cohorts", "coadread"]) == 0
    assert "BLCA" not in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["COADREAD", "coverage.csv", "pathways.gmt", "source.json"]


def test_problems_exit_with_65_and_all_are_shown(tmp_path, small, capsys):
    write_cohort(tmp_path, "X", **small)
    for table in ("expression", "splits"):
        os.truncate(tmp_path / "X" / f"{table}.parquet", 10)
    assert main(["check", str(tmp_path), "--deep"]) == 65
    captured = capsys.readouterr()
    assert "2 problems:" in captured.out
    assert "33 of 33 slides read" in captured.err


def test_problems_of_the_source_are_printed_to_stderr(small_survpath, tmp_path, tree, capsys):
    labels = small_survpath / "datasets_csv/metadata/tcga_blca.csv"
    labels.write_text(labels.read_text().replace("AA,10.5", "AA,ten"))
    before = tree(tmp_path)
    assert main(["import", "survpath", str(small_survpath), str(tmp_path / "data")]) == 65
    captured = capsys.readouterr()
    assert captured.err.startswith("survq: 2 problem")
    assert "survival_months_dss 'ten'; expected a number. Fix" in captured.err
    assert captured.out == ""
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["chek"], 64, "Unrecognized"),
        ([], 64, ""),
        (["check"], 64, ""),
        (["import", "trident", "a", "b"], 64, ""),
        (["import", "features", "a", "b"], 64, ""),
        (["import", "features", "a", "absent", "--cohort", "BLCA"], 65, "import its labels first"),
        (["simulate", "d", "--preset", "demu"], 64, ""),
        (["simulate", "d", "--cases", "0"], 64, "--cases 1 or more"),
        (["simulate", "d", "--seed", "-1"], 64, "--seed must be 0 or more"),
        (["check", "/absent"], 66, "survq: /absent: no such folder"),
        (["import", "survpath", "/absent", "d"], 66, "survq: /absent: no such folder"),
        (["import", "labels", "/absent", "d", "--cohort", "X"], 66, "/absent"),
        (["import", "labels", "/absent", "d"], 64, ""),
        *(
            (["import", what, "/absent", "d", "--cohort", "../x"], 65, "'../x' cannot be the name of a cohort")
            for what in ("labels", "expression", "splits")
        ),
        (["import", "expression", "/absent", "d", "--cohort", "X"], 65, "labels define the cases"),
        (["import", "splits", "/absent", "d", "--cohort", "X"], 65, "labels define the cases"),
        (["import", "pathways", "/absent", "d"], 66, "/absent"),
        (["import", "pathways", "d"], 64, "give one or more files of gene sets"),
        (["fetch", "gdc", "BRCA", "d"], 64, ""),
        (["simulate", "d", "--cases", "30", "--name", "../x"], 65, "cannot be the name of a cohort"),
    ],
)
def test_exit_codes(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert os.listdir(tmp_path) == []


def test_an_unwritable_destination_exits_with_74(small_survpath, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["import", "survpath", str(small_survpath), str(tmp_path / "file" / "data")]) == 74
    assert capsys.readouterr().err.startswith("survq: ")


def test_simulate(tmp_path, capsys):
    assert main(["simulate", str(tmp_path), "--cases", "40", "--seed", "3", "--name", "TOY"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"cases +40\n", out)
    assert "The true risks reach a C-index of 0." in out
    assert main(["check", str(tmp_path), "--deep"]) == 0


@pytest.mark.parametrize(
    "command",
    [
        *("", "import", "extract", "check", "simulate", "fetch"),
        *(f"import {what}" for what in ("labels", "expression", "pathways", "splits", "features", "survpath")),
    ],
)
def test_help_shows_an_example_and_the_next_command(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "survq simulate data" in out if not command else f"example:  survq {command}" in out
    assert "next:" in out


def test_the_command_starts_without_heavy_imports():
    heavy = ("torch", "ray", "sklearn", "pandas", "lifelines")
    code = f"import sys, survq.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("two at once"), 64),
        (DataError(["no events"]), 65),
        (InUse("in use by process 7"), 75),
        (FileNotFoundError("/absent: no such folder"), 66),
        (OSError("disk full"), 74),
        (KeyboardInterrupt(), 130),
    ],
    ids=repr,
)
def test_a_user_error_ends_with_a_message_and_an_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == f"survq: {error if str(error) else 'interrupted'}\n"


@pytest.mark.parametrize("bug", [ValueError("Length mismatch"), TypeError("None"), RuntimeError("shapes")], ids=repr)
def test_a_bug_ends_with_a_traceback(bug):
    """A library's ValueError is not a user error, and its message alone would not show its origin."""
    with pytest.raises(type(bug)) as shown, exit_on_user_error():
        raise bug
    assert shown.value is bug


def test_an_impossible_simulation_is_a_user_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], censoring=0.001))
    assert main(["simulate", str(tmp_path)]) == 64
    assert "cannot be reached" in capsys.readouterr().err


def test_an_unsafe_url_is_a_user_error(tmp_path, capsys):
    assert main(["fetch", "xena", "BRCA", str(tmp_path), "--hub", "ftp://example.org"]) == 64
    assert "it is not an https URL" in capsys.readouterr().err
