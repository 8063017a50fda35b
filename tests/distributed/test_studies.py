"""Studies as commands: run, killed and restarted."""

import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from history import finished
from study_commands import ROOT, command, run

CANARY = "canary-1f0c"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "HF_TOKEN")


@pytest.fixture(scope="module")
def ray_folder():
    """A folder for Ray's log and sockets, with a short name."""
    with tempfile.TemporaryDirectory(prefix="sq", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory, ray_folder) -> tuple[Path, subprocess.CompletedProcess]:
    """A study under a private Ray, in whose environment every secret is the canary."""
    results = tmp_path_factory.mktemp("undisturbed")
    secrets = dict.fromkeys(KEYS, CANARY) | {"RAY_AUTH_TOKEN": CANARY.encode().hex().ljust(64, "0")}
    return results, run(command("query_counts", tiny_folder, results), RAY_TMPDIR=str(ray_folder), **secrets)


def test_a_study_writes_tables_figures_and_an_index(undisturbed):
    results, completed = undisturbed
    assert completed.returncode == 0, completed.stderr
    folder = results / "query_counts"
    table = pd.read_csv(folder / "tables/table_3.csv")
    assert len(table) == 5 and table["mean"].between(0, 1).all()
    differences = pd.read_csv(folder / "tables/differences.csv")
    by_counts = table.set_index(["histology_queries", "genomic_queries"])["mean"]
    assert len(differences) == 4
    for line in differences.itertuples():
        gain = by_counts[line.histology_queries, line.genomic_queries] - by_counts[300, 128]
        assert line.difference == pytest.approx(gain) and line.low <= line.difference <= line.high
    figures = folder / "figures"
    assert (figures / "query_counts.png").stat().st_size > 10_000
    assert (figures / "kaplan_meier_TINY.png").exists() and (figures / "learning_curves_TINY.png").exists()
    index = pd.read_csv(folder / "index.csv").set_index("path")
    assert index["state"].eq("finished").all() and index["histology_queries"].nunique() == 3
    for path, row in index.iterrows():
        assert row["c_index"] == pytest.approx(by_counts[row["histology_queries"], row["genomic_queries"]])
        assert (folder / "runs" / path / "report.json").is_file()
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        *("about.json", "figures", "index.csv", "report.html", "report.md", "runs", "study.json", "tables", "views")
    ]
    table_3 = str(folder / "tables/table_3.csv")
    for text in ("TINY: 60 cases", "Table 3", "tensorboard --logdir", table_3, "5 of 5 done"):
        assert text in completed.stdout
    assert "SIMULATED" not in completed.stdout.splitlines()[0], "the data folder is not simulated"
    assert len(completed.stderr.splitlines()) <= 3, f"unexpected output on stderr:\n{completed.stderr}"


def test_no_secret_is_in_results_or_in_the_log_of_ray(undisturbed, ray_folder):
    """Tune copies the keys of a bucket into the description of every trial, which is logged for all to read."""
    files = [file for folder in (undisturbed[0], ray_folder) for file in folder.rglob("*") if file.is_file()]
    assert any(file.name == "runtime_env_agent.log" for file in files) and len(files) > 40, files
    secrets = CANARY.encode(), CANARY.encode().hex().encode()
    assert [file for file in files if any(secret in file.read_bytes() for secret in secrets)] == []
    assert all(secret.decode() not in undisturbed[1].stdout + undisturbed[1].stderr for secret in secrets)


def files_with_ids(folder: Path, cohort) -> set[str]:
    """The names of the files below a folder that hold the id of a case."""
    ids = re.compile("|".join(map(re.escape, cohort.cases.index)).encode())
    return {file.name for file in folder.rglob("*") if file.is_file() and ids.search(file.read_bytes())}


def test_case_ids_are_in_predictions_and_nowhere_else(undisturbed, ray_folder, cohort):
    """Not in what is printed, in event files, settings, or the report; nor in the logs of Ray."""
    results, completed = undisturbed
    assert files_with_ids(results, cohort) == {"predictions.parquet"}
    assert not [case for case in cohort.cases.index if case in completed.stdout + completed.stderr]
    logs = [folder for folder in ray_folder.rglob("logs") if folder.is_dir()]
    assert logs and not any(files_with_ids(folder, cohort) for folder in logs)


def test_case_ids_are_nowhere_in_the_folder_of_ray(undisturbed, ray_folder, cohort):
    assert not files_with_ids(ray_folder, cohort)


