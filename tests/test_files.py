"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from permafrost import files
from permafrost.errors import WriteError
from permafrost.files import TEMPORARY_PREFIX, commit_bytes, replacing, temporary_name


def test_committed_bytes_are_there_in_folders_that_were_made_for_them(tmp_path):
    commit_bytes(tmp_path / "a" / "b" / "file", b"content")

    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_committing_again_replaces_what_was_there(tmp_path):
    commit_bytes(tmp_path / "file", b"old, and longer")
    commit_bytes(tmp_path / "file", memoryview(b"new"))

    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    commit_bytes(tmp_path / "file", b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, fails, refuse)
    with pytest.raises(WriteError, match=r"^cannot write .*file: No space left on device\. Free some space"):
        commit_bytes(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_goes_wrong_while_writing_leaves_the_old_file_and_goes_on_up(tmp_path, error):
    commit_bytes(tmp_path / "file", b"old")

    with pytest.raises(error), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise error

    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(WriteError, match=r"cannot write .*/file/below/deeper: Not a directory"):
        commit_bytes(tmp_path / "file" / "below" / "deeper", b"content")


def test_bytes_are_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, os.replace

    def fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replace(source, target):
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    commit_bytes(tmp_path / "file", b"content")

    assert done == ["file", "rename", "folder"]


def test_a_temporary_name_is_hidden_beside_its_file_keeps_its_ending_and_is_never_given_twice(tmp_path):
    names = {temporary_name(tmp_path / "model.keras") for _ in range(100)}

    assert len(names) == 100
    for name in names:
        assert name.parent == tmp_path
        assert name.name.startswith(TEMPORARY_PREFIX) and TEMPORARY_PREFIX.startswith(".")
        assert name.suffix == ".keras"
