"""Compaction merges many small shards into few, and loses nothing."""

from __future__ import annotations

import os

import numpy as np
import pytest

from permafrost.errors import ShardError, WriteError
from permafrost.extraction.cache import CachedStore
from permafrost.store import compaction
from permafrost.store.compaction import compact
from permafrost.store.feature_set import open_features
from permafrost.store.row_index import RowIndex, place_rows
from permafrost.store.row_reader import LocatedRows, read_rows
from permafrost.store.set_content import ViewRows
from permafrost.store.set_file import write_set
from permafrost.store.shard import Rows
from permafrost.store.store import Store
from samples import WHOLE_SPEC, make_content, make_rows, spec_with, write_parts

ENGINE = "keras/tensorflow"
COUNT = 8
TWO = spec_with(shapes=((2, 3), (4,)), dtype="float16")


def fill(store: Store, count: int = COUNT, *, engines: tuple[str, ...] = (ENGINE,)) -> dict[bytes, list[bytes]]:
    """Commit `count` shards of three rows; return by digest the bytes of each row's tensors."""
    committed = {}
    for seed in range(count):
        rows = make_rows(store.spec, 3, seed=seed)
        store.append(rows, engine=engines[seed % len(engines)])
        for row in range(3):
            committed[rows.digests[row].tobytes()] = [tensor[row].tobytes() for tensor in rows.features]
    return committed


def found(store: Store, wanted: dict[bytes, list[bytes]]) -> dict[bytes, list[bytes]]:
    """Return by digest the bytes of each wanted row's tensors that the store has."""
    index, back = RowIndex(store), {}
    for digest in wanted:
        address = index.find(digest)
        if address:
            tensors = [np.empty((1, *shape), store.spec.dtype) for shape in store.spec.shapes]
            known = np.frombuffer(digest, np.uint8)[None]
            store.read(address.shard, np.array([address.row]), tensors, at=np.array([0]), digests=known)
            back[digest] = [tensor.tobytes() for tensor in tensors]
    return back


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """Let few shards count as many, because each commit waits for the disk."""
    monkeypatch.setattr(compaction, "MANY", 6)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.create(tmp_path / "store", WHOLE_SPEC, about={})


@pytest.mark.parametrize("spec", [WHOLE_SPEC, TWO], ids=["one tensor", "two of float16"])
def test_many_small_shards_become_one_with_the_same_rows_bit_for_bit(tmp_path, spec):
    store = Store.create(tmp_path, spec, about={})
    committed = fill(store)

    assert compact(store)

    (shard,) = store.shard_names()
    assert store.verify(shard) == 3 * COUNT
    assert found(store, committed) == committed


def test_few_shards_stay_as_they_are(store):
    fill(store, compaction.MANY)
    before = store.shard_names()

    assert not compact(store)

    assert store.shard_names() == before


def test_large_shards_stay_and_merged_ones_do_not_grow_beyond_the_limit(store, monkeypatch):
    committed = fill(store)
    large = store.append(make_rows(WHOLE_SPEC, 200, seed=999), engine=ENGINE)
    monkeypatch.setattr(compaction, "SMALL_BYTES", (store.folder / large).stat().st_size)
    monkeypatch.setattr(compaction, "FULL_BYTES", 6 * 24)

    compact(store)

    assert large in store.shard_names()
    sizes = [len(store.read_index(name)[0]) for name in store.shard_names() if name != large]
    assert sizes == [6] * 4
    assert found(store, committed) == committed


def test_rows_of_different_engines_are_not_mixed(store):
    committed = fill(store, engines=("keras/tensorflow", "openvino"))

    compact(store)

    assert sorted(store.load(name)[1] for name in store.shard_names()) == ["keras/tensorflow", "openvino"]
    assert found(store, committed) == committed


def test_views_of_one_image_stay_apart(store):
    rows = make_rows(WHOLE_SPEC, COUNT)
    rows.digests[:] = rows.digests[0]
    for view in range(COUNT):
        part = Rows(rows.digests[:1], np.array([view], np.int32), (rows.features[0][view : view + 1],))
        store.append(part, engine=ENGINE)

    compact(store)

    index = RowIndex(store)
    assert len(index) == COUNT
    for view in range(COUNT):
        address = index.find(rows.digests[0].tobytes(), view)
        assert np.array_equal(store.gather([address.shard], np.array([[0, address.row]]))[0][0], rows.features[0][view])