def test_tensorboard_has_curves_hyperparameters_and_a_figure(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted({file.parent for file in (undisturbed[0] / "query_counts/views/tensorboard").rglob("events.*")})
    assert len(folders) == 5
    events = EventAccumulator(str(folders[0]))
    events.Reload()
    tags = events.Tags()
    for name in ("C-index", "validation loss", "training loss"):
        assert [point.step for point in events.Scalars(f"{name}/fold 2")] == [1, 2]
        assert len(events.Scalars(f"{name}/mean of folds")) == 2
    assert len(tags["images"]) == 1
    assert "_hparams_/experiment" in str(events.summary_metadata.keys())


def test_predictions_are_out_of_fold_and_complete(undisturbed, cohort):
    from survq.evaluation.concordance import fold_concordance

    files = list((undisturbed[0] / "query_counts/runs/TINY").rglob("predictions.parquet"))
    assert len(files) == 5
    for file in files:
        predictions = pd.read_parquet(file)
        assert sorted(predictions["case_id"]) == sorted(cohort.cases.index)
        joined = cohort.cases.loc[predictions["case_id"]]
        assert (joined["event"].to_numpy() == predictions["event"].to_numpy()).all()
        report = json.loads(file.with_name("report.json").read_text())
        ours = fold_concordance(predictions)["c_index"].tolist()
        assert ours == pytest.approx([fold["c_index"] for fold in report["c_index"]["folds"]])


def test_a_restarted_study_trains_no_finished_run_again(undisturbed, tiny_folder):
    results, _ = undisturbed
    before = finished(results)
    again = run(command("query_counts", tiny_folder, results), timeout=60)
    assert again.returncode == 0 and "stored" in again.stdout
    assert "ray on" not in again.stdout, "no run is left, so Ray must not start"
    assert finished(results) == before


def checkpoints(results: Path) -> set[str]:
    """The runs with a checkpoint."""
    folder = results / "query_counts/checkpoints"
    return {str(file.parents[2].relative_to(folder)) for file in folder.rglob("checkpoint.json")}


def test_a_study_killed_three_times_ends_with_the_same_table(undisturbed, tiny_folder, tmp_path):
    """Interrupted runs resume after their last saved epoch."""
    chance = random.Random(4)
    seen: dict[str, tuple[int, str]] = {}
    kills, children = 0, []
    arguments = command("query_counts", tiny_folder, tmp_path, "--checkpoint-minutes", "0", "--keep-weights")
    interrupted: set[str] = set()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    for moment in (0.5, 3):  # before the first result: nothing of that blocks the next start
        driver = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        driver.kill()
        driver.wait()
    while kills < 3:
        driver = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert driver.stdout is not None
        for line in driver.stdout:  # killed at a random time after training began, because start-up is not tested here
            if line.startswith("ray on"):
                break
        if kills:
            time.sleep(chance.uniform(2, 12))
        while not kills and not checkpoints(tmp_path):
            time.sleep(0.05)
        children += psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        interrupted = interrupted if kills else checkpoints(tmp_path)
        kills += 1
        now = finished(tmp_path)
        assert seen.items() <= now.items(), "a finished run was lost or trained again"
        seen = now
    completed = run(arguments)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert seen.items() <= finished(tmp_path).items()
    ours, theirs = (pd.read_csv(folder / "query_counts/tables/table_3.csv") for folder in (tmp_path, undisturbed[0]))
    pd.testing.assert_frame_equal(ours, theirs)
    assert not list(tmp_path.rglob(".*.unfinished"))
    for path in interrupted:
        report = json.loads((tmp_path / "query_counts/runs" / path / "report.json").read_text())
        assert report["resumed_after_epochs"] == 1
    assert interrupted and not (tmp_path / "query_counts/checkpoints").exists()
    assert len(list((tmp_path / "query_counts/runs").rglob("fold-0-*.safetensors"))) == 5 * 3
    # for a while, Ray's agents try to notify the dead driver
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive, f"left behind by the killed study: {alive}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_study_states_how_to_resume(tiny_folder, tmp_path, sigint, number, code):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        command("query_counts", tiny_folder, tmp_path),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.startswith("ray on"):
            break
    time.sleep(4)
    driver.send_signal(number)
    rest = driver.stdout.read()
    assert driver.wait(timeout=40) == code, rest
    assert "Run the same command again to resume" in rest
    assert "Table" not in rest and not list((tmp_path / "query_counts").rglob("*.csv"))


def test_the_search_prints_both_scores(tiny_folder, tmp_path):
    completed = run(command("search", tiny_folder, tmp_path, "--model", "abmil", "--trials", "4", "--inner-folds", "2"))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "not used for any selection" in completed.stdout and "optimistic, not a result" in completed.stdout
    outer = pd.read_csv(tmp_path / "search_abmil/tables/outer_folds.csv")
    assert outer["fold"].tolist() == [0, 1, 2]
    assert (tmp_path / "search_abmil/views/optuna_nested.db").exists()


def test_the_paper_protocol_prints_the_best_trial_and_labels_it_as_optimistic(tiny_folder, tmp_path):
    completed = run(command("search", tiny_folder, tmp_path, "--trials", "3", "--protocol", "paper"))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    tried = pd.read_csv(tmp_path / "search_survq/tables/trials_paper.csv")
    finished = tried[tried["state"] == "finished"]
    best = finished.loc[finished["c_index"].idxmax()]
    lines = completed.stdout.split("OPTIMISTIC, not a result\n\n")[1].splitlines()
    shown = dict(zip(lines[0].split(), lines[1].split(), strict=True))
    assert int(shown["trial"]) == best["trial"] and float(shown["c_index"]) == pytest.approx(best["c_index"], abs=1e-5)
