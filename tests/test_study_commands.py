"""Commands that end before any run is trained: Ray does not start."""

import os

from study_commands import command, run


def test_a_second_process_on_the_same_study_is_refused(tiny_folder, tmp_path):
    from survq.training.results import Results

    with Results(tmp_path / "query_counts").lock():
        second = run(command("query_counts", tiny_folder, tmp_path), timeout=60)
    assert second.returncode == 75
    assert f"process {os.getpid()}" in second.stderr


def test_user_errors_are_reported_without_a_traceback(tiny_folder, tmp_path):
    missing = run([*command("query_counts", tiny_folder, tmp_path), "--cohorts", "BRCA"], timeout=60)
    assert missing.returncode == 65
    assert "no cohort 'BRCA'" in missing.stderr and "'TINY'" in missing.stderr
    assert "Traceback" not in missing.stderr
    typo = run([*command("query_counts", tiny_folder, tmp_path), "--epoch", "3"], timeout=60)
    assert typo.returncode == 2 and "--epochs" in typo.stderr + typo.stdout
    (tmp_path / "file").write_text("not a folder")
    unwritable = run(command("query_counts", tiny_folder, tmp_path / "file" / "results"), timeout=60)
    assert unwritable.returncode == 74 and "Traceback" not in unwritable.stderr


def test_invalid_settings_are_refused_before_data_are_read(tiny_folder, tmp_path):
    few = run([*command("search", tiny_folder, tmp_path, "--trials", "-1", "--inner-folds", "1")], timeout=60)
    assert few.returncode == 2
    printed = " ".join(few.stderr.replace("│", " ").split())
    assert "--trials is -1; expected 1 or more; --inner-folds is 1; expected 2 or more" in printed
    workers = run([*command("query_counts", tiny_folder, tmp_path), "--workers-per-trial", "4"], timeout=60)
    assert workers.returncode == 64 and "cannot be distributed over 3 folds" in workers.stderr
    assert "ray on" not in workers.stdout and "features" not in workers.stdout
