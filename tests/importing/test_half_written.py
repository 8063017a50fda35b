"""Half a slide is refused wherever another file of the tool knows the number of patches."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import feature_tools as tools
import h5py
import numpy as np
import pytest
import torch
from feature_tools import COORDS, SINGLES, SLIDE

from survq.data.problems import DataError
from survq.importing.feature_layouts import inspect

PART = 32  # patches: one batch


def halve(file: Path) -> Path:
    """Leave what a tool has written when it is interrupted after the first batch: features and their coordinates."""
    with h5py.File(file, "r+") as store:
        for name in ("features", "coords"):
            part, attributes = store[name][:PART], dict(store[name].attrs)
            del store[name]
            store.create_dataset(name, data=part).attrs.update(attributes)
    return file


def halve_tensor(file: Path) -> Path:
    torch.save(torch.load(file, weights_only=True)[:PART].clone(), file)
    return file


def clam(at: Path) -> Path:
    file = halve(tools.clam(at, SLIDE, SINGLES, COORDS))
    (at / "pt_files" / f"{SLIDE}.pt").unlink()
    return file


def clam_without_patches(at: Path) -> Path:
    """The tensor of another slide is there."""
    tools.clam(at, SLIDE.replace("0001", "0002"), SINGLES, COORDS)
    file = clam(at)
    shutil.rmtree(at / "patches")
    return file


def clam_with_an_older_tensor(at: Path) -> Path:
    file = halve(tools.clam(at, SLIDE, SINGLES, COORDS))
    shutil.rmtree(at / "patches")
    return file


def a_tensor_beside_a_whole_h5(at: Path) -> Path:
    tools.clam(at, SLIDE, SINGLES, COORDS)
    shutil.rmtree(at / "patches")
    return halve_tensor(at / "pt_files" / f"{SLIDE}.pt")


def mmp(at: Path) -> Path:
    file = tools.mmp(at, SLIDE, SINGLES, COORDS, leading=False)
    tools.tensor(file.parent.parent / "feats_pt", SLIDE, SINGLES)
    return halve(file)


def slideflow(at: Path) -> Path:
    return halve_tensor(tools.slideflow(at, SLIDE, SINGLES, COORDS))


def slide2vec_without_tiles(at: Path) -> Path:
    file = tools.slide2vec(at, SLIDE, SINGLES, COORDS)
    shutil.rmtree(at / "tiles")
    return halve_tensor(file)


HALVES: dict[Callable[[Path], Path], str] = {
    clam: "patches/",
    clam_with_an_older_tensor: "pt_files/",
    a_tensor_beside_a_whole_h5: "h5_files/",
    (lambda at: halve(tools.trident(at, SLIDE, SINGLES, COORDS))): "_patches.h5",
    mmp: "feats_pt/",
    slideflow: ".index.npz",
    (lambda at: halve_tensor(tools.slide2vec(at, SLIDE, SINGLES, COORDS))): ".coordinates.npz",
    slide2vec_without_tiles: ".meta.json",
}


@pytest.mark.parametrize(("make", "companion"), HALVES.items())
def test_half_a_slide_is_refused(tmp_path, make, companion):
    file = make(tmp_path)
    with pytest.raises(DataError) as error:
        inspect(file)
    (problem,) = error.value.problems
    assert problem.startswith(f"{file}: 32 patches, but ") and companion in problem
    assert " has 70. Fix: extract it again, as it was probably interrupted; if " in problem


def test_a_missing_tensor_shows_an_interrupted_run_of_clam(tmp_path):
    file = clam_without_patches(tmp_path)
    with pytest.raises(DataError, match=r"pt_files, which is written last, and it has none. Fix: extract it again"):
        inspect(file)
    shutil.rmtree(tmp_path / "pt_files")  # the cure
    assert inspect(file).patches == PART


def test_a_whole_slide_without_its_tensor_is_accepted_where_its_patches_are_known(tmp_path):
    tools.clam(tmp_path, SLIDE.replace("0001", "0002"), SINGLES, COORDS)
    file = tools.clam(tmp_path, SLIDE, SINGLES, COORDS)
    (tmp_path / "pt_files" / f"{SLIDE}.pt").unlink()
    assert inspect(file).patches == 70


@pytest.mark.parametrize("damage", ["index", "twin", "note"])
def test_damaged_companions_know_nothing(tmp_path, damage):
    if damage == "index":
        file = tools.slideflow(tmp_path, SLIDE, SINGLES, COORDS)
        (tmp_path / f"{SLIDE}.index.npz").write_bytes(b"PK")
    elif damage == "note":
        file = tools.slide2vec(tmp_path, SLIDE, SINGLES, COORDS)
        file.with_suffix(".meta.json").write_text(json.dumps({"num_tiles": "many"}))
    else:
        file = tools.clam(tmp_path, SLIDE, SINGLES, COORDS)
        (tmp_path / "pt_files" / f"{SLIDE}.pt").write_bytes(b"")
    assert inspect(file).patches == 70


def test_moving_the_companion_away_is_a_cure(tmp_path):
    file = halve(tools.trident(tmp_path, SLIDE, SINGLES, COORDS))
    shutil.rmtree(file.parent.parent / "patches")
    assert inspect(file).patches == PART
    assert np.array_equal(h5py.File(file)["coords"][()], COORDS[:PART])