def test_duplicate_rows_of_small_shards_are_stored_once_afterwards(store):
    committed = fill(store)
    for seed in range(COUNT):
        rows = make_rows(WHOLE_SPEC, 3, seed=seed)
        store.append(rows.take(slice(2)), engine=ENGINE)

    compact(store)

    (shard,) = store.shard_names()
    assert store.verify(shard) == 3 * COUNT
    assert found(store, committed) == committed


def row_parts(seed: int):
    rows = make_rows(WHOLE_SPEC, 3, seed=seed)
    return rows.digests, rows.views, rows.features[0]


def test_rows_that_are_in_a_large_shard_are_not_copied(store, monkeypatch):
    # This is the state after a kill between the copy and the removal.
    committed = fill(store)
    digests, views, features = (
        np.concatenate(parts) for parts in zip(*[row_parts(seed) for seed in range(COUNT)], strict=True)
    )
    large = store.append(Rows(digests, views, (features,)), engine=ENGINE)
    monkeypatch.setattr(compaction, "SMALL_BYTES", (store.folder / large).stat().st_size)

    compact(store)

    assert store.shard_names() == [large]
    assert found(store, committed) == committed


def test_a_damaged_large_shard_is_not_relied_on(store, monkeypatch):
    committed = fill(store)
    digests, views, features = (
        np.concatenate(parts) for parts in zip(*[row_parts(seed) for seed in range(COUNT)], strict=True)
    )
    path = store.folder / store.append(Rows(digests, views, (features,)), engine="another")
    monkeypatch.setattr(compaction, "SMALL_BYTES", path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[path.read_bytes().index(features[7].tobytes())] ^= 1
    path.write_bytes(data)

    compact(store)

    path.unlink()
    assert found(store, committed) == committed


def test_damaged_small_shards_stay(store):
    committed = fill(store)
    name = store.shard_names()[0]
    lost = {row.tobytes() for row in store.read_index(name)[0]}
    (store.folder / name).write_bytes(b"damaged")

    compact(store)

    assert name in store.shard_names() and len(store.shard_names()) == 2
    assert found(store, committed) == {digest: row for digest, row in committed.items() if digest not in lost}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", range(0, COUNT + 3, 2))
def test_a_kill_at_any_step_loses_no_row_and_the_next_run_completes_it(store, monkeypatch, step):
    committed = fill(store)
    steps = iter(range(1000))

    def counted(function):
        def call(*arguments, **options):
            if next(steps) == step:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted(os.fsync))
        patched.setattr("pathlib.Path.unlink", counted(type(store.folder).unlink))
        try:
            compact(store)
        except Killed:
            pass
        else:
            assert step > COUNT
    assert found(store, committed) == committed
    fill(store, compaction.MANY + 1)
    compact(store)

    assert found(store, committed) == committed
    assert len(store.shard_names()) <= 2


def test_two_processes_at_once_lose_nothing_even_if_one_finds_the_result_of_the_other(store, monkeypatch):
    committed = fill(store)
    other = Store(store.folder)
    append, calls = Store.append, []

    def append_after_the_other(self, rows, *, engine):
        name = append(self, rows, engine=engine)
        if not calls:
            calls.append(name)
            compact(other)  # which finds the small shards, and the merged one of the same bytes that it makes itself
        return name

    monkeypatch.setattr(Store, "append", append_after_the_other)
    compact(store)

    assert found(store, committed) == committed


def test_a_full_disk_loses_nothing(store, monkeypatch):
    committed = fill(store)
    before = store.shard_names()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(WriteError):
            compact(store)

    assert store.shard_names() == before
    assert found(store, committed) == committed


# Readers that have the old names


@pytest.fixture
def features(tmp_path):
    """A set of all rows of `store`, written before they were merged."""
    rows = Rows.concatenated([make_rows(WHOLE_SPEC, 3, seed=seed) for seed in range(COUNT)])
    return write_parts(tmp_path, rows, [slice(start, start + 3) for start in range(0, 3 * COUNT, 3)])


def test_a_set_that_names_merged_shards_reads_the_same_values(features):
    x, _ = features.arrays()

    compact(features.store)

    assert np.array_equal(features.arrays()[0], x)
    again = open_features(features.path)
    assert np.array_equal(again.arrays()[0], x)
    assert np.array_equal(again.features(np.array([5, 3])), x[[5, 3]])


