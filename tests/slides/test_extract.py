"""From a folder of slides to the store, without Ray: written, found, failed and skipped slides."""

import json
import os
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from slide_files import flat, stained, write_tiff
from slide_store import SlideStore

from survq.data.check import check
from survq.data.problems import DataError
from survq.data.write import Slide, write_cohort, write_slide
from survq.slides.encoder import load_encoder
from survq.slides.extract import extract
from survq.slides.reader import read_slide
from survq.slides.sources import find_files, name_sources

CASES = [f"TCGA-AA-{number:04}" for number in range(6)]


def name(case: str, slide: int = 1) -> str:
    return f"{case}-01Z-00-DX{slide}.0A1B"


@pytest.fixture(scope="module")
def tiny():
    return load_encoder("tiny", device="cpu")


def encode_here(encoder, sources, timeout=60.0, seen=None):
    """The pipeline without Ray: one slide after another in this process."""
    for source in sources:
        if seen is not None:
            seen.append(source.slide_id)
        for message, payload in read_slide(source.file, source.mpp, timeout):
            if message["kind"] == "patches":
                payload = encoder(np.frombuffer(payload, np.uint8).reshape(-1, 224, 224, 3)).tobytes()
            yield source, message, payload


@pytest.fixture
def data(tmp_path):
    cases = pd.DataFrame({"time": 9.0, "event": True}, index=pd.Index(CASES, name="case_id"))
    write_cohort(tmp_path / "data", "X", cases=cases)
    return tmp_path / "data"


@pytest.fixture
def slides(tmp_path):
    """Two good slides, at 20x and 40x; one of only glass; one without a case in the cohort; and a text file."""
    for folder in ("a", "b", "c"):
        (tmp_path / "slides" / folder).mkdir(parents=True)
    write_tiff(tmp_path / "slides" / "a" / f"{name(CASES[0])}.tiff", [stained(2000, 1500)], 0.5)
    write_tiff(tmp_path / "slides" / "b" / f"{name(CASES[1])}.tif", [stained(3000, 3000, seed=1)], 0.25)
    write_tiff(tmp_path / "slides" / f"{name(CASES[2])}.tiff", [flat(900, 900, (240, 240, 240))], 0.5)
    write_tiff(tmp_path / "slides" / "c" / f"{name('TCGA-ZZ-9999')}.tiff", [flat(900, 900, (240, 240, 240))], 0.5)
    (tmp_path / "slides" / "c" / "annotations.txt").write_text("no slide")
    return tmp_path / "slides"


def test_normal_tissue_and_frozen_sections_are_not_extracted_unless_asked_for(tmp_path, data, tiny):
    diagnostic, normal, frozen = name(CASES[0]), f"{CASES[0]}-11A-01-TS1.A", f"{CASES[0]}-01A-01-BS1.B"
    (tmp_path / "slides").mkdir()
    for seed, slide in enumerate((diagnostic, normal, frozen)):
        write_tiff(tmp_path / "slides" / f"{slide}.tiff", [stained(1500, 1500, seed)], 0.5)
    seen = []
    run = partial(extract, tmp_path / "slides", data, "X", tiny, partial(encode_here, tiny, seen=seen))
    assert states(run()) == {diagnostic: "written", normal: "skipped", frozen: "skipped"}
    assert seen == [diagnostic]
    skipped = pd.read_csv(data / "X" / "features" / "skipped.csv").set_index("slide_id")["reason"]
    assert (
        skipped[normal]
        == "sample type 11 (solid tissue normal), slide type TS (frozen section), not in --sample-types 01"
    )
    assert skipped[frozen] == "slide type BS (frozen section), not in --slide-types DX"
    assert CASES[0] not in set(pd.read_csv(data / "X" / "dropped.csv")["case_id"])  # it has a label
    assert states(run(slide_types=("DX", "BS"))) == {diagnostic: "found", normal: "skipped", frozen: "written"}
    facts = json.loads((data / "X" / "source.json").read_text())["features"]
    assert (facts["sample_types"], facts["slide_types"]) == ({"01": 2}, {"BS": 1, "DX": 1})
    (note,) = [note for note in check(data).notes if "frozen" in note]
    assert note == f"X: 1 slides are of slide type BS (frozen section): {frozen!r}"


