"""Files and folders appear only when complete; several files appear together."""

import os
import stat
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import fs

from survq.data.cohort import Cohort
from survq.data.feature_store import read_slides
from survq.data.location import Location, atomic_folder, unreadable
from survq.data.lock import InUse, locked
from survq.data.problems import DataError
from survq.data.write import file_name, write_cohort
from survq.exits import UsageError


def test_several_files_appear_together_or_not_at_all(tmp_path, tree):
    folder = Location.at(tmp_path)
    folder.write_files({"a": b"old", "b": b"old"})
    before = tree(tmp_path)
    with pytest.raises(TypeError):
        folder.write_files({"a": b"new", "b": "no bytes"})
    assert tree(tmp_path) == before
    folder.write_files({"a": b"new", "b": memoryview(b"new")})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"new", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_partial_files_of_a_failed_renaming_are_removed(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "in the way").touch()
    with pytest.raises(OSError):
        Location.at(tmp_path).write_files({"a": b"new", "b": b"new"})
    assert set(os.listdir(tmp_path)) <= {"a", "b"}


def test_parent_folders_are_created(tmp_path):
    Location.at(tmp_path / "new" / "folder").write_files({"a": b"1", "b": b"2"})
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["a", "b"]


@contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(folder: Path) -> dict[bool, set[str]]:
    """The permissions below a folder: of the folders (True) and of the files."""
    found = {True: set(), False: set()}
    for path in folder.rglob("*"):
        found[path.is_dir()].add(oct(stat.S_IMODE(path.stat().st_mode)))
    return found


@pytest.mark.parametrize(("mask", "folders", "files"), [(0o077, "0o700", "0o600"), (0o022, "0o755", "0o644")])
def test_the_umask_decides_who_may_read(tmp_path, small, mask, folders, files):
    with umask(mask):
        write_cohort(tmp_path / "data", "X", **small)
        Location.at(tmp_path / "data" / "X").write_files({"cases.parquet": b"replaced", "source.json": b"{}"})
    assert modes(tmp_path) == {True: {folders}, False: {files}}


def test_a_folder_appears_only_when_complete(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "X", replacing=True) as unfinished:
            (unfinished / "file").write_text(content)
            (unfinished / "below").mkdir()
            assert (tmp_path / "X").exists() == (content == "new")
        assert (tmp_path / "X" / "file").read_text() == content
    for replacing in (True, False):
        with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "X", replacing=replacing) as unfinished:
            (unfinished / "file").write_text(str(1 / 0))
    with pytest.raises(OSError), atomic_folder(tmp_path / "X") as unfinished:
        (unfinished / "file").write_text("not asked to replace")
    assert os.listdir(tmp_path) == ["X"]
    assert (tmp_path / "X" / "file").read_text() == "new"


def test_partial_files_of_a_killed_writer_are_removed_by_the_next(tmp_path, small):
    for left in (".X.01234567.unfinished", ".Y.01234567.unfinished"):
        (tmp_path / left / "features").mkdir(parents=True)
    (tmp_path / ".X.lock").touch()  # without a holder
    write_cohort(tmp_path, "X", **small)
    assert sorted(os.listdir(tmp_path)) == [".Y.01234567.unfinished", "X", "gene_sets", "pathways.gmt"]
    with locked(tmp_path / ".X.lock", "X", "wait"), pytest.raises(InUse, match=r"X is in use by process .*Fix: wait"):
        write_cohort(tmp_path, "X", **small)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (Location.at("/data/BLCA"), "/data/BLCA"),
        (Location.at("file:///data/BLCA"), "/data/BLCA"),
        (
            Location(fs.S3FileSystem(anonymous=True, region="eu-west-1"), "bucket/data") / "BLCA",
            "s3://bucket/data/BLCA",
        ),
        (Location(fs.GcsFileSystem(anonymous=True), "bucket/data") / "BLCA", "gs://bucket/data/BLCA"),
        (Location.at("mock:///data") / "BLCA", "mock://data/BLCA"),
    ],
    ids=["a path", "a file's URI", "S3", "Google", "mock"],
)
def test_the_text_of_a_location_can_be_pasted_back(place, name):
    assert str(place) == name


