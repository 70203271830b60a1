"""Files are written atomically."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from permafrost import atomic
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
from permafrost.locks import try_lock


def test_commit_bytes_makes_missing_folders_and_leaves_only_the_file(tmp_path):
    commit_bytes(tmp_path / "a" / "b" / "file", b"content")

    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


def test_commit_bytes_replaces_an_existing_file(tmp_path):
    commit_bytes(tmp_path / "file", b"old, and longer")
    commit_bytes(tmp_path / "file", memoryview(b"new"))

    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    commit_bytes(tmp_path / "file", b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, fails, refuse)
    with pytest.raises(WriteError, match=r"^cannot write .*file: No space left on device\. Free some space"):
        commit_bytes(tmp_path / "file", b"new")

    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_while_writing_leaves_the_old_file_and_is_passed_on(tmp_path, error):
    commit_bytes(tmp_path / "file", b"old")

    with pytest.raises(error), replacing(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half")
        raise error

    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made_is_named_in_the_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(WriteError, match=r"cannot write .*/file/below/deeper: Not a directory"):
        commit_bytes(tmp_path / "file" / "below" / "deeper", b"content")


def test_the_file_is_synced_before_the_rename_and_its_folder_after_it(tmp_path, monkeypatch):
    done = []
    sync, rename = os.fsync, os.replace

    def fsync(handle):
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        sync(handle)

    def replace(source, target):
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", replace)
    commit_bytes(tmp_path / "file", b"content")

    assert done == ["file", "rename", "folder"]


def test_the_parents_of_new_folders_are_synced_too(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync

    def fsync(handle):
        synced.append(os.fstat(handle).st_ino)
        sync(handle)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    commit_bytes(tmp_path / "a" / "b" / "file", b"content")
    with temporary_folder(tmp_path / "c" / "d" / "run"):
        pass

    folders = {os.stat(tmp_path / name).st_ino: name for name in (".", "a", "a/b", "c")}
    assert [folders[number] for number in synced if number in folders] == [".", "a", "a/b", ".", "c"]


@pytest.mark.parametrize("supported", [True, False])
def test_macos_syncs_to_the_disk_itself_where_the_file_system_can(tmp_path, monkeypatch, supported):
    calls = []

    def control(handle, command):
        calls.append(command)
        if not supported:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(atomic.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(atomic.fcntl, "fcntl", control)
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: calls.append("fsync"))
    commit_bytes(tmp_path / "file", b"content")

    assert calls == ([51, 51] if supported else [51, "fsync", 51, "fsync"])  # The file, and its folder.


def test_a_temporary_name_is_hidden_keeps_the_extension_and_is_unique(tmp_path):
    names = {temporary_name(tmp_path / "model.keras") for _ in range(100)}

    assert len(names) == 100
    for name in names:
        assert name.parent == tmp_path
        assert name.name.startswith(TEMPORARY_PREFIX) and TEMPORARY_PREFIX.startswith(".")
        assert name.suffix == ".keras"


# Temporary files of crashed processes


@pytest.fixture(scope="module")
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by(folder: Path, process: int, name: str = "shard.h5") -> Path:
    path = folder / f".tmp-{process}-0123abcd-{name}"
    path.write_bytes(b"half")
    return path


def test_temporary_files_and_folders_of_a_dead_process_are_removed(tmp_path, dead):
    left_by(tmp_path, dead)
    run = tmp_path / f".tmp-{dead}-0123abcd-run"
    run.mkdir()
    (run / "model.keras").write_bytes(b"half")

    clear_leftovers(tmp_path)

    assert os.listdir(tmp_path) == []


def test_a_temporary_file_of_a_running_process_stays(tmp_path):
    path = left_by(tmp_path, os.getpid())

    clear_leftovers(tmp_path)

    assert path.exists()


def test_a_locked_temporary_file_stays_even_if_its_process_is_unknown_here(tmp_path, dead):
    # Another machine or container writes here; its processes have other numbers.
    path = left_by(tmp_path, dead)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        clear_leftovers(tmp_path)
        assert path.exists()

    clear_leftovers(tmp_path)

    assert not path.exists()


def test_temporary_files_and_folders_are_locked_while_they_are_written(tmp_path, dead, monkeypatch):
    monkeypatch.setattr(atomic.os, "getpid", lambda: dead)
    with replacing(tmp_path / "file") as first, temporary_folder(tmp_path / "run") as second:
        first.write_bytes(b"content")
        assert leftovers(tmp_path) == []
        clear_leftovers(tmp_path)
        assert first.exists() and second.exists()

    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def is_locked(path):
    """Return whether `path` has an exclusive lock."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


@pytest.mark.parametrize("writing", [replacing, temporary_folder])
def test_a_writer_locks_its_temporary_file_even_while_another_process_looks_for_leftovers(
    tmp_path, monkeypatch, writing
):
    flock, looks = fcntl.flock, []

    def with_a_look_before_it(handle, kind):
        if kind & fcntl.LOCK_EX and not looks:
            (path,) = tmp_path.iterdir()
            looks.append(os.open(path, os.O_RDONLY))
            flock(looks[0], fcntl.LOCK_SH)
            threading.Timer(0.1, os.close, looks).start()
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", with_a_look_before_it)
    with writing(tmp_path / "result") as temporary:
        assert is_locked(temporary)

    assert looks


@pytest.mark.parametrize("writing", [replacing, temporary_folder])
def test_a_temporary_file_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch, writing):
    # In another container the writer's process number is not known, and the lock comes a moment after the file.
    flock, removed = fcntl.flock, []

    def with_a_removal_before_it(handle, kind):
        if kind & fcntl.LOCK_EX and not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].rmdir() if removed[0].is_dir() else removed[0].unlink()
        flock(handle, kind)

    monkeypatch.setattr(fcntl, "flock", with_a_removal_before_it)
    with writing(tmp_path / "result") as temporary:
        assert temporary.exists() and is_locked(temporary)

    assert len(removed) == 1 and temporary != removed[0]


def test_a_leftover_cannot_be_locked_while_it_is_removed(tmp_path, dead, monkeypatch):
    path = left_by(tmp_path, dead)
    unlink, seen = Path.unlink, []

    def watched(self, **options):
        handle = os.open(self, os.O_RDONLY)
        seen.append(try_lock(handle, exclusive=True))
        os.close(handle)
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    clear_leftovers(tmp_path)

    assert seen == [False]
    assert not path.exists()


def test_a_reused_process_number_does_not_keep_an_old_temporary_file(tmp_path):
    # In a container the same few numbers return with every start.
    path = left_by(tmp_path, os.getpid())
    os.utime(path, (0, 10**9))

    clear_leftovers(tmp_path)

    assert not path.exists()


def test_other_hidden_files_stay_and_links_are_not_followed(tmp_path, dead):
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


def test_a_missing_folder_has_no_leftovers(tmp_path):
    clear_leftovers(tmp_path / "gone")

    assert leftovers(tmp_path / "gone") == []
