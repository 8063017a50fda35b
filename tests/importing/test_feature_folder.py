"""Planning the import of a folder, with all problems at once, and importing its slides. Without Ray."""

import os
import shutil
from pathlib import Path

import feature_tools as tools
import h5py
import numpy as np
import pytest
import torch
from slide_store import SlideStore

from survq.data.feature_import import readable_index, unlabelled_cases
from survq.data.location import Location
from survq.data.problems import DataError
from survq.data.write import Slide, write_features
from survq.importing import feature_folder
from survq.importing.feature_folder import import_slide, make_plan
from survq.importing.slide_names import Name, SlideTable, Wanted, by_barcode

CASES = {f"TCGA-AA-{number:04d}" for number in range(6)}
random = np.random.default_rng(0)


def slide(number: int, part: int = 1) -> str:
    return f"TCGA-AA-{number:04d}-01Z-00-DX{part}.UUID-{number}"


def random_features(patches: int = 20, width: int = 16) -> np.ndarray:
    return random.normal(size=(patches, width)).astype(np.float32)


def grid(patches: int = 20) -> np.ndarray:
    return np.stack([np.arange(patches) * 448, np.arange(patches) % 3], axis=1)


@pytest.fixture
def source(tmp_path) -> Path:
    """Six slides by TRIDENT; case 0 has two."""
    for number in range(5):
        tools.trident(tmp_path / "job", slide(number), random_features(), grid())
    tools.trident(tmp_path / "job", slide(0, part=2), random_features(), grid())
    return tmp_path / "job"


@pytest.fixture
def store(tmp_path) -> Location:
    return Location.at(tmp_path / "store")


def plan(source: Path, store: Location, cases=CASES, name_of=by_barcode, **options):
    return make_plan(source, Wanted(cases), readable_index(store), name_of, **options)


def import_all(source: Path, store: Location, **options):
    return [import_slide(job, store) for job in plan(source, store, **options).jobs]


def problems_of(source: Path, store: Location, **options) -> list[str]:
    with pytest.raises(DataError) as error:
        plan(source, store, **options)
    return error.value.problems


def test_all_slides_of_a_folder_are_imported(source, store):
    found = plan(source, store)
    assert [job.slide_id for job in found.jobs] == sorted([slide(0, 2), *map(slide, range(5))])
    assert (found.results, found.notes, dict(found.layouts)) == ([], [], {"TRIDENT": 6})
    results = [import_slide(job, store) for job in found.jobs]
    assert {result.state for result in results} == {"written"}
    assert [(o.patches, o.bytes) for o in results] == [(20, 640)] * 6
    assert all(0 < result.rounding < 0.002 for result in results)
    index = SlideStore(store).index
    assert set(index["case_id"]) == {f"TCGA-AA-{number:04d}" for number in range(5)}
    assert (index["encoder"] == "uni_v1").all() and (index["patch_size"] == 448).all()
    with h5py.File(source / f"20x_224px_0px_overlap/features_uni_v1/{slide(3)}.h5") as file:
        np.testing.assert_array_equal(SlideStore(store).read(slide(3)), file["features"][()].astype(np.float16))
        np.testing.assert_array_equal(SlideStore(store).coordinates(slide(3)), file["coords"][()])


def test_stored_slides_are_not_opened_again(source, store, monkeypatch):
    import_all(source, store)
    monkeypatch.setattr(feature_folder, "inspect", lambda *_: pytest.fail("opened"))
    again = plan(source, store)
    assert again.jobs == [] and {result.state for result in again.results} == {"found"}


def test_moved_files_are_not_imported_again(source, store, tmp_path):
    import_all(source, store)
    shutil.move(source, tmp_path / "elsewhere")
    assert plan(tmp_path / "elsewhere", store).jobs == []


