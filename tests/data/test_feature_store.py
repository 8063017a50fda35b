"""The feature store returns what was written, or refuses damaged files."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slide_store import SlideStore

from survq.data.feature_store import SCHEMA, read_slides
from survq.data.problems import DataError
from survq.data.write import Slide, file_name, write_features, write_slide


def test_round_trip(tmp_path, small):
    slides = small["slides"]
    write_features(tmp_path, slides)
    store = SlideStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(slides)
    assert sorted(store.index["slide_id"]) == sorted(slide.slide_id for slide in slides)
    for slide in slides:
        read = store.read(slide.slide_id)
        assert read.dtype == np.float16
        np.testing.assert_array_equal(read, slide.features)
        np.testing.assert_array_equal(store.coordinates(slide.slide_id), slide.coordinates)
        row = store.index.loc[slide.slide_id]
        assert (row["case_id"], row["patch_size"], row["magnification"], row["encoder"]) == (
            slide.case_id,
            448,
            40.0,
            "uni",
        )
    rows = store.index.loc[[slides[3].slide_id, slides[1].slide_id]].to_dict("records")
    both = read_slides(store.folder, rows)
    np.testing.assert_array_equal(both, np.concatenate([slides[3].features, slides[1].features]))


def test_a_slide_is_rewritten_to_the_same_bits(tmp_path, small, tree):
    slide = small["slides"][0]
    write_slide(tmp_path, slide)
    before = tree(tmp_path)
    write_slide(tmp_path, slide)
    assert tree(tmp_path) == before
    write_slide(tmp_path, replace(slide, encoder="conch"))  # replaced, not duplicated
    assert SlideStore(tmp_path).index["encoder"].tolist() == ["conch"]


@pytest.mark.parametrize("slide_id", ["A/../../B", "..", "A\\B", "A\u202eB", "é" * 200, "x" * 200, ".hidden", "a b%00"])
def test_ids_are_never_used_as_paths(tmp_path, slide_id):
    folder = tmp_path / "deep" / "features"
    write_slide(folder, Slide(slide_id, "C", np.ones((1, 2), np.float16)))
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.parent == folder and file.name.isascii() and len(file.name) < 150
    assert SlideStore(folder).index["slide_id"].tolist() == [slide_id]
    assert len({file_name(other) for other in (slide_id, slide_id + "_", slide_id.lower() + "-")}) == 3


def test_unknown_values_stay_unknown(tmp_path):
    slide = Slide("S", "C", np.ones((2, 3), np.float16))
    write_features(tmp_path, [slide])
    store = SlideStore(tmp_path)
    assert store.coordinates("S") is None
    assert store.index.loc["S", ["patch_size", "magnification"]].isna().all()


def test_features_in_any_memory_order_are_kept(tmp_path):
    features = np.arange(12, dtype=np.float16).reshape(3, 4)
    write_features(tmp_path, [Slide("S", "C", np.asfortranarray(features))])
    np.testing.assert_array_equal(SlideStore(tmp_path).read("S"), features)


def test_every_flipped_bit_of_the_features_is_caught(tmp_path, small):
    slide = small["slides"][0]
    write_features(tmp_path, [slide])
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    start = whole.index(slide.features.tobytes())
    for bit in range(0, 8 * slide.features.nbytes, 37):
        damaged = bytearray(whole)
        damaged[start + bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="sha256 differs"):
            SlideStore(tmp_path).read(slide.slide_id)


def test_damage_anywhere_is_caught_or_harmless(tmp_path, small):
    """After a flipped bit in any other byte, the store is refused or returns the same slides."""
    slides = small["slides"][:2]
    file = tmp_path / "two.parquet"
    with pq.ParquetWriter(file, SCHEMA, compression="none", write_page_checksum=True) as writer:
        for slide in slides:
            writer.write_table(slide.table())
    whole = file.read_bytes()
    kept = ["slide_id", "case_id", "patches", "width", "patch_size", "magnification", "encoder"]
    expected = SlideStore(tmp_path).index[kept]
    caught = 0
    random = np.random.default_rng(0)
    for place in random.choice(len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        try:
            store = SlideStore(tmp_path)
            for slide in slides:
                np.testing.assert_array_equal(store.read(slide.slide_id), slide.features)
                np.testing.assert_array_equal(store.coordinates(slide.slide_id), slide.coordinates)
            assert store.index[kept].equals(expected)
        except (DataError, KeyError):
            caught += 1
    assert caught > 20


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not parquet"])
def test_truncated_files_are_refused_by_name(tmp_path, small, damage):
    write_features(tmp_path, small["slides"][:3])
    file = tmp_path / file_name(small["slides"][1].slide_id)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=rf"{file.name}: cannot be read"):
        SlideStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((0, 16), np.float16)}, "expected (patch, feature) with at least one patch"),
        ({"features": np.zeros(16, np.float16)}, "expected (patch, feature) with at least one patch"),
        ({"features": np.zeros((3, 16), np.float32)}, "expected float16"),
        ({"features": np.full((3, 16), np.nan, np.float16)}, "a feature that is not finite, first in patch 0"),
        ({"coordinates": np.zeros((7, 2), np.int32)}, "coordinates of shape (7, 2) for 3 patches"),
    ],
)
def test_all_bad_slides_are_listed_at_once(tmp_path, small, change, message):
    good = small["slides"]
    bad = [replace(good[0], **change), good[1], replace(good[0], slide_id="other", **change)]
    with pytest.raises(DataError) as error:
        write_features(tmp_path, bad)
    assert message in str(error.value)
    named = dict.fromkeys(problem.split(":")[0] for problem in error.value.problems)
    assert list(named) == ["slide 'CASE-02-DX0'", "slide 'other'"]


def test_parquet_files_of_other_layouts_are_refused(tmp_path):
    pq.write_table(pa.table({"slide_id": ["S"]}), tmp_path / "a.parquet")
    rows = pa.concat_tables([Slide(s, "C", np.ones((1, 2), np.float16)).table() for s in "ST"])
    pq.write_table(rows, tmp_path / "b.parquet")
    with pytest.raises(DataError) as error:
        SlideStore(tmp_path)
    assert "a.parquet: lacks the columns" in str(error.value)
    assert "b.parquet: does not have one row group per slide" in str(error.value)


def test_inconsistent_lengths_are_refused(tmp_path):
    (row,) = Slide("S", "C", np.ones((2, 3), np.float16), coordinates=np.ones((2, 2), np.int32)).table().to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"patches": 5}], schema=SCHEMA), tmp_path / "a.parquet")
    store = SlideStore(tmp_path)
    with pytest.raises(DataError, match="12 bytes of features; expected 5 patches x 3 features x 2 bytes"):
        store.read("S")
    with pytest.raises(DataError, match="16 bytes of coordinates for 5 patches"):
        store.coordinates("S")
