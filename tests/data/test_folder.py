"""Files appear whole, several of them together."""

import os

import pytest

from survq.data.folder import Folder, replace_files


def test_several_files_appear_together_or_not_at_all(tmp_path, tree):
    first, second = tmp_path / "a", tmp_path / "b"
    replace_files({first: b"old", second: b"old"})
    before = tree(tmp_path)
    with pytest.raises(TypeError):
        replace_files({first: b"new", second: "no bytes"})
    assert tree(tmp_path) == before
    replace_files({first: b"new", second: memoryview(b"new")})
    assert (first.read_bytes(), second.read_bytes()) == (b"new", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_is_left_of_a_failed_renaming_is_removed(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "in the way").touch()
    with pytest.raises(OSError):
        replace_files({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_folder_is_made_where_it_is_written_to(tmp_path):
    Folder.at(tmp_path / "new" / "folder").write_files({"a": b"1", "b": b"2"})
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["a", "b"]
