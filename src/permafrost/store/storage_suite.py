"""The tests that every `Storage` must pass. A test file runs them by inheriting them:

    class TestBucketStorage(StorageSuite):
        def make(self, folder):
            return BucketStorage(folder / "bucket")

`make` is called with an empty folder for each test and returns a place that does not exist yet.
"""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from permafrost.errors import SetError
from permafrost.store.compaction import MANY, compact
from permafrost.store.description import describe_set
from permafrost.store.feature_set import open_features
from permafrost.store.hdf5 import hdf5_bytes
from permafrost.store.row_index import RowIndex, place_rows
from permafrost.store.set_content import SetContent
from permafrost.store.set_file import write_set
from permafrost.store.set_reading import read_set, set_names
from permafrost.store.shard import Rows
from permafrost.store.storage import Storage, StoredObject
from permafrost.store.store import Store
from permafrost.trunk.spec import TrunkSpec

WAIT = 0.05
"""Seconds after which a call that has not returned counts as waiting."""

SPEC = TrunkSpec(
    architecture="a" * 64,
    weights="b" * 64,
    preprocessing="tf",
    image_size=(32, 32),
    pooling="none",
    precision="float32",
    dtype="float32",
    base="tiny",
    weights_source="none",
    cut="top",
    shapes=((3,),),
)