@pytest.mark.parametrize("changed", ["content", "touched", "coordinates", "case", "encoder", "store"])
def test_changed_slides_are_imported_again(source, store, changed):
    options = {}
    tools.clam(source / "clam", slide(5), random_features(), grid())
    shutil.rmtree(source / "20x_224px_0px_overlap")
    import_all(source, store, encoder="uni_v1")
    file = source / "clam/h5_files" / f"{slide(5)}.h5"
    if changed == "content":
        tools.clam(source / "clam", slide(5), random_features(), grid())
    elif changed == "touched":
        os.utime(file, (1, 1))
    elif changed == "coordinates":
        os.utime(source / "clam/patches" / file.name, (1, 1))
    elif changed == "case":
        options["name_of"] = SlideTable([Name(slide(5), "TCGA-AA-0000")])
    elif changed == "store":
        (written,) = store.local.glob("*.parquet")
        written.write_bytes(written.read_bytes()[:-1])
    (job,) = plan(source, store, encoder="conch" if changed == "encoder" else "uni_v1", **options).jobs
    assert import_slide(job, store).state == "written"
    assert len(SlideStore(store).index) == 1


def test_a_file_that_changes_while_it_is_read_fails(source, store):
    job = plan(source, store).jobs[0]
    os.utime(job.file, (1, 1))
    result = import_slide(job, store)
    assert result.state == "failed" and "changed while it was read. Fix: import again" in result.reason
    assert not store.is_folder()


def test_slides_of_other_cases_are_skipped_and_listed(source, store):
    found = plan(source, store, cases=CASES - {"TCGA-AA-0003"})
    assert len(found.jobs) == 5
    (skipped,) = found.results
    assert (skipped.slide_id, skipped.case_id, skipped.state) == (slide(3), "TCGA-AA-0003", "skipped")
    assert skipped.reason == "the case is not in cases.parquet"
    assert unlabelled_cases(found.results, CASES - {"TCGA-AA-0003"}) == {"TCGA-AA-0003"}


def test_normal_tissue_and_frozen_sections_are_skipped_unless_asked_for(source, store):
    normal, frozen = "TCGA-AA-0000-11A-01-TS1.A", "TCGA-AA-0001-01A-01-TS1.B"
    for extra in (normal, frozen):
        tools.trident(source, extra, random_features(), grid())
    found = plan(source, store)
    assert len(found.jobs) == 6
    assert {result.slide_id: result.reason for result in found.results} == {
        normal: "sample type 11 (solid tissue normal), slide type TS (frozen section), not in --sample-types 01",
        frozen: "slide type TS (frozen section), not in --slide-types DX",
    }
    table = SlideTable([Name(name, "TCGA-AA-0000") for name in (normal, frozen)])  # the same rule with a table
    assert plan(source, store, name_of=table).jobs == []
    with_all = make_plan(source, Wanted(CASES, ("01", "11"), ("DX", "TS")), readable_index(store), by_barcode)
    assert {normal, frozen} < {job.slide_id for job in with_all.jobs}
    only_frozen = make_plan(source, Wanted(CASES, slide_types=("TS",)), readable_index(store), by_barcode)
    assert [job.slide_id for job in only_frozen.jobs] == [frozen]


def test_a_table_gives_the_cases(source, store):
    table = SlideTable([Name(slide(0), "P0"), Name(slide(1).split(".")[0], "P1")])
    found = plan(source, store, cases={"P0", "P1"}, name_of=table)
    assert [(job.slide_id, job.case_id) for job in found.jobs] == [(slide(0), "P0"), (slide(1), "P1")]
    assert [result.reason for result in found.results] == ["the slide is not in the table"] * 4


def test_of_several_copies_one_is_used(tmp_path, store):
    for number in range(3):
        tools.clam(tmp_path / "clam", slide(number), random_features(), grid())
    found = plan(tmp_path / "clam", store, encoder="resnet50")
    assert [job.label for job in found.jobs] == [f"h5_files/{slide(number)}.h5" for number in range(3)]
    assert found.notes == [f"3 further files of the same slides were not used; the first is pt_files/{slide(0)}.pt"]
    tensors = plan(tmp_path / "clam" / "pt_files", store, encoder="resnet50")
    assert [job.label for job in tensors.jobs] == [f"{slide(number)}.pt" for number in range(3)]


