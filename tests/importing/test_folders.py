"""Linked folders, names that are not UTF-8, composed and decomposed letters, and what is passed over."""

import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import feature_tools as tools
import numpy as np
import pandas as pd
import pytest
from csv_files import write_csv
from slide_files import flat, write_tiff

from survq.cli import main
from survq.data.feature_import import readable_index
from survq.data.location import Location
from survq.data.problems import DataError
from survq.data.write import write_cohort
from survq.importing.feature_folder import make_plan
from survq.importing.folders import walk
from survq.importing.slide_names import SlideTable, Wanted, by_barcode
from survq.slides.sources import find_files, name_sources

random = np.random.default_rng(0)
CASES = {f"TCGA-AA-{number:04d}" for number in range(4)}
LATIN = os.fsdecode(b"Pr\xe4parat 12")  # a name written by a system that used Latin-1


def name(number: int) -> str:
    return f"TCGA-AA-{number:04d}-01Z-00-DX1.A"


def features(folder: Path, slide: str) -> Path:
    return tools.tensor(folder, slide, random.normal(size=(5, 16)).astype(np.float32))


def slide_table(file: Path, *rows: list[str]) -> SlideTable:
    write_csv(file, [["case_id", "slide_id"], *rows])
    return SlideTable.read(file)


def plan(folder: Path, cases=CASES, name_of=by_barcode, **options):
    return make_plan(folder, Wanted(cases), readable_index(Location.at(folder / "none")), name_of, "uni", **options)


def sources(folder: Path, cases=CASES, name_of=by_barcode):
    return name_sources(find_files(folder), name_of, Wanted(cases))


def test_linked_folders_are_followed_once(tmp_path):
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    features(top / "batch1", name(0))
    features(elsewhere / "deep", name(1))
    write_tiff(elsewhere / "deep" / f"{name(2)}.tiff", [flat(300, 300, (1, 2, 3))], 0.5)
    (top / "batch2").symlink_to(elsewhere)
    (top / "batch3").symlink_to(elsewhere)  # again
    (elsewhere / "circle").symlink_to(top)
    assert sorted(job.slide_id for job in plan(top).jobs) == [name(0), name(1)]
    found, skipped = sources(top)
    assert [source.slide_id for source in found] == [name(2)] and not skipped


def test_a_linked_file_that_is_gone_is_named(tmp_path):
    file = features(tmp_path, name(0))
    for ending in (".pt", ".svs"):
        (tmp_path / f"{name(1)}{ending}").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"-0001-.*pt: is a link to a file that does not exist. Fix: repair or remove"):
        plan(tmp_path)
    assert [job.file for job in plan(tmp_path, skip_bad=True).jobs] == [str(file)]
    (_, (skipped,)) = sources(tmp_path)
    assert "is a link to a file that does not exist" in skipped.reason


@pytest.mark.skipif(os.geteuid() == 0 and not hasattr(os, "seteuid"), reason="root can read every folder")
def test_a_folder_that_cannot_be_listed_is_not_passed_over():
    top = Path(tempfile.mkdtemp())  # pytest's own folders are closed to the user that root becomes
    closed = top / "closed"
    features(closed, name(0))
    top.chmod(0o755)
    closed.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(DataError, match=r"closed: the folder cannot be listed \(Permission denied\). Fix: make it"):
            list(walk(top))
    finally:
        if root:
            os.seteuid(0)
        closed.chmod(0o755)
        shutil.rmtree(top)


@pytest.mark.parametrize("where", ["file", "folder"])
def test_names_that_are_not_utf8_are_refused_where_they_come_in(tmp_path, where):
    slide = LATIN if where == "file" else name(0)
    folder = tmp_path / (LATIN if where == "folder" else "x")
    features(folder, slide)
    write_tiff(folder / f"{slide}.svs", [flat(300, 300, (1, 2, 3))], 0.5)
    features(tmp_path, name(1))
    table = slide_table(tmp_path / "t.csv", ["P", name(0)], ["P", name(1)])
    with pytest.raises(DataError, match=r"Pr\\udce4parat 12.*: its name is not UTF-8. Fix: rename it") as error:
        plan(tmp_path, {"P"}, table)
    str(error.value).encode()
    found = plan(tmp_path, {"P"}, table, skip_bad=True)
    assert [job.slide_id for job in found.jobs] == [name(1)]
    _, skipped = sources(tmp_path, {"P"}, table)
    for result in (*found.results, *skipped):
        pd.DataFrame([result.row()]).to_csv().encode()  # what skipped.csv does
        assert "its name is not UTF-8" in result.reason


