"""The places where stores lie keep the promises of their interface."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from permafrost.errors import WriteError
from permafrost.store.memory_storage import MemoryStorage
from permafrost.store.pruning import prune
from permafrost.store.storage import LocalStorage
from permafrost.store.storage_suite import WAIT, StorageSuite
from permafrost.store.store import DESCRIPTION_FILE, Store, store_folder
from samples import WHOLE_SPEC


class TestLocalStorage(StorageSuite):
    def make(self, folder):
        return LocalStorage(folder / "new" / "place")


class TestMemoryStorage(StorageSuite):
    def make(self, folder):
        return MemoryStorage()


# Folders


@pytest.fixture
def storage(tmp_path) -> LocalStorage:
    return LocalStorage(tmp_path / "new" / "place")


@pytest.mark.parametrize("put", ["put", "put_if_absent"])
def test_a_file_its_folder_and_new_parents_are_synced_in_this_order(storage, monkeypatch, put):
    synced, sync = [], os.fsync

    def record(handle):
        synced.append(os.stat(handle))
        sync(handle)

    monkeypatch.setattr(os, "fsync", record)
    getattr(storage, put)("a", b"some bytes")

    above = [os.stat(folder) for folder in (storage.folder.parents[1], storage.folder.parent)]
    expected = [*above, os.stat(storage.folder / "a"), os.stat(storage.folder)]
    assert [status.st_ino for status in synced] == [status.st_ino for status in expected]
    assert stat.S_ISREG(synced[2].st_mode)


@pytest.mark.parametrize("put", ["put", "put_if_absent"])
def test_a_full_disk_leaves_nothing_behind(storage, monkeypatch, put):
    storage.put("a", b"before")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*/b: No space left on device"):
        getattr(storage, put)("b", b"some bytes")

    assert os.listdir(storage.folder) == ["a"]


def test_an_absent_file_is_put_once_where_there_are_no_hard_links(storage, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)

    assert storage.put_if_absent("a", b"first")
    assert not storage.put_if_absent("a", b"second")
    assert storage.get("a") == b"first" and os.listdir(storage.folder) == ["a"]


def test_files_being_written_are_not_listed(storage):
    storage.put("a", b"1")
    (storage.folder / ".tmp-1-0123abcd-b").write_bytes(b"half")

    assert storage.list() == ["a"]


def test_what_a_crashed_process_left_is_found_and_removed(storage):
    storage.put("a", b"1")
    (storage.folder / ".tmp-4194305-0123abcd-b").write_bytes(b"half")
    (storage.folder / ".tmp-4194305-0123abcd-c").mkdir()
    (storage.folder / ".tmp-4194305-0123abcd-c" / "part").write_bytes(b"a part")
    (storage.folder / f".tmp-{os.getpid()}-0123abcd-d").write_bytes(b"of this process")

    found = storage.leftovers()

    assert [(Path(each.location).name[-1], each.size) for each in found] == [("b", 4), ("c", 6)]
    for each in found:
        each.remove()
    assert storage.leftovers() == [] and storage.list() == ["a"]
    assert len(os.listdir(storage.folder)) == 2


def test_a_folder_that_is_missing_cannot_be_held_exclusively_and_is_not_made(storage):
    assert storage.hold(exclusive=True) is None
    assert not storage.folder.exists()


HOLDER = """
    import sys
    from permafrost.store.storage import LocalStorage

    held = LocalStorage(sys.argv[1]).hold(exclusive=False)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_holds_between_processes_and_ends_with_its_process(storage):
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(storage.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert storage.hold(exclusive=True) is None
        holder.kill()

    assert storage.hold(exclusive=True) is not None


# Stores that are made while others are pruned


def test_a_store_that_is_made_and_held_is_not_pruned_in_between(tmp_path, monkeypatch):
    put, pruned = LocalStorage.put_if_absent, []

    def pruned_meanwhile(self, name, data):
        written = put(self, name, data)
        pruned.append(prune(tmp_path, confirm=lambda _: True))
        return written

    monkeypatch.setattr(LocalStorage, "put_if_absent", pruned_meanwhile)
    store = Store.create(tmp_path / "store", WHOLE_SPEC, about={}, hold=True)

    assert len(pruned) == 1
    assert (store.folder / DESCRIPTION_FILE).exists()
    assert store.storage.hold(exclusive=True) is None


def removed_while_waited_for(folder: Path, act):
    """Call `act`, which waits for a lock on `folder`, and remove the folder before it gets the lock."""
    exclusive = LocalStorage(folder).hold(exclusive=True)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(act)
        time.sleep(WAIT)
        assert not waiting.done()
        shutil.rmtree(folder)
        exclusive.close()
        return waiting.result(10)


def test_a_store_that_is_pruned_while_it_is_waited_for_is_made_anew(tmp_path):
    Store.create(tmp_path, WHOLE_SPEC, about={})

    store = removed_while_waited_for(
        store_folder(tmp_path, WHOLE_SPEC), lambda: Store.create(tmp_path, WHOLE_SPEC, about={"new": True}, hold=True)
    )

    assert Store(store.folder).about == {"new": True}
    assert store.storage.hold(exclusive=True) is None


def test_a_store_that_is_pruned_while_it_is_waited_for_is_not_found(tmp_path):
    Store.create(tmp_path, WHOLE_SPEC, about={})

    found = removed_while_waited_for(store_folder(tmp_path, WHOLE_SPEC), lambda: Store.find(tmp_path, WHOLE_SPEC))

    assert found is None