def test_a_row_that_is_in_no_shard_is_an_error_that_names_its_old_shard(features):
    compact(features.store)
    (shard,) = features.store.shard_names()
    (features.store.folder / shard).unlink()

    with pytest.raises(ShardError, match="missing shard"):
        features.arrays()


def test_an_older_index_finds_rows_in_their_new_shard(features):
    index = RowIndex(features.store)

    compact(features.store)

    (shard,) = features.store.shard_names()
    assert {index.find(row.tobytes()).shard for row in features.digests()} == {shard}


def test_rows_of_shards_that_go_while_an_index_is_made_are_found(features, monkeypatch):
    read, other = Store.read_index, Store(features.store.folder)
    calls = []

    def merged_meanwhile(self, name):
        if not calls:
            calls.append(name)
            compact(other)
        return read(self, name)

    monkeypatch.setattr(Store, "read_index", merged_meanwhile)
    index = RowIndex(features.store)

    assert index.damaged == []
    assert all(index.find(row.tobytes()) for row in features.digests())


def test_views_whose_shards_were_merged_read_the_same_values(tmp_path):
    spec = spec_with(augmentation="flip")
    store, images = (Store.create(tmp_path / "store", each, about={}) for each in (spec, WHOLE_SPEC))
    rows = make_rows(WHOLE_SPEC, 4)
    shard = images.append(rows, engine=ENGINE)
    shards, places, expected = [], np.full((2, 4, 2), -1), {}
    for view, image in ((1, 0), (2, 0), (1, 1), (2, 1), (1, 3), (2, 3), (1, 2)):
        features = np.full((1, 2, 3), 10 * view + image, np.float32)
        row = Rows(rows.digests[image : image + 1], np.array([view], np.int32), (features,))
        places[view - 1, image] = len(shards), 0
        shards.append(store.append(row, engine=ENGINE))
        expected[view, image] = features[0]
    views = ViewRows(spec=spec, store=f"store/{spec.folder_name}", shards=tuple(shards), places=places)
    addresses = np.array([[0, row] for row in range(4)])
    content = make_content(rows, [shard], addresses, store=f"store/{WHOLE_SPEC.folder_name}", views=views)
    write_set(tmp_path / "set.h5", content)

    assert compact(store)

    features = open_features(tmp_path / "set.h5")
    for (view, image), value in expected.items():
        assert np.array_equal(features.features(np.array([image]), view=view)[0], value)
    assert np.array_equal(features.arrays()[0], rows.features[0])


@pytest.mark.parametrize("own", [False, True], ids=["cached before", "committed by this process"])
def test_the_extraction_cache_reads_rows_whose_shards_another_process_merged(tmp_path, own):
    cache = CachedStore(WHOLE_SPEC, tmp_path / "store", ["top"])
    expected = {}
    for seed in range(COUNT):
        rows = make_rows(WHOLE_SPEC, 3, seed=seed)
        keys = [(digest.tobytes(), 0) for digest in rows.digests]
        expected |= zip(keys, rows.features[0], strict=True)
        cache.commit(keys, rows.features, ENGINE)
    keys = list(expected)
    if not own:
        cache = CachedStore(WHOLE_SPEC, tmp_path / "store", ["top"])
        assert all(cache.has(keys))

    compact(Store(cache.folder))

    for _ in range(2):
        assert np.array_equal(cache.gather(keys)[0], list(expected.values()))


def test_reading_looks_again_as_often_as_shards_are_merged(store, monkeypatch):
    wanted = make_rows(WHOLE_SPEC, 3, seed=0)
    fill(store)
    index, gather, other = RowIndex(store), Store.gather, Store(store.folder)
    shards, places = place_rows([index.find(digest.tobytes()) for digest in wanted.digests])
    rows = LocatedRows(shards=shards, places=places, digests=wanted.digests, views=np.zeros(3, np.int64))
    attempts = []

    def merged_meanwhile(self, *arguments, **options):
        if len(attempts) < 3:
            for seed in range(COUNT):
                other.append(make_rows(WHOLE_SPEC, 3, seed=100 * (1 + len(attempts)) + seed), engine=ENGINE)
            compact(other)
        attempts.append(arguments)
        return gather(self, *arguments, **options)

    monkeypatch.setattr(Store, "gather", merged_meanwhile)
    tensors, found = read_rows(store, rows)

    assert len(attempts) == 4
    assert np.array_equal(tensors[0], wanted.features[0])
    assert found.shards == tuple(store.shard_names())
    assert read_rows(store, found)[1] is found
