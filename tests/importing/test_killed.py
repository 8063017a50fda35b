"""Imports killed at any moment: visible files are complete, and the same command repairs everything."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from survq.cli import main
from survq.data.write import Slide, write_features

LABELS = "datasets_csv/metadata/tcga_blca.csv"
EXPRESSION = "datasets_csv/raw_rna_data/xena/blca/rna_clean.csv"
FORK = multiprocessing.get_context("fork")


def change(source: Path) -> None:
    """Change the tables: the labels lack one case and exclude another, the expression has an unknown id."""
    labels, expression = source / LABELS, source / EXPRESSION
    lines = [line for line in labels.read_text().splitlines() if "TCGA-BB-0004" not in line]
    labels.write_text("\n".join(lines).replace("AA,10.5,1", "AA,0,1") + "\n")
    expression.write_text(expression.read_text().replace("TCGA-NA-0005,", "TCGA-XX-0005,"))
    for file in source.glob("splits/**/*.csv"):
        file.write_text(file.read_text().replace("TCGA-BB-0004", ""))


def survpath(source: Path, data: Path) -> list[str]:
    return ["import", "survpath", str(source), str(data)]


def labels(source: Path, data: Path) -> list[str]:
    return ["import", "labels", str(source / LABELS), str(data), "--cohort", "BLCA"]


def expression(source: Path, data: Path) -> list[str]:
    return ["import", "expression", str(source / EXPRESSION), str(data), "--cohort", "BLCA"]


@pytest.fixture
def before(request, small_survpath, tmp_path) -> Path:
    """A data folder before the import: missing, or with all parts of a cohort, some of them for unknown ids."""
    data = tmp_path / "before"
    if request.param == "existing":
        assert main(survpath(small_survpath, data)) == 0
        cases = ["TCGA-AA-0000", "TCGA-BB-0004", "TCGA-ZZ-0000"]
        write_features(
            data / "BLCA/features", [Slide(f"{case}-01Z-00-DX1", case, np.ones((2, 4), np.float16)) for case in cases]
        )
        assert main(survpath(small_survpath, data)) == 0
        change(small_survpath)
    return data


def copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    if folder.exists():
        shutil.copytree(folder, to)
    return to


def killed_at(number: int, arguments: list[str]) -> None:
    """Run a command, and die before the `number`-th creation, renaming or removal of a file or folder."""
    count = 0

    def dying(operation):
        def counted(*given, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*given, **options)

        return counted

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (os, "open")):
        setattr(owner, name, dying(getattr(owner, name)))
    os._exit(main(arguments))


def check_complete(folder: Path, tree, *states: dict[str, str]) -> None:
    """Every visible file has its content of one of these states."""
    for path, content in tree(folder).items():
        if not any(part.startswith(".") for part in Path(path).parts):
            assert content in [state.get(path) for state in states], path


@pytest.mark.parametrize("before", ["existing"], indirect=True)
@pytest.mark.parametrize("command", [survpath, labels, expression], ids=lambda command: command.__name__)
def test_an_import_killed_at_any_operation(small_survpath, before, command, tmp_path, tree, capsys):
    data = copy(before, tmp_path / "data")
    old = tree(data)
    assert main(command(small_survpath, data)) == 0
    undisturbed = tree(data)
    assert undisturbed != old
    for number in range(1, 100):
        copy(before, data)
        process = FORK.Process(target=killed_at, args=(number, command(small_survpath, data)))
        process.start()
        process.join(60)
        check_complete(data, tree, old, undisturbed)
        assert main(command(small_survpath, data)) == 0
        assert tree(data) == undisturbed, f"killed at operation {number}"
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert number > 5


@pytest.mark.parametrize("before", ["new", "existing"], indirect=True)
def test_an_import_killed_at_random_moments(small_survpath, before, tmp_path, tree, capsys):
    data = copy(before, tmp_path / "data")
    begin = time.monotonic()
    assert main(survpath(small_survpath, data)) == 0
    takes = time.monotonic() - begin
    undisturbed = tree(data)
    copy(before, data)
    draw = random.Random(0)
    kills = 0
    for _ in range(15):
        process = FORK.Process(target=main, args=(survpath(small_survpath, data),))
        process.start()
        process.join(draw.uniform(0, takes))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills > 5, "too few kills came in time: the test shows nothing"
    assert main(survpath(small_survpath, data)) == 0
    assert tree(data) == undisturbed
