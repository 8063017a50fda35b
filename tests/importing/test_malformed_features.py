"""Malformed, damaged and hostile feature files are refused with a fix, and nothing in them is executed."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import feature_tools as tools
import h5py
import numpy as np
import pytest
import torch
from feature_tools import COORDS, GRID, HALVES, SINGLES, SLIDE, edit, h5

from survq.data.problems import DataError
from survq.importing.feature_layouts import inspect, read


def replace(store: h5py.File, name: str, data, **options) -> None:
    del store[name]
    store.create_dataset(name, data=data, **options)


def pt(at: Path, content: object, **options) -> Path:
    torch.save(content, at / f"{SLIDE}.pt", **options)
    return at / f"{SLIDE}.pt"


def cut(file: Path, bytes: int) -> Path:
    os.truncate(file, file.stat().st_size - bytes)
    return file


def written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 131072\n"


def compressed(store: h5py.File) -> None:
    """By Blosc, whose plugin h5py lacks."""
    del store["features"]
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_chunk((70, 16))
    create.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 2, 2240, 5, 1, 1))
    space = h5py.h5s.create_simple((70, 16))
    made = h5py.h5d.create(store.id, b"features", h5py.h5t.IEEE_F16LE, space, create)
    made.write_direct_chunk((0, 0), bytes(500), filter_mask=0)


class Hostile:
    """Creates a file if it is ever unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


class HostileShell(Hostile):
    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def graph(at: Path) -> Path:
    """A pickle that needs Patch-GCN's class, as torch_geometric writes it."""
    file = pt(at, torch.zeros(3, 4))
    names = {b"ctorch._utils\n_rebuild_tensor_v2\n": b"ctorch_geometric.data.data\nData\n"}
    with zipfile.ZipFile(file) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(file, "w") as new:
        for name, content in parts.items():
            for before, after in names.items():
                content = content.replace(before, after)
            new.writestr(name, content)
    return file


def outside(at: Path) -> Path:
    secret = at / "secret.h5"
    with h5py.File(secret, "w") as store:
        store["features"] = HALVES

    def link(store):
        del store["features"]
        store["features"] = h5py.ExternalLink(str(secret), "/features")

    return h5(at, link)


