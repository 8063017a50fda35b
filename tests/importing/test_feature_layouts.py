"""Files of every tool are read correctly: features to the bit, coordinates, patch size."""

import json
import shutil
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

random = np.random.default_rng(1)
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


@pytest.mark.parametrize("shape", [(70, 1, 16), (70, 16, 1, 1), (1, 70, 16), (1, 70, 16, 1), (1, 1, 70, 16)], ids=str)
@pytest.mark.parametrize("ending", ["h5", "pt"])
def test_axes_of_length_one_are_dropped(tmp_path, shape, ending):
    if ending == "h5":
        file = h5(
            tmp_path, lambda s: (s.__delitem__("features"), s.create_dataset("features", data=SINGLES.reshape(shape)))
        )
    else:
        torch.save(torch.from_numpy(SINGLES.reshape(shape)), file := tmp_path / f"{SLIDE}.pt")
    assert (inspect(file).patches, inspect(file).width) == (70, 16)
    np.testing.assert_array_equal(read(file).features, HALVES)


@pytest.mark.parametrize("shape", [(1, 1, 16), (1, 16, 1, 1), (1, 16)], ids=str)
def test_a_single_patch_is_one_patch(tmp_path, shape):
    torch.save(torch.from_numpy(SINGLES[:1].reshape(shape)), tmp_path / f"{SLIDE}.pt")
    np.testing.assert_array_equal(read(tmp_path / f"{SLIDE}.pt").features, HALVES[:1])


@pytest.mark.parametrize("kind", [">f2", ">f4", ">f8", "<f8"])
def test_the_order_of_bytes_changes_nothing(tmp_path, kind):
    def write(store):
        del store["features"]
        store.create_dataset("features", data=SINGLES.astype(kind), chunks=(9, 16))

    torch.save(SINGLES.astype(kind), tmp_path / f"{SLIDE}.pt")
    for file in (h5(tmp_path, write), tmp_path / f"{SLIDE}.pt"):
        features = read(file).features
        assert features.dtype == np.float16 and features.dtype.isnative
        np.testing.assert_array_equal(features, HALVES)


@pytest.mark.parametrize("name", ["embeddings", "embedding", "feature", "feat", "patch_features"])
def test_other_names_of_features_are_known(tmp_path, name):
    file = h5(tmp_path, lambda store: store.move("features", name))
    patches = read(file)
    np.testing.assert_array_equal(patches.features, HALVES)
    np.testing.assert_array_equal(patches.coordinates, COORDS)  # in level-0 pixels, not STAMP's micrometres
    torch.save({name: torch.from_numpy(SINGLES), "coords": 1}, tmp_path / f"{SLIDE}.pt")
    np.testing.assert_array_equal(read(tmp_path / f"{SLIDE}.pt").features, HALVES)


@pytest.mark.parametrize("wrap", [lambda t: t.requires_grad_(), torch.nn.Parameter], ids=["requires grad", "parameter"])
def test_tensors_with_gradients_are_read(tmp_path, wrap):
    torch.save(wrap(torch.from_numpy(SINGLES.copy())), tmp_path / f"{SLIDE}.pt")
    np.testing.assert_array_equal(read(tmp_path / f"{SLIDE}.pt").features, HALVES)


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
