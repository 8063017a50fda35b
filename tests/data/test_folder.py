"""Files appear whole, several of them together."""

import os

import pandas as pd
import pytest

from survq.data.folder import Folder
from survq.data.problems import DataError


def test_several_files_appear_together_or_not_at_all(tmp_path, tree):
    folder = Folder.at(tmp_path)
    folder.write_files({"a": b"old", "b": b"old"})
    before = tree(tmp_path)
    with pytest.raises(TypeError):
        folder.write_files({"a": b"new", "b": "no bytes"})
    assert tree(tmp_path) == before
    folder.write_files({"a": b"new", "b": memoryview(b"new")})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"new", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_is_left_of_a_failed_renaming_is_removed(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "in the way").touch()
    with pytest.raises(OSError):
        Folder.at(tmp_path).write_files({"a": b"new", "b": b"new"})
    assert set(os.listdir(tmp_path)) <= {"a", "b"}


def test_a_folder_is_made_where_it_is_written_to(tmp_path):
    Folder.at(tmp_path / "new" / "folder").write_files({"a": b"1", "b": b"2"})
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["a", "b"]


def test_a_list_that_is_not_there_has_no_rows(tmp_path):
    table = Folder.at(tmp_path / "list.csv").read_csv(["id", "why"])
    assert list(table) == ["id", "why"] and table.empty


def test_a_list_is_text_as_it_was_written(tmp_path):
    table = pd.DataFrame({"id": ["007", "NA"], "why": ['a, "b"\nc', ""]})
    table.to_csv(tmp_path / "list.csv", index=False)
    pd.testing.assert_frame_equal(Folder.at(tmp_path / "list.csv").read_csv(["id", "why"]), table)
    with_mark = "\ufeffid,why\r\n\r\n007,x\r\n"  # as Excel saves it
    (tmp_path / "list.csv").write_bytes(with_mark.encode())
    assert Folder.at(tmp_path / "list.csv").read_csv(["id", "why"]).to_numpy().tolist() == [["007", "x"]]


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
        ('id,why\n007,"x\n', ":2: is no table (unexpected end of data)"),
    ],
)
def test_a_list_that_was_edited_is_told_with_place_and_mend(tmp_path, text, where):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError) as error:
        Folder.at(tmp_path / "list.csv").read_csv(["id", "why"])
    assert error.value.problems == [f"{tmp_path}/list.csv{where}. Mend: correct it, or remove it and import again."]