def test_slide_embeddings_in_the_same_folder_are_ignored(source, store):
    for number in range(5):
        file = tools.trident(source, slide(number), random_features()[0], grid(), encoder="titan")
        (file.parent.parent / "slide_features_titan").mkdir(exist_ok=True)
        file.rename(file.parent.parent / "slide_features_titan" / file.name)
    found = plan(source, store)
    assert len(found.jobs) == 6
    assert found.notes[0].startswith("5 further files of the same slides were not used")


def test_a_table_converts_coordinates_of_stamp_to_pixels(tmp_path, store):
    for number in range(2):
        tools.stamp(tmp_path / "stamp", slide(number), random_features(), grid() * 1.0)
    notes = plan(tmp_path / "stamp", store).notes
    assert "2 slides have no coordinates in level-0 pixels" in notes[0]
    assert "a column mpp in the table of --cases converts them" in notes[1]
    table = SlideTable([Name(slide(number), "TCGA-AA-0000", 0.5) for number in range(2)])
    found = plan(tmp_path / "stamp", store, name_of=table)
    assert found.notes == []
    assert [import_slide(job, store).state for job in found.jobs] == ["written"] * 2
    np.testing.assert_array_equal(SlideStore(store).coordinates(slide(0)), grid() * 2)
    assert SlideStore(store).index["encoder"].unique().tolist() == ["uni"]


# problems


def test_no_such_folder(tmp_path, store):
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        plan(tmp_path / "absent", store)


def test_a_folder_without_features(tmp_path, store):
    (tmp_path / "src" / "patches").mkdir(parents=True)
    (tmp_path / "src" / "note.txt").write_text("hello")
    (problem,) = problems_of(tmp_path / "src", store)
    assert "holds no features; expected .h5, .hdf5, .pt, .pth files. Fix: name another folder." in problem


def features_of(source: Path) -> Path:
    return source / "20x_224px_0px_overlap/features_uni_v1"


def another_encoder(source):
    tools.trident(source, slide(5), random_features(), grid(), encoder="conch_v1")


def another_width(source):
    tools.trident(source, slide(5), random_features(width=8), grid())


def truncated(source):
    os.truncate(features_of(source) / f"{slide(1)}.h5", 3000)


def empty(source):
    tools.trident(source, slide(1), random_features(0), grid(0))


def without_coordinates(source):
    with h5py.File(features_of(source) / f"{slide(1)}.h5", "r+") as store:
        del store["coords"]
    shutil.rmtree(features_of(source).parent / "patches")


def no_barcode(source):
    tools.trident(source, "C3L-00001-21", random_features(), grid())


def odd_id(source):
    torch.save(torch.zeros(3, 16), source / "\u202e.pt")


def a_pickle(source):
    (source / "graph.pkl").write_bytes(b"\x80\x04.")


def path_ml(source):
    (source / f"{slide(1)}.h5path").write_bytes(b"tiles")


def only_coordinates(source):
    shutil.copy(features_of(source).parent / f"patches/{slide(1)}_patches.h5", features_of(source) / f"{slide(1)}.h5")


def slide_embedding(source):
    tools.trident(source, slide(5), random_features()[0], grid())


PROBLEMS = {
    another_encoder: "features are of conch_v1, 16 wide; those of 6 others are of uni_v1, 16 wide. Fix: use one",
    another_width: "features are of uni_v1, 8 wide; those of 6 others are of uni_v1, 16 wide. Fix",
    truncated: "cannot be read (",
    empty: "holds no patches: no tissue was found. Fix: remove it, or skip and list it with --skip-bad",
    without_coordinates: "has no coordinates, but 5 others have. Fix: add the coordinates of its patches, or skip it",
    no_barcode: "slide 'C3L-00001-21': its case is unknown, because its name is not a TCGA barcode. Fix: pass a table",
    odd_id: r"slide '\u202e': its case is unknown",
    a_pickle: "graph.pkl: is a pickle, which survq never loads. Fix: save the features as tensors",
    path_ml: "PathML stores pixels of tiles, not features. Fix",
    only_coordinates: "holds coordinates and no features. Fix",
    slide_embedding: "holds one vector for the whole slide or patient",
}