def states(results) -> dict[str, str]:
    return {result.slide_id: result.state for result in results}


def test_slides_become_features_of_the_cohort(slides, data, tiny):
    results = extract(slides, data, "X", tiny, partial(encode_here, tiny))
    assert states(results) == {
        name(CASES[0]): "written",
        name(CASES[1]): "written",
        name(CASES[2]): "failed",
        name("TCGA-ZZ-9999"): "skipped",
    }
    index = SlideStore(data / "X" / "features").index
    assert list(index["case_id"]) == CASES[:2]
    assert list(index["patch_size"]) == [224, 448]
    assert list(index["magnification"]) == [20, 40]
    assert set(index["encoder"]) == {tiny.name}
    assert (index["patches"] > 3).all()
    store = SlideStore(data / "X" / "features")
    coordinates = store.coordinates(name(CASES[1]))
    assert (coordinates % 448 == 0).all()
    pictures = sorted(os.listdir(data / "X" / "overviews"))
    assert [picture.split("-DX1")[0] for picture in pictures] == [f"{case}-01Z-00" for case in CASES[:3]]
    skipped = pd.read_csv(data / "X" / "features" / "skipped.csv")
    assert list(skipped["slide_id"]) == [name(CASES[2]), name("TCGA-ZZ-9999")]
    assert skipped["reason"].str.contains("no tissue found|the case is not in cases.parquet").all()
    written = results[0]
    assert written.patches == index.loc[name(CASES[0]), "patches"]
    assert written.bytes == next((data / "X" / "features").glob(f"{CASES[0]}*")).stat().st_size


