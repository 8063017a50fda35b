"""`survq extract` on Ray: with good and bad slides, killed and restarted."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import timm
import torch
from safetensors.torch import save_file
from slide_files import flat, stained, write_tiff
from slide_store import SlideStore

from survq.cli import main
from survq.data.batch import Preprocessing
from survq.data.cohort import Cohort
from survq.data.folds import make_folds
from survq.data.gene_sets import GeneSets
from survq.data.write import write_cohort
from survq.models import MODELS

ROOT = Path(__file__).resolve().parents[2]
CASES = [f"TCGA-AA-{number:04}" for number in range(12)]


def name(number: int) -> str:
    return f"{CASES[number]}-01Z-00-DX1"


def cohort_in(folder) -> None:
    index = pd.Index(CASES, name="case_id")
    cases = pd.DataFrame({"time": np.arange(12) + 1.5, "event": np.arange(12) % 2 == 0}, index=index)
    expression = pd.DataFrame(
        np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32), index=index, columns=list("ABCD")
    )
    write_cohort(
        folder,
        "X",
        cases=cases,
        expression=expression,
        gene_sets={"pathways": GeneSets(("p", "q"), (("A", "B"), ("C",)))},
    )


@pytest.fixture
def data(tmp_path):
    cohort_in(tmp_path / "data")
    return tmp_path / "data"


def features_of(data) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((data / "X" / "features").iterdir())}


def test_good_slides_are_written_and_bad_ones_listed(ray_session, tmp_path, data, capsys):
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tiff(slides / f"{name(0)}.tiff", [stained(5000, 4000)], 0.5)
    write_tiff(slides / f"{name(1)}.tiff", [stained(3000, 3000)], 0.25)
    write_tiff(slides / f"{name(2)}.tiff", [flat(900, 900, (240, 240, 240))], 0.5)
    (slides / f"{name(3)}.svs").write_text("no slide")
    (slides / name(4)).mkdir()
    os.mkfifo(slides / name(4) / "Slidedat.ini")  # a pipe without a writer: reading it blocks forever
    (slides / f"{name(4)}.mrxs").write_bytes(b"\xff\xd8\xff\xd9")
    write_tiff(slides / "TCGA-ZZ-0000-01Z.tiff", [flat(900, 900, (240, 240, 240))], 0.5)
    command = ["extract", str(slides), str(data), "--cohort", "X", "--encoder", "tiny", "--timeout", "15"]

    assert main(command) == 65
    output = capsys.readouterr().out
    assert "X: 6 slides: 2 written, 0 already stored, 3 failed, 1 skipped; tiny@" in output
    assert f"{name(2)}: no tissue found. Fix: " in output
    assert f"{name(3)}: cannot be opened" in output
    assert f"{name(4)}: no data for 15 seconds. Fix: " in output
    assert "TCGA-ZZ-0000-01Z: the case is not in cases.parquet" in output
    index = SlideStore(data / "X" / "features").index
    assert set(index.index) == {name(0), name(1)}
    assert f"{index['patches'].sum():,} patches" in output
    assert len(list((data / "X" / "overviews").glob("*.jpg"))) == 3


def test_from_a_real_slide_to_a_risk(ray_session, real_data, tmp_path, data, capsys):
    """Slide, patches, features of a ViT, cohort, SurvQ: risk of the case."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for number, file in enumerate(("CMU-1-Small-Region.svs", "stritt_dapi_40x.ndpi")):
        (slides / f"{name(number)}{file[-5:] if number else '.svs'}").symlink_to(real_data / "slides" / file)
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.safetensors")
    command = ["extract", str(slides), str(data), "--cohort", "X", "--encoder", "timm:vit_tiny_patch16_224"]
    assert main([*command, "--weights", str(tmp_path / "vit.safetensors")]) == 65
    assert f"{name(1)}: its background is dark, as in fluorescence" in capsys.readouterr().out
    cohort = Cohort.load(data, "X")
    (slide,) = cohort.slides.to_dict("records")
    assert (slide["width"], slide["patch_size"], slide["magnification"]) == (192, 224, 20)
    assert 45 <= slide["patches"] <= 60
    assert slide["encoder"].startswith("timm:vit_tiny_patch16_224@")

    bag = cohort.bags()[CASES[0]]
    assert len(torch.unique(bag, dim=0)) == len(bag)  # all patches differ
    batch = Preprocessing.fit(cohort, make_folds(cohort.cases, 2)[0]).table(cohort).batch([CASES[0]], [bag])
    torch.manual_seed(0)
    prediction = MODELS["survq"](cohort.spec, width=16).eval()(batch)
    assert torch.isfinite(prediction.risk).all()
    assert prediction.hazards.shape == (1, 4)


@pytest.mark.faults
def test_an_encoder_whose_process_dies_is_replaced(ray_session, tmp_path, data, capsys):
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(3):
        write_tiff(slides / f"{name(number)}.tiff", [stained(6000, 6000, seed=number)], 0.5)
    kills = []

    def kill_one():
        until = time.monotonic() + 200
        while time.monotonic() < until and not kills:
            if list((data / "X" / "features").glob("*.parquet")):
                for process in psutil.Process().children(recursive=True):
                    if any("MapWorker" in part for part in process.cmdline()):
                        process.kill()
                        kills.append(process.pid)
                        break
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert main(["extract", str(slides), str(data), "--cohort", "X", "--encoder", "tiny"]) == 0
    killer.join()
    assert kills
    assert "3 written, 0 already stored, 0 failed" in capsys.readouterr().out


def start(*arguments: str) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-m", "survq.cli", "extract", *arguments]
    told = environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.faults
def test_a_killed_and_restarted_extraction_gives_the_same_store(tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(4):
        write_tiff(slides / f"{name(number)}.tiff", [stained(6000, 4000 + 500 * number, seed=number)], 0.5)
    for folder in ("undisturbed", "killed"):
        cohort_in(tmp_path / folder)

    def arguments(folder: str) -> list[str]:
        return [str(slides), str(tmp_path / folder), "--cohort", "X", "--encoder", "tiny"]

    process = start(*arguments("killed"))
    features = tmp_path / "killed" / "X" / "features"
    until = time.monotonic() + 240
    while not list(features.glob("*.parquet")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    stored = len(list(features.glob("*.parquet")))
    assert 1 <= stored < 4
    (features / f".{name(3)}.parquet.x.unfinished").write_text("a partial slide, as if killed while writing")

    again = start(*arguments("killed"))
    assert f"{4 - stored} written, {stored} already stored" in again.communicate(timeout=300)[0].decode()
    whole = start(*arguments("undisturbed"))
    out, err = whole.communicate(timeout=300)
    assert "4 written, 0 already stored" in out.decode()
    assert not [line for line in err.decode().splitlines() if not line.startswith("  ... ")], err
    assert features_of(tmp_path / "killed") == features_of(tmp_path / "undisturbed")
    # Ray's agents first try for a while to reach the dead driver
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive, f"left behind by the killed run: {alive}"