@pytest.mark.parametrize(("spoil", "message"), PROBLEMS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_file_is_reported_or_skipped(source, store, spoil, message):
    spoil(source)
    (problem,) = problems_of(source, store)
    assert message in problem and "Fix: " in problem
    assert not store.is_folder()

    found = plan(source, store, skip_bad=True)
    (failed,) = [result for result in found.results if result.state == "failed"]
    assert message in failed.reason and failed.file and failed.slide_id
    assert len(found.jobs) in (5, 6) and failed.slide_id not in {job.slide_id for job in found.jobs}


def test_all_problems_are_listed_at_once(source, store):
    truncated(source)
    another_width(source)
    a_pickle(source)
    no_barcode(source)
    tools.trident(source, slide(2), random_features(0), grid(0))
    text = "\n".join(problems_of(source, store))
    for message in ("cannot be read", "8 wide", "graph.pkl", "C3L-00001-21", "no tissue was found"):
        assert message in text


@pytest.mark.parametrize("size", [(448, 20), (224, 40), (512, 40), (896, 40), (256, 20)], ids=str)
def test_patches_of_another_physical_size_are_refused(source, store, size):
    import_slide(plan(source, store).jobs[0], store)
    tools.trident(source, slide(5), random_features(), grid(), level0=size)
    (problem,) = problems_of(source, store)
    microns = size[0] * 10 / size[1]
    assert f"{slide(5)}.h5: its patches are {microns:.0f} micrometres wide; those of the 1 slides of the store are" in (
        problem
    )
    assert problem.endswith("of the store are 112. Fix: extract all slides at one patch size and magnification.")
    shutil.rmtree(store.local)
    (problem,) = problems_of(source, store)
    assert f"its patches are {microns:.0f} micrometres wide; those of most others are 112. Fix" in problem
    found = plan(source, store, skip_bad=True)
    assert slide(5) not in {job.slide_id for job in found.jobs} and len(found.jobs) == 6


def test_scans_of_other_magnifications_have_patches_of_one_size(source, store):
    tools.trident(source, slide(5), random_features(), grid(), level0=(224, 20))
    assert len(plan(source, store).jobs) == 7


def test_a_tie_of_two_patch_sizes_is_refused(source, store):
    for number in range(6):
        tools.trident(source, slide(number, part=3), random_features(), grid(), level0=(448, 20))
    (problem,) = problems_of(source, store, skip_bad=True)
    assert problem == (
        "mixed patch sizes: 112 micrometres (6 slides), 224 micrometres (6 slides). "
        "Fix: import slides of one patch size and magnification."
    )


def test_the_table_gives_the_scale_of_clams_patches(tmp_path, store):
    """512 level-0 pixels: 40x scans have 0.19 to 0.26 micrometres per pixel in TCGA, 20x scans 0.5."""
    for number in range(4):
        tools.clam(tmp_path / "clam", slide(number), random_features(), grid())
    table = SlideTable([Name(slide(n), "TCGA-AA-0000", mpp) for n, mpp in enumerate((0.1945, 0.2277, 0.2527, 0.5005))])
    (problem,) = problems_of(tmp_path / "clam", store, name_of=table, encoder="uni")
    assert f"{slide(3)}.h5: its patches are 256 micrometres wide; those of most others are 117. Fix" in problem
    table = SlideTable([Name(slide(n), "TCGA-AA-0000", mpp) for n, mpp in enumerate((0.1945, 0.2277, 0.2527, 0.25))])
    results = import_all(tmp_path / "clam", store, name_of=table, encoder="uni")
    assert {result.state for result in results} == {"written"}
    assert SlideStore(store).index["magnification"].tolist() == pytest.approx([51.4, 43.9, 39.6, 40.0])


@pytest.mark.parametrize("with_table", [False, True])
def test_tiles_of_stamp_of_another_size_are_refused(tmp_path, store, with_table):
    for number in range(4):
        tools.stamp(
            tmp_path / "x", slide(number), random_features(), grid() * 1.0, side=224.0 if number == 3 else 256.0
        )
    table = SlideTable([Name(slide(n), "TCGA-AA-0000", mpp) for n, mpp in enumerate((0.25, 0.25, 0.5, 0.5))])
    (problem,) = problems_of(tmp_path / "x", store, **({"name_of": table} if with_table else {}))
    assert f"{slide(3)}.h5: its patches are 224 micrometres wide; those of most others are 256. Fix: ext" in problem


def test_trident_states_the_size_of_patches_where_the_magnification_is_unknown(source, store):
    def forget(store):
        store["coords"].attrs.update({"level0_magnification": "None", "target_magnification": 10})

    tools.edit(features_of(source) / f"{slide(2)}.h5", forget)
    (problem,) = problems_of(source, store)
    assert f"{slide(2)}.h5: its patches are 224 micrometres wide; those of most others are 112. Fix: ext" in problem


def test_sizes_that_cannot_be_compared_are_said(tmp_path, store):
    for number in range(2):
        tools.clam(tmp_path / "clam", slide(number), random_features(), grid(), downsample=1.0 + number)
    notes = plan(tmp_path / "clam", store, encoder="uni").notes
    assert "patches of '256', '512' level-0 pixels: their size in micrometres is unknown, so it was not compared" in (
        "\n".join(notes)
    )


def test_a_tie_of_two_encoders_is_refused(source, store):
    for number in range(5):
        shutil.move(features_of(source) / f"{slide(number)}.h5", source / "aside.h5")
        (source / "aside.h5").unlink()
    tools.trident(source, slide(3), random_features(), grid(), encoder="conch_v1")
    (problem,) = problems_of(source, store, skip_bad=True)
    assert problem.startswith("mixed patch encoders: ") and "Fix: import one kind" in problem


def test_a_folder_with_two_encoders_of_all_slides_is_one_problem(source, store):
    for number in range(5):
        tools.trident(source, slide(number), random_features(), grid(), encoder="conch_v1")
    (problem,) = problems_of(source, store, skip_bad=True)
    assert problem.startswith(f"5 slides have several files, such as {slide(0)!r} in ")
    assert "features_conch_v1/" in problem and "features_uni_v1/" in problem
    assert problem.endswith("Fix: import the folder of one encoder.")


def test_an_unstated_encoder_must_be_given(tmp_path, store):
    for number in range(3):
        tools.tensor(tmp_path / "pt", slide(number), random_features())
    (problem,) = problems_of(tmp_path / "pt", store, skip_bad=True)
    assert "3 files do not state their patch encoder" in problem and "--encoder uni_v1" in problem
    assert {job.encoder for job in plan(tmp_path / "pt", store, encoder="ctranspath").jobs} == {"ctranspath"}


def test_a_given_encoder_must_match_the_files(source, store, tmp_path):
    (problem,) = problems_of(source, store, encoder="conch")
    assert "6 files were made with another encoder than 'conch': " in problem and "'uni_v1'. Fix" in problem
    tools.mmp(tmp_path / "mmp", slide(0), random_features(), grid())  # the name of a folder is only a hint
    assert plan(tmp_path / "mmp", store, encoder="uni").jobs[0].encoder == "uni"


def test_slides_must_match_the_store(source, store):
    write_features(store, [Slide("OTHER", "TCGA-AA-0005", np.ones((2, 16), np.float16), encoder="conch")])
    problems = problems_of(source, store)
    assert len(problems) == 6
    assert "of uni_v1, 16 wide; those of the 1 slides of the store are of conch, 16 wide" in problems[0]


def test_problems_of_features_fail_only_their_slide(source, store):
    with h5py.File(features_of(source) / f"{slide(1)}.h5", "r+") as file:
        file["features"][7, 3] = np.nan
    results = import_all(source, store)
    (failed,) = [result for result in results if result.state == "failed"]
    assert failed.reason.startswith(f"{features_of(source)}/{slide(1)}.h5: a feature of patch 7 is not finite. Fix:")
    assert set(SlideStore(store).index.index) == {job.slide_id for job in results} - {slide(1)}


def test_hidden_files_are_ignored(source, store):
    (source / ".cache").mkdir()
    (source / ".cache" / "x.h5").write_text("")
    (source / "._x.h5").write_text("")  # macOS leaves such files on shared disks
    assert len(plan(source, store).jobs) == 6
