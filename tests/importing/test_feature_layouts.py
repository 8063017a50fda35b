"""Files of every tool are read correctly: features to the bit, coordinates, patch size; other files are refused."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import feature_tools as tools
import h5py
import numpy as np
import pytest
import torch

from survq.data.problems import DataError
from survq.importing.feature_layouts import inspect, read

SLIDE = "TCGA-AA-0001-01Z-00-DX1.6A7E8C30-1111-2222"
random = np.random.default_rng(0)
HALVES = random.normal(size=(70, 16)).astype(np.float16)
SINGLES = HALVES.astype(np.float32)
GRID = np.stack(np.meshgrid(np.arange(10), np.arange(7)), axis=-1).reshape(-1, 2)
COORDS = GRID * 448 + 1000
MPP = 0.25

LAYOUTS: dict[str, tuple[Callable[[Path], Path], tuple]] = {
    # writer: (layout, encoder, patch size, magnification, coordinates)
    "TRIDENT, half": (lambda at: tools.trident(at, SLIDE, HALVES, COORDS), ("TRIDENT", "uni_v1", 448, 40.0, COORDS)),
    "TRIDENT, single": (
        lambda at: tools.trident(at, SLIDE, SINGLES, COORDS),
        ("TRIDENT", "uni_v1", 448, 40.0, COORDS),
    ),
    "TRIDENT, pt": (
        lambda at: tools.trident_pt(at, SLIDE, SINGLES, COORDS),
        ("TRIDENT", "uni_v1", 448, 40.0, COORDS),
    ),
    "CLAM, h5": (lambda at: tools.clam(at, SLIDE, SINGLES, COORDS), ("CLAM", None, 512, None, COORDS)),
    "CLAM, pt": (
        lambda at: tools.clam(at, SLIDE, SINGLES, COORDS).parents[1] / f"pt_files/{SLIDE}.pt",
        ("tensor", None, 512, None, COORDS),
    ),
    "STAMP": (
        lambda at: tools.stamp(at, SLIDE, HALVES, GRID * tools.MICRONS),
        ("STAMP", "uni", 1024, None, GRID * 1024),
    ),
    "STAMP 2.0": (
        lambda at: tools.stamp(at, SLIDE, HALVES, GRID * tools.MICRONS, "2.0.0"),
        ("STAMP", "uni", 1024, None, GRID * 1024),
    ),
    "STAMP before 2.0": (
        lambda at: tools.stamp(at, SLIDE, HALVES, GRID * tools.MICRONS, "historic"),
        ("STAMP", "uni", 1024, None, GRID * 1024),
    ),
    "MMP": (
        lambda at: tools.mmp(at, SLIDE, SINGLES, COORDS),
        ("MMP", "vit_large_patch16_224.dinov2.uni_mass100k", None, None, COORDS),
    ),
    "MMP without the leading 1": (
        lambda at: tools.mmp(at, SLIDE, SINGLES, COORDS, leading=False),
        ("CLAM", "vit_large_patch16_224.dinov2.uni_mass100k", None, None, COORDS),
    ),
    "SurvPath": (lambda at: tools.tensor(at, SLIDE, SINGLES), ("tensor", None, None, None, None)),
    "MCAT": (lambda at: tools.tensor(at / "pt_files", SLIDE, SINGLES), ("tensor", None, None, None, None)),
    "slideflow": (lambda at: tools.slideflow(at, SLIDE, SINGLES, COORDS), ("tensor", "uni", None, None, None)),
    "slide2vec": (lambda at: tools.slide2vec(at, SLIDE, SINGLES, COORDS), ("slide2vec", "uni", 444, None, COORDS)),
}


@pytest.mark.parametrize(("write", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_round_trip(tmp_path, write, expected):
    layout, encoder, size, magnification, coordinates = expected
    file = write(tmp_path)
    info, patches = inspect(file, MPP), read(file, MPP)
    assert (info.layout, info.encoder, info.patch_size) == (layout, encoder, size)
    assert (info.patches, info.width, info.located) == (70, 16, coordinates is not None)
    assert patches.features.dtype == np.float16
    np.testing.assert_array_equal(patches.features, HALVES)
    assert patches.rounding == 0  # these floats are exact in half precision
    assert (patches.patch_size, patches.magnification) == (size, magnification)
    if coordinates is None:
        assert patches.coordinates is None
    else:
        assert patches.coordinates.dtype == np.int32
        np.testing.assert_array_equal(patches.coordinates, coordinates)


def test_coordinates_in_micrometres_are_dropped_without_mpp(tmp_path):
    file = tools.stamp(tmp_path, SLIDE, HALVES, GRID * tools.MICRONS)
    assert not inspect(file).located
    patches = read(file)
    assert (patches.coordinates, patches.patch_size) == (None, None)
    np.testing.assert_array_equal(patches.features, HALVES)


def test_coordinates_of_an_unknown_unit_are_dropped(tmp_path):
    file = tools.stamp(tmp_path, SLIDE, HALVES, GRID * 300.0, "historic")
    assert read(file, MPP).coordinates is None


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_wider_floats_are_rounded_and_the_largest_error_is_returned(tmp_path, kind):
    exact = torch.randn(5000, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(kind)
    torch.save(exact, tmp_path / f"{SLIDE}.pt")
    patches = read(tmp_path / f"{SLIDE}.pt")
    assert np.array_equal(patches.features, exact.double().numpy().astype(np.float16))
    largest = float((exact.double() - torch.from_numpy(patches.features).double()).abs().max())
    assert patches.rounding == pytest.approx(largest, rel=1e-5)
    assert (patches.rounding > 0) == (kind in (torch.float32, torch.float64) or largest > 0)


@pytest.mark.parametrize("chunks", [None, (1, 16), (700, 16), (70, 4), (5000, 16)], ids=str)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunks_and_compression_change_nothing(tmp_path, monkeypatch, chunks, compression):
    monkeypatch.setattr("survq.importing.feature_layouts.BLOCK", 4096)  # many blocks, the last one partial
    features = random.normal(size=(5000, 16)).astype(np.float32)
    file = tmp_path / f"{SLIDE}.h5"
    with h5py.File(file, "w") as store:
        if chunks is None and compression:
            pytest.skip("HDF5 compresses only chunks")
        store.create_dataset("features", data=features, chunks=chunks, compression=compression)
    np.testing.assert_array_equal(read(file).features, features.astype(np.float16))


def test_old_torch_files_and_slices_of_larger_tensors_are_read(tmp_path):
    old, part = tmp_path / "old.pt", tmp_path / "part.pt"
    torch.save(torch.from_numpy(SINGLES), old, _use_new_zipfile_serialization=False)
    torch.save(
        torch.from_numpy(np.repeat(SINGLES, 2, axis=1))[:, ::2], part
    )  # not contiguous, and part of a larger tensor
    for file in (old, part):
        np.testing.assert_array_equal(read(file).features, HALVES)


def test_real_coordinates_of_hs2p(real_data, tmp_path):
    """In files of hs2p: the number of patches and the coordinates of its table."""
    real = real_data / "features/slide2vec"
    table = np.load(real / "test-wsi.coordinates.npz")
    features = random.normal(size=(len(table["x"]), 16)).astype(np.float32)
    for place in (tmp_path / "tiles", tmp_path):
        place.mkdir(exist_ok=True)
        for name in ("test-wsi.coordinates.npz", "test-wsi.coordinates.meta.json"):
            shutil.copy(real / name, place)
        patches = read(
            tools.tensor(tmp_path / "tile_embeddings" if place.name == "tiles" else tmp_path, "test-wsi", features)
        )
        assert patches.patch_size == 444
        assert patches.coordinates.shape == (459, 2)
        assert (patches.coordinates[:, 0] == table["x"]).all() and (patches.coordinates[:, 1] == table["y"]).all()
        shutil.rmtree(tmp_path / "tiles", ignore_errors=True)


def test_a_real_slide_embedding_is_refused(real_data):
    with pytest.raises(DataError, match=r"test-wsi\.pt: holds one vector for the whole slide.*Fix: import the folder"):
        inspect(real_data / "features/slide2vec/test-wsi.pt")


def test_real_uni_prototypes_are_read(real_data, tmp_path):
    content = np.load(real_data / "features/uni_tcga_brca_prototypes.npz")
    (name,) = [key for key in content.files if content[key].ndim >= 2]
    prototypes = content[name].reshape(-1, 1024).astype(np.float32)
    patches = read(tools.tensor(tmp_path, SLIDE, prototypes))
    np.testing.assert_array_equal(patches.features, prototypes.astype(np.float16))
    assert 0 < patches.rounding < 2**-10  # values up to 4 have a resolution of 2**-9


# refused files


def edit(file: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(file, "r+") as store:
        change(store)
    return file


def h5(at: Path, change: Callable[[h5py.File], object] = lambda store: None) -> Path:
    return edit(tools.trident(at, SLIDE, HALVES, COORDS), change)


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
    import zipfile

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
    "h5 empty": (lambda at: written(at / f"{SLIDE}.h5", b""), "cannot be read"),
    "h5 that is a web page": (lambda at: written(at / f"{SLIDE}.h5", b"<html>404</html>" * 99), "cannot be read"),
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
        "holds 'imgs', 'places'; expected features or feats. Fix: import a folder of patch features",
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
        r"9 patches, but 70 coordinates in .*tiles/.*coordinates.npz. Fix: they are of different runs",
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
    "pt truncated": (lambda at: cut(pt(at, torch.zeros(70, 16)), 100), "is truncated. Fix: extract or copy it again"),
    "pt empty": (lambda at: written(at / f"{SLIDE}.pt", b""), "was not written by torch.save, or is truncated"),
    "pt that is text": (
        lambda at: written(at / f"{SLIDE}.pt", b"hello"),
        "was not written by torch.save, or is truncated",
    ),
    "dict": (
        lambda at: pt(at, {"features": torch.zeros(3, 4), "coords": 1}),
        "holds a dict of 'features', 'coords'. Fix: save only the features, as a tensor",
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


def test_values_unknown_to_trident_stay_unknown(tmp_path):
    """TRIDENT writes None as text."""

    def forget(store):
        store["coords"].attrs.update(
            {"level0_magnification": "None", "patch_size_level0": "None", "patch_size": "None"}
        )

    file = h5(tmp_path, forget)
    (tmp_path / "20x_224px_0px_overlap/patches" / f"{SLIDE}_patches.h5").unlink()
    patches = read(file)
    assert (patches.patch_size, patches.magnification) == (None, None)
    np.testing.assert_array_equal(patches.coordinates, COORDS)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"patch_size": 256, "patch_level": 0, "downsample": (1.0, 1.0)}, 256),
        ({"patch_size": 256, "patch_level": 1, "downsample": (4.0001, 4.0003)}, 1024),
        ({"patch_size": 256, "patch_level": 0}, 256),
        ({"patch_size": 256, "patch_level": 1}, None),
        ({"patch_size": 256, "patch_level": 0, "downsample": 1.0, "custom_downsample": 2}, None),
        ({"patch_size": 256, "patch_level": 0, "downsample": 1.0, "custom_downsample": 1}, 256),
        ({}, None),
    ],
)
def test_the_size_of_clams_patches(tmp_path, attributes, size):
    def note(store):
        for name in list(store["coords"].attrs):
            del store["coords"].attrs[name]
        store["coords"].attrs.update(attributes)

    file = tools.clam(tmp_path, SLIDE, SINGLES, COORDS)
    edit(tmp_path / f"patches/{SLIDE}.h5", note)
    assert read(file).patch_size == inspect(file).patch_size == size


def test_a_file_of_only_coordinates_has_no_info(tmp_path):
    tools.trident(tmp_path, SLIDE, HALVES, COORDS)
    assert inspect(tmp_path / "20x_224px_0px_overlap/patches" / f"{SLIDE}_patches.h5") is None


def test_invalid_metadata_is_ignored(tmp_path):
    file = tools.slide2vec(tmp_path, SLIDE, SINGLES, COORDS)
    file.with_suffix(".meta.json").write_text("[1")
    assert inspect(file).encoder is None
    file.with_suffix(".meta.json").write_text(json.dumps([1]))
    assert inspect(file).encoder is None
