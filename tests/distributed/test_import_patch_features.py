"""`survq import features` on Ray: the command, a bucket, and processes killed at any moment."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import psutil
import pytest
from pyarrow import fs
from slide_store import SlideStore

from survq.cli import main
from survq.data.cohort import Cohort
from survq.data.feature_import import locked_store
from survq.data.location import Location
from survq.data.write import file_name, write_cohort
from survq.importing.patch_features import import_features

ROOT = Path(__file__).resolve().parents[2]
CASES = [f"TCGA-AA-{number:04d}" for number in range(40)]
PATCHES = {case: 300 + 90 * number for number, case in enumerate(CASES)}  # 80 MB in total


def write_h5(folder: Path, case: str, features: np.ndarray) -> Path:
    """A file as CLAM and TRIDENT write it, but without chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{case}-01Z-00-DX1.X.h5", "w") as store:
        data = store.create_dataset("features", data=features)
        data.attrs["encoder"] = "uni_v1"
        data = store.create_dataset("coords", data=np.arange(2 * len(features)).reshape(-1, 2))
        data.attrs.update({"patch_size_level0": 448, "level0_magnification": 40})
    return folder / f"{case}-01Z-00-DX1.X.h5"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trident")
    draw = np.random.default_rng(0)
    for case, patches in PATCHES.items():
        write_h5(folder / "features_uni_v1", case, draw.standard_normal((patches, 512), np.float32).astype(np.float16))
    return folder


def make_data(folder: Path, cases=CASES) -> Path:
    table = pd.DataFrame({"time": 9.0, "event": True}, index=pd.Index(cases, name="case_id"))
    write_cohort(folder, "BLCA", cases=table)
    return folder


def command(source: Path, data: Path, *options: str) -> list[str]:
    return ["import", "features", str(source), str(data), "--cohort", "BLCA", *options]


@pytest.fixture(scope="module")
def undisturbed(ray_session, source, tmp_path_factory) -> Path:
    data = make_data(tmp_path_factory.mktemp("undisturbed"))
    imported = import_features(source, data, "BLCA")
    assert {result.state for result in imported.results} == {"written"}
    return data


def test_the_store_equals_the_files(undisturbed, source):
    cohort = Cohort.load(undisturbed, "BLCA")
    assert cohort.has_slides.all() and cohort.spec.patch_features == 512
    store = SlideStore(cohort.features)
    for case, slides in cohort.slides.groupby("case_id"):
        (slide,) = slides["slide_id"]
        with h5py.File(source / f"features_uni_v1/{slide}.h5") as file:
            assert np.array_equal(store.read(slide), file["features"][()])
            assert np.array_equal(store.coordinates(slide), file["coords"][()])
        assert slides["patches"].item() == PATCHES[case]


def test_the_command_from_problems_to_a_complete_store(ray_session, source, tmp_path, tree, capsys):
    data = make_data(tmp_path / "data", CASES[:6])
    few, draw = tmp_path / "few", np.random.default_rng(1)
    for case in CASES[:4]:
        write_h5(few, case, draw.standard_normal((5, 8)).astype(np.float16))
    write_h5(few, "TCGA-ZZ-0001", np.ones((5, 8), np.float16))
    cut = write_h5(few, CASES[4], np.ones((5, 8), np.float16))
    os.truncate(cut, 1000)
    nan = write_h5(few, CASES[5], np.full((5, 8), np.nan, np.float16))
    before = tree(tmp_path)

    assert main(command(few, data)) == 65  # a problem visible without reading features: nothing is written
    assert "cannot be read" in capsys.readouterr().err
    assert tree(tmp_path) == before

    cut.unlink()
    assert main(command(few, data)) == 65  # a problem of the features: the other slides are written
    out = capsys.readouterr().out
    assert "BLCA: 4 slides written, 20 patches, 320 B" in out
    assert "skipped, the case is not in cases.parquet: 1" in out
    assert f"  - {nan}: a feature of patch 0 is not finite. Fix: extract it again" in out
    assert main(["check", str(data), "--deep"]) == 0

    write_h5(few, CASES[5], draw.standard_normal((5, 8)).astype(np.float32))
    capsys.readouterr()
    assert main(command(few, data)) == 0  # the same command resumes
    out = capsys.readouterr().out
    assert "BLCA: 1 slides written, 5 patches" in out and "4 already stored" in out
    assert "uni_v1 features, 8 wide; 5 of 6 cases have slides" in out
    assert f"Next: survq check {data}" in out
    skipped = pd.read_csv(data / "BLCA/features/skipped.csv")
    assert skipped["case_id"].tolist() == ["TCGA-ZZ-0001"]
    dropped = pd.read_csv(data / "BLCA/dropped.csv")
    nothing = "neither slides nor expression"
    assert dropped.to_numpy().tolist() == [[CASES[4], nothing], ["TCGA-ZZ-0001", "slides without a label"]]

    write_h5(few, CASES[4], np.zeros((0, 8), np.float16))
    assert main(command(few, data)) == 65
    assert "holds no patch" in capsys.readouterr().err
    assert main(command(few, data, "--skip-bad")) == 0
    out = capsys.readouterr().out
    assert "failed: 1" in out and "holds no patch" in out
    assert len(pd.read_csv(data / "BLCA/features/skipped.csv")) == 2

    files = tree(data)
    assert main(command(few, data, "--skip-bad")) == 0
    assert tree(data) == files

    original = next(few.glob(f"{CASES[3]}*"))
    shutil.copyfile(original, copy := few / f"{original.stem} (1).h5")
    capsys.readouterr()
    assert main(command(few, data, "--skip-bad")) == 0  # a copy by a file manager
    out = capsys.readouterr().out
    assert f"  - {copy.name}: holds the same features as slide {original.stem!r}. Fix: remove the copy." in out
    assert {name for name in tree(data) if name.endswith("parquet")} == {n for n in files if n.endswith("parquet")}