def raw_bytes_of_another_file(at: Path) -> Path:
    secret = written(at / "secret", os.urandom(70 * 16 * 2))

    def link(store):
        del store["features"]
        store.create_dataset("features", (70, 16), "f2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])

    return h5(at, link)


def unfinished(store: h5py.File) -> None:
    del store["features"]
    data = store.create_dataset("features", (70, 16), "f2", chunks=(10, 16))
    data[:30] = HALVES[:30]


def with_nan(at: int) -> np.ndarray:
    features = SINGLES.copy()
    features[at, 3] = np.nan
    return features


MALFORMED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "h5 truncated": (
        lambda at: cut(h5(at), 4000),
        r"cannot be read \(.*truncated file.*Fix: extract or copy it again",
    ),
    "h5 empty": (lambda at: written(at / f"{SLIDE}.h5", b""), "is empty. Fix: extract or copy it again"),
    "h5 that is a web page": (
        lambda at: written(at / f"{SLIDE}.h5", b"<html>404</html>" * 99),
        "is a web page. Fix: download it again; the server may ask to log in",
    ),
    "pt that is a web page": (
        lambda at: written(at / f"{SLIDE}.pt", b"\n<!DOCTYPE html><html>" * 99),
        "is a web page. Fix: download it again",
    ),
    "h5 that is a pointer": (
        lambda at: written(at / f"{SLIDE}.h5", POINTER),
        "is a pointer of Git LFS, .* `git lfs pull`",
    ),
    "pt that is a pointer": (
        lambda at: written(at / f"{SLIDE}.pt", POINTER),
        "is a pointer of Git LFS, .* `git lfs pull`",
    ),
    "h5 without tissue": (
        lambda at: tools.trident(at, SLIDE, np.zeros((0, 16), np.float16), np.zeros((0, 2))),
        "holds no patches: no tissue was found. Fix: remove it, or skip and list it with --skip-bad",
    ),
    "h5 without tissue, shape (0,)": (
        lambda at: tools.trident(at, SLIDE, np.zeros((0,), np.float16), np.zeros((0, 2))),
        "holds no patches",
    ),
    "TRIDENT's slide embedding": (
        lambda at: h5(at, lambda store: replace(store, "features", HALVES[0])),
        "one vector for the whole slide or patient, not features of its patches. Fix: import the folder",
    ),
    "STAMP's slide embedding": (
        lambda at: edit(
            tools.stamp(at, SLIDE, HALVES[:1], GRID[:1] * 256.0), lambda s: s.attrs.update({"feat_type": "slide"})
        ),
        "one vector for the whole slide",
    ),
    "tensor of one dimension": (lambda at: pt(at, torch.zeros(1280)), "one vector for the whole slide"),
    "too many dimensions": (lambda at: pt(at, torch.zeros(2, 3, 4)), r"shape \(2, 3, 4\); expected \(patch, feature\)"),
    "leading 2": (
        lambda at: h5(at, lambda store: replace(store, "features", np.stack([HALVES, HALVES]))),
        r"shape \(2, 70, 16\)",
    ),
    "whole numbers": (lambda at: pt(at, torch.zeros(3, 4, dtype=torch.int64)), "type int64; expected one of float16"),
    "whole numbers in h5": (
        lambda at: h5(at, lambda store: replace(store, "features", GRID)),
        "type int64; expected one of float16",
    ),
    "pixels": (
        lambda at: edit(h5(at), lambda s: (s.move("features", "imgs"), s.move("coords", "places"))),
        r"holds 'imgs' \(70, 16\), 'places' \(70, 2\); expected features or feats. Fix: save the features of patches",
    ),
    "features that are a group": (
        lambda at: h5(at, lambda store: (store.__delitem__("features"), store.create_group("features/deep"))),
        "features is not stored in this file, but is a link or a group",
    ),
    "link to another file": (outside, "features is not stored in this file"),
    "bytes of another file": (raw_bytes_of_another_file, "features is not stored in this file"),
    "partly written": (lambda at: h5(at, unfinished), "features is incomplete. Fix: extract"),
    "never written": (
        lambda at: h5(at, lambda s: (s.__delitem__("features"), s.create_dataset("features", (70, 16), "f2"))),
        "features is incomplete",
    ),
    "too large": (
        lambda at: h5(
            at,
            lambda s: (s.__delitem__("features"), s.create_dataset("features", (10**9, 16), "f4", chunks=(1000, 16))),
        ),
        r"1,000,000,000 patches x 16 features: more than the limit of 2 GiB",
    ),
    "fewer features than coordinates": (
        lambda at: h5(at, lambda store: replace(store, "features", HALVES[:50])),
        r"coordinates of shape \(70, 2\) for 50 patches. Fix: extract it again: writing was probably interrupted",
    ),
    "coordinates of three columns": (
        lambda at: h5(at, lambda store: replace(store, "coords", np.zeros((70, 3)))),
        r"coordinates of shape \(70, 3\)",
    ),
    "coordinates that are NaN": (
        lambda at: h5(at, lambda store: replace(store, "coords", np.full((70, 2), np.nan))),
        r"the coordinates of patch 0 are \[nan, nan\]; expected level-0 pixels",
    ),
    "coordinates between pixels": (
        lambda at: h5(at, lambda store: replace(store, "coords", COORDS + 0.5)),
        "coordinates of patch 0 .* expected level-0 pixels",
    ),
    "coordinates of another run": (
        lambda at: tools.slide2vec(at, SLIDE, SINGLES[:9], COORDS),
        r"9 patches, but .*tiles/.*coordinates.npz has 70. Fix: extract it again, .* of another run, move it away",
    ),
    "coordinates truncated": (
        lambda at: (
            tools.slide2vec(at, SLIDE, SINGLES, COORDS),
            cut(at / f"tiles/{SLIDE}.coordinates.npz", 100),
        )[0],
        r"the coordinates cannot be read",
    ),
    "NaN": (lambda at: tools.tensor(at, SLIDE, with_nan(37)), "a feature of patch 37 is not finite. Fix: extract"),
    "NaN in half precision": (
        lambda at: tools.trident(at, SLIDE, with_nan(37).astype(np.float16), COORDS),
        "a feature of patch 37 is not finite. Fix: extract it again, in float32",
    ),
    "infinite": (
        lambda at: tools.tensor(at, SLIDE, np.where(GRID[:, :1] == 3, np.float32(np.inf), SINGLES)),
        "a feature of patch 3 is not finite",
    ),
    "beyond half precision": (
        lambda at: tools.tensor(at, SLIDE, SINGLES * np.float32(-1e5)),
        r"patch \d+ has the feature -?\d+.*, beyond 65504, the largest value in half precision. Fix: check the scale",
    ),
    "all zero": (lambda at: tools.tensor(at, SLIDE, SINGLES * 0), "all features of 70 of 70 patches are 0.*Fix: ext"),
    "padded": (
        lambda at: h5(at, lambda store: store["features"].__setitem__(slice(50, None), 0)),
        "all features of 20 of 70 patches are 0, the first is patch 50. Fix: .* if a bag was padded .* save it without",
    ),
    "all equal": (
        lambda at: tools.tensor(at, SLIDE, SINGLES[:1].repeat(70, axis=0)),
        "all 70 patches have the same features. Fix: extract it again",
    ),
    "pt truncated": (lambda at: cut(pt(at, torch.zeros(70, 16)), 100), "is truncated. Fix: extract or copy it again"),
    "pt empty": (lambda at: written(at / f"{SLIDE}.pt", b""), "is empty. Fix: extract or copy it again"),
    "pt that is text": (
        lambda at: written(at / f"{SLIDE}.pt", b"hello"),
        "was not written by torch.save, or is truncated",
    ),
    "dict": (
        lambda at: pt(at, {"uni": torch.zeros(3, 4), "coords": 1}),
        r"holds 'uni' \(3, 4\), 'coords'; expected features or feats. Fix: save the features of patches under",
    ),
    "coordinates and unknown features": (
        lambda at: h5(at, lambda store: store.move("features", "uni")),
        r"holds 'coords' \(70, 2\), 'uni' \(70, 16\); expected features or feats",
    ),
    "swapped axes": (
        lambda at: h5(at, lambda store: replace(store, "features", HALVES.T)),
        r"features of shape \(16, 70\) for the 70 patches of coords: their axes are swapped. Fix: save them as",
    ),
    "swapped axes of a tensor": (
        lambda at: pt(tools.clam(at, SLIDE, SINGLES, COORDS).parent, torch.from_numpy(SINGLES).T.contiguous()),
        r"features of shape \(16, 70\) for the 70 patches of .*patches/.*h5: their axes are swapped. Fix: save them as",
    ),
    "sparse tensor": (
        lambda at: pt(at, torch.from_numpy(SINGLES).to_sparse()),
        r"a sparse tensor. Fix: save its to_dense",
    ),
    "compressed by a missing filter": (
        lambda at: h5(at, compressed),
        "features is compressed by the HDF5 filter 32001, which is not installed. Fix: pip install hdf5plugin",
    ),
    "list": (lambda at: pt(at, [torch.zeros(3, 4)]), "holds list, not a tensor"),
    "array of objects": (
        lambda at: pt(at, np.array([[{}]])),
        "asks to create or call objects, which survq never does",
    ),
    "Patch-GCN's graph": (graph, "is a graph of Patch-GCN, not a tensor. Fix: import the features that the graph"),
    "hostile pickle": (
        lambda at: pt(at, Hostile(at / "trace")),
        r"asks to create or call .*, which survq never does. Fix: if you trust it, load it yourself",
    ),
    "hostile pickle that calls the shell": (
        lambda at: pt(at, HostileShell(at / "trace")),
        r"asks to create or call posix.system, which survq never does",
    ),
    "hostile pickle in the old torch format": (
        lambda at: pt(at, HostileShell(at / "trace"), _use_new_zipfile_serialization=False),
        r"asks to create or call posix.system",
    ),
    "hostile plain pickle": (
        lambda at: written(at / f"{SLIDE}.pt", pickle.dumps(HostileShell(at / "trace"), protocol=2)),
        r"asks to create or call posix.system|was not written by torch.save",
    ),
}