@pytest.mark.parametrize("command", [["import", "features"], ["extract"]], ids=lambda words: words[-1])
def test_the_command_ends_with_a_sentence(tmp_path, capsys, command):
    cases = pd.DataFrame({"time": [9.0], "event": [True]}, index=pd.Index(["TCGA-AA-0001"], name="case_id"))
    write_cohort(tmp_path / "data", "X", cases=cases)
    (tmp_path / LATIN).mkdir()
    encoder = [] if command == ["import", "features"] else ["--encoder", "tiny"]
    assert main([*command, str(tmp_path / LATIN), str(tmp_path / "data"), "--cohort", "X", *encoder]) == 65
    assert r"Pr\udce4parat 12: the name of the folder is not UTF-8. Fix: rename it." in capsys.readouterr().err
    assert main(["check", str(tmp_path / LATIN)]) == 64
    assert "is not UTF-8. Fix: rename it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "odd", ["TCGA-AA-0001\u202e", "TCGA-AA-0001-01Z-00-DX1 ", "TCGA-AA-0001-01Z\n", "TCGA-AA-0001-" + 200 * "x"]
)
def test_ids_that_no_store_can_hold_are_refused(tmp_path, odd):
    features(tmp_path, odd)
    with pytest.raises(DataError, match=r"cannot be an id. Fix: rename its file; expected printable text"):
        plan(tmp_path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("of", ["file", "table", "cohort"])
def test_composed_and_decomposed_letters_are_equal(tmp_path, form, of):
    """macOS decomposes names; tables and labels usually do not."""
    spelt = {
        each: unicodedata.normalize(form if each == of else "NFC", "Präparat Ö") for each in ("file", "table", "cohort")
    }
    features(tmp_path, spelt["file"])
    write_tiff(tmp_path / f"{spelt['file']}.tiff", [flat(300, 300, (1, 2, 3))], 0.5)
    table = slide_table(tmp_path / "slides.csv", [spelt["table"], spelt["table"]])
    (job,) = plan(tmp_path, {spelt["cohort"]}, table).jobs
    ((source,), _) = sources(tmp_path, {spelt["cohort"]}, table)
    for found in (job, source):
        assert (found.slide_id, found.case_id) == ("Präparat Ö", spelt["cohort"])


@pytest.mark.parametrize("ending", ["partial", "part", "crdownload", "tmp"])
def test_files_that_are_incomplete_by_their_name_are_named(tmp_path, ending):
    """The GDC's client downloads into SLIDE.svs.partial."""
    features(tmp_path, name(0))
    for kind in ("svs", "h5"):
        (tmp_path / f"{name(1)}.{kind}.{ending}").write_bytes(b"x")
    with pytest.raises(
        DataError, match=rf"-0001-.*h5\.{ending}: is incomplete, by its name. Fix: complete or remove it"
    ):
        plan(tmp_path)
    assert [job.slide_id for job in plan(tmp_path, skip_bad=True).jobs] == [name(0)]
    (_, (skipped,)) = sources(tmp_path)
    assert "svs" in skipped.file and "is incomplete, by its name" in skipped.reason


def test_a_file_that_trident_is_writing_is_named(tmp_path):
    file = features(tmp_path, name(0))
    (tmp_path / f"{file.name}.lock").touch()
    with pytest.raises(DataError, match=r"is being written, says .*pt.lock beside it. Fix: wait, or extract it again"):
        plan(tmp_path)


def test_slides_that_are_not_read_are_named(tmp_path):
    for ending in ("vsi", "dcm", "isyntax", "QPTIFF"):
        (tmp_path / f"{name(1)}.{ending}").write_bytes(b"x")
    found, skipped = sources(tmp_path)
    assert not found
    assert {result.reason for result in skipped} == {
        f"survq does not read .{ending} files. Fix: convert it to a tiled TIFF."
        for ending in ("vsi", "dcm", "isyntax", "QPTIFF")
    }
    (tmp_path / "png").mkdir()
    for number in range(3):
        (tmp_path / "png" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no slides; expected files ending in \.svs, .*; it has 3 \.png\."):
        find_files(tmp_path / "png")


def test_features_that_are_not_read_are_named(tmp_path):
    for number, ending in enumerate(("npy", "npy", "safetensors")):
        (tmp_path / f"{name(number)}.{ending}").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"files; it has 2 \.npy, 1 \.safetensors. Fix: save each slide as a tensor, SLI"
    ):
        plan(tmp_path)
    tools.slideflow(tmp_path, name(3), random.normal(size=(5, 16)).astype(np.float32), np.ones((5, 2)))
    assert plan(tmp_path).notes[-1] == ("passed over, as survq does not read such files: 2 .npy, 1 .safetensors")