def test_one_import_at_a_time(ray_session, source, tmp_path, tree, capsys):
    data = make_data(tmp_path)
    with locked_store(Location.at(data) / "BLCA"):
        before = tree(tmp_path)
        assert main(command(source, data)) == 75
        assert tree(tmp_path) == before
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err


def test_labels_must_be_imported_first(tmp_path, source, capsys, tree):
    assert main(command(source, tmp_path)) == 65
    assert "import its labels first, with `survq import labels`" in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_an_unwritable_store_exits_with_74(ray_session, source, tmp_path, capsys):
    data = make_data(tmp_path)
    (data / "BLCA/features" / file_name(f"{CASES[7]}-01Z-00-DX1.X")).mkdir(parents=True)
    assert main(command(source, data)) == 74
    assert re.search(r"survq: .*/features: cannot be written \(.*Is a directory", capsys.readouterr().err)
    deadline = time.monotonic() + 60  # for running tasks to end
    while (left := list(data.rglob("*.unfinished"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def test_into_a_bucket(ray_session, undisturbed, source, tmp_path, tree):
    """A file system that survq does not recognise as local."""
    (make_data(tmp_path / "inside") / "BLCA/features").mkdir()  # needed here, though not in a real bucket
    bucket = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "inside")
    import_features(source, bucket, "BLCA")
    assert tree(tmp_path / "inside") == tree(undisturbed)
    again = import_features(source, bucket, "BLCA")
    assert {result.state for result in again.results} == {"found"}


class Killer(threading.Thread):
    """Kills child processes for which `wanted` is true, at most `most`, until it is stopped."""

    def __init__(self, wanted: Callable[[psutil.Process], bool], most: int):
        super().__init__()
        self.wanted, self.most = wanted, most
        self.kills, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01) and self.kills < self.most:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if process.name().startswith("ray::") and self.wanted(process):
                        process.kill()
                        self.kills += 1
                        break

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def test_killed_workers_are_retried(ray_session, undisturbed, source, tmp_path, tree):
    data = make_data(tmp_path)
    with Killer(
        lambda process: "_import_batch" in process.name() and bool(list(data.rglob("*.parquet"))), most=3
    ) as killer:
        imported = import_features(source, data, "BLCA")
    assert killer.kills, "no worker was killed: the test shows nothing"
    assert not imported.failed
    assert tree(data) == tree(undisturbed)


@pytest.mark.timeout(200)
def test_a_file_that_crashes_every_reader_fails_alone(ray_session, undisturbed, source, tmp_path, tree):
    """A damaged file may crash a library written in C."""
    data, few = make_data(tmp_path / "data"), tmp_path / "few"
    for number, case in enumerate(CASES[:5]):
        write_h5(few, case, np.random.default_rng(number).random((50, 512)).astype(np.float16))
    deadly = write_h5(few, CASES[5], np.ones((60_000, 512), np.float32))
    with Killer(lambda process: any(file.path == str(deadly) for file in process.open_files()), most=1000) as killer:
        imported = import_features(few, data, "BLCA")
    assert killer.kills > 1
    (failed,) = imported.failed
    assert failed.reason.startswith(f"{deadly}: its reader process died repeatedly. Fix: ")
    assert sorted(SlideStore(data / "BLCA/features").index["case_id"]) == CASES[:5]
    assert not list(data.rglob(".*"))


@pytest.mark.faults
def test_an_import_killed_at_any_moment_and_restarted_gives_the_same_bits(undisturbed, source, tmp_path, tree):
    """SIGKILL of all processes, as in a power failure; then the same command again."""
    data, chance, seen = make_data(tmp_path), random.Random(5), 0
    arguments = [sys.executable, "-m", "survq.cli", *command(source, data)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    features, whole = data / "BLCA/features", tree(undisturbed)
    children: list[psutil.Process] = []
    for _ in range(2):
        driver = psutil.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(features.glob("*.parquet"))) <= seen and driver.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        tasks = [driver, *driver.children(recursive=True)]
        for process in tasks:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        children += tasks
        psutil.wait_procs(tasks, timeout=60)
        stored = [f"BLCA/features/{file.name}" for file in features.glob("*.parquet")]
        assert seen < len(stored) < len(CASES), "killed too late or too early: the test shows nothing"
        found = tree(data)
        assert all(found[name] == whole[name] for name in stored)
        seen = len(stored)
    ended = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(CASES) - seen} slides written" in ended.stdout and f"{seen} already stored" in ended.stdout
    assert tree(data) == whole
    assert not psutil.wait_procs(children, timeout=60)[1]