@pytest.mark.parametrize(("make", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_are_refused_with_a_fix(tmp_path, make, message):
    file = make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        inspect(file)
        read(file)
    (problem,) = error.value.problems
    assert problem.startswith(str(tmp_path)) and "Fix: " in problem and problem.endswith(".")
    assert not (tmp_path / "trace").exists()


def test_the_hostile_pickles_are_real(tmp_path):
    """They do create their file if loaded without `weights_only`, so the tests above are meaningful."""
    for kind in (Hostile, HostileShell):
        file = pt(tmp_path, kind(tmp_path / kind.__name__))
        torch.load(file, weights_only=False)
        assert (tmp_path / kind.__name__).exists()


@pytest.mark.parametrize("write", [tools.trident, tools.trident_pt, tools.clam], ids=lambda write: write.__name__)
def test_damage_raises_only_data_errors(tmp_path, write):
    """Bytes overwritten anywhere, 60 times: the file is read, or refused with a DataError."""
    file = write(tmp_path, SLIDE, SINGLES, COORDS)
    whole, refused = file.read_bytes(), 0
    for seed in range(60):
        damage = np.random.default_rng(seed)
        content = bytearray(whole)
        at = int(damage.integers(0, min(len(whole), 3000)))
        content[at : at + 8] = damage.bytes(8)
        file.write_bytes(bytes(content))
        try:
            inspect(file)
            read(file)
        except DataError:
            refused += 1
    assert refused > 5
