"""Files appear whole, several of them together."""

import os

import pytest

from survq.data.folder import Folder


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