class StorageSuite:
    """Tests of the promises of `Storage`."""

    def make(self, folder: Path) -> Storage:
        """Return a new, empty place; `folder` is free for it to use."""
        raise NotImplementedError

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        """A new, empty place."""
        return self.make(tmp_path)

    # Objects

    def test_a_new_place_is_empty_and_missing_objects_are_not_found(self, storage: Storage) -> None:
        assert storage.list() == []
        assert not storage.exists("a")
        for read in (storage.get, storage.open, storage.stat):
            with pytest.raises(FileNotFoundError):
                read("a")
        storage.delete("a")

    @pytest.mark.parametrize("data", [b"", b"some bytes", bytes(range(256)) * 5000], ids=["none", "few", "many"])
    def test_bytes_come_back(self, storage: Storage, data: bytes) -> None:
        storage.put("a", data)

        assert storage.get("a") == data
        with storage.open("a") as file:
            assert file.read(7) == data[:7]
        assert storage.exists("a") and storage.list() == ["a"]
        assert storage.stat("a").size == len(data)

    def test_an_object_is_replaced_whole(self, storage: Storage) -> None:
        storage.put("a", b"the first, a long one")
        storage.put("a", b"second")

        assert storage.get("a") == b"second"
        assert storage.list() == ["a"]

    def test_names_are_sorted_and_objects_have_the_times_of_their_writing(self, storage: Storage) -> None:
        for name in ("c.h5", "a.h5", "b"):
            storage.put(name, name.encode())
            time.sleep(0.01)

        assert storage.list() == ["a.h5", "b", "c.h5"]
        assert sorted(storage.list(), key=lambda name: storage.stat(name).modified) == ["c.h5", "a.h5", "b"]

    def test_a_deleted_object_is_gone_and_may_be_put_again(self, storage: Storage) -> None:
        storage.put("a", b"1")
        storage.delete("a")

        assert storage.list() == [] and not storage.exists("a")
        assert storage.put_if_absent("a", b"2")
        assert storage.get("a") == b"2"

    def test_put_if_absent_leaves_an_existing_object_alone(self, storage: Storage) -> None:
        assert storage.put_if_absent("a", b"first")
        assert not storage.put_if_absent("a", b"second")

        assert storage.get("a") == b"first"
        assert storage.list() == ["a"]

    def test_exactly_one_of_many_concurrent_puts_of_an_absent_object_writes_it(self, storage: Storage) -> None:
        barrier = threading.Barrier(8)

        def put(number: int) -> bool:
            barrier.wait()
            return storage.put_if_absent("a", b"%d" % number)

        with ThreadPoolExecutor(8) as threads:
            wrote = list(threads.map(put, range(8)))

        assert sum(wrote) == 1
        assert storage.get("a") == b"%d" % wrote.index(True)

    def test_readers_see_an_object_whole_while_it_is_replaced(self, storage: Storage) -> None:
        values = [b"a" * 100_000, b"b" * 200_000]
        storage.put("a", values[0])

        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit(lambda: [storage.put("a", values[turn % 2]) for turn in range(20)])
            while not writing.done():
                assert storage.get("a") in values
                assert storage.list() == ["a"]
            writing.result()

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", ".hidden", "a\\b", "a\0"])
    def test_a_name_that_could_lead_elsewhere_is_refused(self, storage: Storage, name: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: storage.get(name),
            lambda: storage.put(name, b""),
            lambda: storage.put_if_absent(name, b""),
            lambda: storage.delete(name),
            lambda: storage.stat(name),
            lambda: storage.exists(name),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="not the name of an object"):
                call()
        assert storage.list() == []

    def test_error_messages_can_name_an_object_and_its_place(self, storage: Storage) -> None:
        assert storage.location("a.h5").startswith(storage.location())
        assert storage.location("a.h5").endswith("a.h5")

    def test_h5py_opens_what_is_readable(self, storage: Storage) -> None:
        def fill(file: h5py.File) -> None:
            file["numbers"] = np.arange(1000)

        storage.put("a.h5", hdf5_bytes(fill))

        with h5py.File(storage.readable("a.h5"), "r", locking=False) as file:
            assert file["numbers"][10:13].tolist() == [10, 11, 12]

    # Places

    def test_a_place_below_has_its_own_objects(self, storage: Storage) -> None:
        storage.put("a", b"here")
        storage.below("b/c").put("a", b"below")

        assert storage.get("a") == b"here"
        for below in (storage.below("b/c"), storage.below("b").below("c")):
            assert below.list() == ["a"] and below.get("a") == b"below"
        assert not storage.below("b").exists("a") and not storage.below("c").exists("a")
        assert storage.below("c").list() == []

    def test_finished_writes_leave_nothing_behind(self, storage: Storage) -> None:
        assert storage.leftovers() == []
        storage.put("a", b"1")
        storage.put_if_absent("a", b"2")

        assert storage.leftovers() == []

    # Locks

    def test_several_may_hold_shared_locks_and_write(self, storage: Storage) -> None:
        with storage.hold(exclusive=False) or pytest.fail(), storage.hold(exclusive=False) or pytest.fail():
            storage.put("a", b"1")

        assert storage.get("a") == b"1"

    def test_an_exclusive_lock_excludes_all_others(self, storage: Storage) -> None:
        storage.put("a", b"1")
        shared = storage.hold(exclusive=False)
        assert shared is not None and storage.hold(exclusive=True) is None

        shared.close()
        shared.close()

        exclusive = storage.hold(exclusive=True)
        assert exclusive is not None and storage.hold(exclusive=True) is None
        del exclusive
        gc.collect()
        assert storage.hold(exclusive=True) is not None

    def test_a_shared_lock_waits_for_an_exclusive_one(self, storage: Storage) -> None:
        storage.put("a", b"1")
        exclusive = storage.hold(exclusive=True)
        assert exclusive is not None

        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(lambda: storage.hold(exclusive=False))
            time.sleep(WAIT)
            assert not waiting.done()
            exclusive.close()
            assert waiting.result(10) is not None
            assert storage.hold(exclusive=True) is None

    # Sets and stores

    def test_a_set_and_its_store_give_features_back(self, storage: Storage) -> None:
        store = Store.create_at(storage.below(f"store/{SPEC.folder_name}"), SPEC, about={})
        digests = np.random.default_rng(0).integers(0, 256, (4, 32), dtype=np.uint8)
        features = np.arange(12, dtype=np.float32).reshape(4, 3)
        shard = store.append(Rows(digests, np.zeros(4, np.int32), (features,)), engine="none")
        content = SetContent(
            spec=SPEC,
            store=f"store/{SPEC.folder_name}",
            root="/data/photos",
            names=[f"{row}.jpg" for row in range(4)],
            digests=digests,
            labels=np.array([0, 1, 0, 1]),
            splits=np.array([0, 0, 1, 2], np.uint8),
            class_names=("a", "b"),
            shards=(shard,),
            places=np.array([(0, row) for row in range(4)]),
            skipped=(),
            about={},
        )

        place = StoredObject(storage, "set.h5")
        write_set(place, content)
        opened = open_features(place)

        assert np.array_equal(opened.arrays()[0], features)
        assert opened.labels("train").tolist() == [0, 1]
        assert str(opened.place) == storage.location("set.h5")
        assert describe_set(opened)["store"] == store.storage.location()
        assert set_names(storage) == ["set.h5"]
        storage.put("set.h5", storage.get("set.h5")[:-1])
        with pytest.raises(SetError, match=re.escape(f"not a feature set: {place}")):
            read_set(place)
        storage.delete("set.h5")
        with pytest.raises(SetError, match=re.escape(f"no feature set at {place}")):
            open_features(place)

    def test_a_store_writes_merges_and_reads_its_rows(self, storage: Storage) -> None:
        store = Store.create_at(storage, SPEC, about={}, hold=True)
        digests = np.random.default_rng(0).integers(0, 256, (MANY + 1, 32), dtype=np.uint8)
        features = np.arange(3 * len(digests), dtype=np.float32).reshape(-1, 3)
        for row in range(len(digests)):
            part = slice(row, row + 1)
            store.append(Rows(digests[part], np.zeros(1, np.int32), (features[part],)), engine="none")

        assert compact(store)

        (shard,) = store.shard_names()
        assert store.verify(shard) == len(digests)
        again = Store(storage)
        addresses = RowIndex(again).find_all([(digest.tobytes(), 0) for digest in digests])
        shards, places = place_rows([address for address in addresses if address is not None])
        assert np.array_equal(again.gather(shards, places, digests=digests)[0], features)