def test_messages_give_the_full_uri_of_a_bucket(tmp_path, small):
    bucket = Location(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "data")
    write_cohort(tmp_path / "data", "X", **small)
    cohort = Cohort.load(bucket, "X")
    first, second = cohort.slides.to_dict("records")[:2]
    file = f"{bucket}/X/features/{file_name(first['slide_id'])}"
    with pytest.raises(DataError, match=f"{file}: the features of slide"):
        read_slides(cohort.features, [{**first, "sha256": second["sha256"]}])
    (tmp_path / "data/X/cases.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=f"{bucket}/X/cases.parquet: cannot be read"):
        Cohort.load(bucket, "X")


def test_a_missing_csv_has_no_rows(tmp_path):
    table = Location.at(tmp_path / "list.csv").read_csv(["id", "why"])
    assert list(table) == ["id", "why"] and table.empty


def test_csv_cells_are_text_and_unchanged(tmp_path):
    table = pd.DataFrame({"id": ["007", "NA"], "why": ['a, "b"\nc', ""]})
    table.to_csv(tmp_path / "list.csv", index=False)
    pd.testing.assert_frame_equal(Location.at(tmp_path / "list.csv").read_csv(["id", "why"]), table)
    with_bom = "\ufeffid,why\r\n\r\n007,x\r\n"  # as Excel saves it
    (tmp_path / "list.csv").write_bytes(with_bom.encode())
    assert Location.at(tmp_path / "list.csv").read_csv(["id", "why"]).to_numpy().tolist() == [["007", "x"]]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", ": has the columns none; expected id, why"),
        ("\n\n", ": has the columns none; expected id, why"),
        ("007,x\n", ": has the columns '007', 'x'; expected id, why"),
        ("id;why\n007;x\n", ": has the columns 'id;why'; expected id, why"),
        ("id\n007\n", ": has the columns 'id'; expected id, why"),
        ("why,id\nx,007\n", ": has the columns 'why', 'id'; expected id, why"),
        ("id,why,more\n007,x,y\n", ": has the columns 'id', 'why', 'more'; expected id, why"),
        ("id,why\n007,x, y\n", ":2: 3 cells; expected id, why"),
        ("id,why\n007,x\n\n008\n", ":4: 1 cells; expected id, why"),
        ('id,why\n007,"x\n', ":2: is not valid CSV (unexpected end of data)"),
    ],
)
def test_problems_of_an_edited_csv_are_listed_with_place_and_fix(tmp_path, text, where):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError) as error:
        Location.at(tmp_path / "list.csv").read_csv(["id", "why"])
    assert error.value.problems == [f"{tmp_path}/list.csv{where}. Fix: correct it, or remove it and import again."]


@pytest.mark.parametrize("address", ["s3://AKIA:secret@bucket/data", "gs://user:secret@bucket"])
def test_keys_in_an_address_are_refused_and_not_repeated(address):
    """They would be printed, and written to the results."""
    with pytest.raises(UsageError, match="the address of the bucket 'bucket' contains keys") as refused:
        Location.at(address)
    assert "secret@" not in str(refused.value) and "AKIA:" not in str(refused.value)


def test_a_bucket_where_a_folder_is_needed_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"s3://bucket/data: a folder of this machine is needed here. Fix: "):
        Location.at(Path("s3://bucket/data"))
    from survq.cli import main

    assert main(["simulate", "s3://bucket/data"]) == 64
    assert list(tmp_path.iterdir()) == [], "a folder named `s3:`"


def test_a_reason_is_whole_and_its_cure_fits():
    denied = OSError("When reading information for key 'data/BLCA' in bucket 'b': AWS Error ACCESS_DENIED during " * 3)
    message = unreadable("s3://b/data/BLCA/features/a.parquet", denied)
    assert message.count("ACCESS_DENIED") == 3 and "give every node the right to read it" in message
    long = unreadable("a.parquet", OSError("words " * 200))
    assert "words ...). Fix: restore it or import it again." in long and len(long) < 600
