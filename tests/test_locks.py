"""Folders can be locked."""

from __future__ import annotations

import gc
import sys

import pytest

from permafrost.errors import StoreError
from permafrost.locks import FolderLock


def test_shared_locks_go_together_and_exclude_an_exclusive_one(tmp_path):
    with FolderLock(tmp_path, exclusive=False) as first, FolderLock(tmp_path, exclusive=False) as second:
        assert first.held and second.held
        assert not FolderLock(tmp_path, exclusive=True).held

    with FolderLock(tmp_path, exclusive=True) as lock:
        assert lock.held


def test_locking_a_missing_folder_is_one_clear_error_and_nothing_else(tmp_path, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    with pytest.raises(StoreError, match=r"^cannot lock the folder .*/gone: No such file or directory$"):
        FolderLock(tmp_path / "gone", exclusive=True)
    gc.collect()

    assert ignored == []


def test_a_lock_is_not_that_of_a_new_folder_in_the_place_of_the_locked_one(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()

    with FolderLock(folder, exclusive=True) as lock:
        assert lock.is_at(folder)
        folder.rename(tmp_path / "moved")
        assert not lock.is_at(folder)
        folder.mkdir()
        assert not lock.is_at(folder)
        assert lock.is_at(tmp_path / "moved")
