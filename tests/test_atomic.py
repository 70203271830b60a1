"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from permafrost import atomic as files
from permafrost.atomic import (
    TEMPORARY_PREFIX,
    clear_leftovers,
    commit_bytes,
    leftovers,
    replacing,
    temporary_folder,
    temporary_name,
)
from permafrost.errors import WriteError


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


# What dead processes left behind


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(folder: Path, process: int, name: str = "shard.h5") -> Path:
    path = folder / f".tmp-{process}-0123abcd-{name}"
    path.write_bytes(b"half")
    return path


def test_what_a_dead_process_left_is_cleared_files_and_folders(tmp_path, dead):
    left_by(tmp_path, dead)
    run = tmp_path / f".tmp-{dead}-0123abcd-run"
    run.mkdir()
    (run / "model.keras").write_bytes(b"half")

    clear_leftovers(tmp_path)

    assert os.listdir(tmp_path) == []


def test_what_a_living_process_writes_stays(tmp_path):
    path = left_by(tmp_path, os.getpid())

    clear_leftovers(tmp_path)

    assert path.exists()


def test_what_is_locked_stays_whatever_its_process(tmp_path, dead):
    # As when another machine or container, whose processes have numbers of their own, writes here.
    path = left_by(tmp_path, dead)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_leftovers(tmp_path)
        assert path.exists()

    clear_leftovers(tmp_path)

    assert not path.exists()


def test_what_is_being_written_is_locked(tmp_path, dead, monkeypatch):
    monkeypatch.setattr(files.os, "getpid", lambda: dead)
    with replacing(tmp_path / "file") as first, temporary_folder(tmp_path / "run") as second:
        first.write_bytes(b"content")
        assert leftovers(tmp_path) == []
        clear_leftovers(tmp_path)
        assert first.exists() and second.exists()

    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_a_process_that_was_given_a_dead_ones_number_keeps_nothing(tmp_path):
    # In a container the same few numbers come again with every start.
    path = left_by(tmp_path, os.getpid())
    os.utime(path, (0, 10**9))

    clear_leftovers(tmp_path)

    assert not path.exists()


def test_other_hidden_files_stay_and_a_link_is_not_followed(tmp_path, dead):
    others = [tmp_path / name for name in (".tmp-mine", ".tmp-12-notes", ".tmp-x-0123abcd-y", ".hidden", "shard.h5")]
    for path in others:
        path.write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f".tmp-{dead}-0123abcd-run").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / f".tmp-{dead}-0123abcd-fifo")

    clear_leftovers(tmp_path)

    assert all(path.exists() for path in others)
    assert (tmp_path / "elsewhere").is_dir()
    assert not (tmp_path / f".tmp-{dead}-0123abcd-fifo").exists()


def test_a_folder_that_is_not_there_has_no_leftovers(tmp_path):
    clear_leftovers(tmp_path / "gone")