def test_only_new_changed_damaged_and_failed_slides_are_extracted(slides, data, tiny, tree):
    def extracted() -> list[str]:
        extract(slides, data, "X", tiny, partial(encode_here, tiny, seen=(seen := [])))
        return sorted(seen)

    failing, first, second = name(CASES[2]), name(CASES[0]), name(CASES[1])
    assert extracted() == [first, second, failing]
    before = tree(data)
    assert extracted() == [failing]
    os.utime(slides / "a" / f"{first}.tiff")  # another time and place, the same content
    (slides / "a" / f"{first}.tiff").rename(slides / f"{first}.tiff")
    assert extracted() == [failing]
    assert tree(data) == before
    write_tiff(slides / f"{first}.tiff", [stained(2000, 1500, seed=5)], 0.5)
    assert extracted() == [first, failing]
    assert tree(data) != before
    damaged = next((data / "X" / "features").glob(f"{CASES[1]}*"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert extracted() == [second, failing]


def test_extraction_is_reproducible_to_the_bit(slides, data, tiny, tree):
    extract(slides, data, "X", tiny, partial(encode_here, tiny))
    before = tree(data)
    for file in (data / "X" / "features").iterdir():
        file.unlink()
    (data / "X" / "features" / ".a.parquet.x.unfinished").write_text("half a slide")
    (data / "X" / "overviews" / ".a.jpg.x.unfinished").write_text("half a picture")
    extract(slides, data, "X", tiny, partial(encode_here, tiny))
    assert tree(data) == before


def test_messages_may_arrive_in_any_order(slides, data, tiny, tree):
    def shuffled(sources):
        messages = list(encode_here(tiny, sources))
        messages += messages[::3]  # some twice, as when Ray retries a task
        return iter([messages[number] for number in np.random.default_rng(0).permutation(len(messages))])

    write_tiff(slides / "a" / f"{name(CASES[0])}.tiff", [stained(4480, 4480)], 0.5)  # several batches
    extract(slides, data, "X", tiny, partial(encode_here, tiny))
    before = tree(data)
    for file in (data / "X" / "features").glob("*.parquet"):
        file.unlink()
    extract(slides, data, "X", tiny, shuffled)
    assert tree(data) == before


def test_an_incomplete_slide_is_not_written(slides, data, tiny):
    def lost(sources):
        for source, message, payload in encode_here(tiny, sources):
            if (source.slide_id, message["kind"]) != (name(CASES[0]), "patches"):
                yield source, message, payload

    results = extract(slides, data, "X", tiny, lost)
    assert states(results)[name(CASES[0])] == "failed"
    assert "start the same command again" in results[0].reason
    assert list(SlideStore(data / "X" / "features").index.index) == [name(CASES[1])]


def test_non_finite_features_are_not_written(slides, data, tiny):
    def broken(sources):
        for source, message, payload in encode_here(tiny, sources):
            yield (
                source,
                message,
                payload.replace(payload[:2], b"\x00\x7e") if message["kind"] == "patches" else payload,
            )

    results = extract(slides, data, "X", tiny, broken)
    assert {result.state for result in results} == {"failed", "skipped"}
    assert "a feature that is not finite" in results[0].reason
    assert not list((data / "X" / "features").glob("*.parquet"))


def test_a_second_encoder_is_refused_before_any_slide_is_read(slides, data, tiny, tree):
    other = Slide("TCGA-AA-0004-1", CASES[4], np.ones((2, 48), np.float16), encoder="uni@0123456789ab")
    write_slide(data / "X" / "features", other)
    before = tree(data)
    with pytest.raises(
        DataError, match=r"features of 'uni@0123456789ab'; this encoder is 'tiny@.*Fix: use that of the store"
    ):
        extract(slides, data, "X", tiny, lambda sources: pytest.fail("slides were read"))
    assert tree(data) == before


def test_a_table_gives_cases_and_pixel_sizes(tmp_path, data, tiny):
    (tmp_path / "slides").mkdir()
    for seed, (slide, mpp) in enumerate((("biopsy 7", None), ("S-12.b", None), ("other", 0.5))):
        write_tiff(tmp_path / "slides" / f"{slide}.tiff", [stained(2500, 2500, seed)], mpp)
    table = tmp_path / "slides.csv"
    table.write_text(f"slide_id,case_id,mpp\nbiopsy 7.tiff,{CASES[0]},0.25\nS-12.b,{CASES[1]},\nelse,{CASES[2]},\n")
    results = extract(tmp_path / "slides", data, "X", tiny, partial(encode_here, tiny), table=table, mpp=0.5)
    assert states(results) == {"S-12.b": "written", "biopsy 7": "written", "other": "skipped"}
    index = SlideStore(data / "X" / "features").index
    assert index.loc["biopsy 7", ["case_id", "patch_size"]].tolist() == [CASES[0], 448]
    assert index.loc["S-12.b", ["case_id", "patch_size"]].tolist() == [CASES[1], 224]

    def extract_again(**options):
        return states(extract(tmp_path / "slides", data, "X", tiny, partial(encode_here, tiny), table=table, **options))

    assert extract_again(mpp=0.5)["S-12.b"] == "found"
    assert extract_again(mpp=0.25)["S-12.b"] == "written"  # another pixel size, other patches
    assert extract_again()["S-12.b"] == "failed"  # no pixel size is stated anywhere
    assert SlideStore(data / "X" / "features").index.loc["S-12.b", "patch_size"] == 448
    skipped = pd.read_csv(data / "X" / "features" / "skipped.csv").set_index("slide_id")
    assert skipped.loc["S-12.b", "reason"].endswith("The store keeps its earlier features.")


def test_the_pixel_size_that_the_user_gives_is_used_and_recorded(tmp_path, data, tiny):
    """A file that states 0.1 micrometres per pixel in place of 0.5."""
    (tmp_path / "slides").mkdir()
    slide = name(CASES[0])
    write_tiff(tmp_path / "slides" / f"{slide}.tiff", [stained(2500, 2500)], 0.1)
    table = tmp_path / "slides.csv"
    table.write_text(f"slide_id,case_id,mpp\n{slide},{CASES[0]},0.5\n")
    run = partial(extract, tmp_path / "slides", data, "X", tiny, partial(encode_here, tiny))

    def stored() -> list:
        row = SlideStore(data / "X" / "features").index.loc[slide]
        return [row["patch_size"], row["magnification"], json.loads(row["source"])["mpp_given"]]

    run()
    assert stored() == [1120, 100, None]
    (result,) = run(table=table)
    assert (result.state, result.reason) == ("written", "0.5 micrometres per pixel used, as given; its file states 0.1")
    assert stored() == [224, 20, 0.5]
    assert states(run(table=table)) == {slide: "found"}
    assert states(run(mpp=0.5)) == {slide: "found"}  # the same word


def test_two_files_of_one_slide_are_refused(slides, data, tiny, tree):
    write_tiff(slides / "b" / f"{name(CASES[0])}.svs", [flat(300, 300, (1, 2, 3))], 0.5)
    before = tree(data)
    with pytest.raises(DataError, match=r"several files of one slide: .*Fix: rename or remove"):
        extract(slides, data, "X", tiny, partial(encode_here, tiny))
    assert tree(data) == before


def test_one_slide_under_two_names_is_refused_before_it_is_read(slides, data, tiny):
    shutil.copyfile(slides / "a" / f"{name(CASES[0])}.tiff", slides / f"{name(CASES[3])}.tiff")
    with pytest.raises(DataError, match=r"several files with the same content: .*0003.*0000.*Fix: rename or remove"):
        extract(slides, data, "X", tiny, lambda sources: pytest.fail("slides were read"))


def test_an_empty_and_a_missing_folder_are_refused(tmp_path, data, tiny):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no slides; expected files ending in \.svs"):
        extract(tmp_path / "empty", data, "X", tiny, iter)
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        extract(tmp_path / "absent", data, "X", tiny, iter)
    with pytest.raises(DataError, match=r"no cohort 'Y'.*Fix"):
        extract(tmp_path / "empty", data, "Y", tiny, iter)


def test_the_fingerprint_covers_all_files_of_a_slide(tmp_path):
    (tmp_path / "TCGA-AA-0001-1").mkdir()
    (tmp_path / "TCGA-AA-0001-1.mrxs").write_bytes(b"head")
    (tmp_path / "TCGA-AA-0001-1" / "Data0000.dat").write_bytes(b"pixels")

    def fingerprint():
        from survq.importing.slide_names import Wanted, by_barcode

        ((source,), _) = name_sources(find_files(tmp_path), by_barcode, Wanted({"TCGA-AA-0001"}))
        return source.bytes, source.fingerprint

    assert fingerprint()[0] == 10
    before = fingerprint()
    (tmp_path / "TCGA-AA-0001-1" / "Data0001.dat").write_bytes(b"more")
    assert fingerprint() != before


def test_the_fingerprint_of_a_large_file_sees_changes_of_sampled_bytes_and_size(tmp_path):
    from survq.slides.sources import _fingerprint

    file = tmp_path / "a.svs"
    content = bytearray(3_000_000)
    file.write_bytes(content)
    size, before = _fingerprint(file)
    assert size == 3_000_000
    content[-1] = 1
    file.write_bytes(content)
    assert _fingerprint(file)[1] != before
    file.write_bytes(bytes(3_000_001))
    assert _fingerprint(file)[1] != before


def test_ids_are_never_used_as_paths(tmp_path, data, tiny):
    (tmp_path / "slides").mkdir()
    write_tiff(tmp_path / "slides" / "a.tiff", [stained(2000, 1500)], 0.5)
    table = tmp_path / "slides.csv"
    table.write_text(f"slide_id,case_id\na.b/../../../../escaped,{CASES[0]}\n")
    extract(tmp_path / "slides", data, "X", tiny, partial(encode_here, tiny), table=table)
    assert not list(tmp_path.glob("escaped*"))
    for folder in ("features", "overviews"):
        (file,) = (data / "X" / folder).iterdir()
        assert ".." not in file.name
