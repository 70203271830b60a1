"""Shards that stay open between reads."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest

from permafrost.errors import ShardError
from permafrost.store import open_shards
from permafrost.store.feature_set import FeatureSet, open_features
from permafrost.store.shard import Shard
from permafrost.store.store import Store
from samples import WHOLE_SPEC, make_rows, write_parts

SHARDS, ROWS = 6, 24


@pytest.fixture
def features(tmp_path) -> FeatureSet:
    """A set whose rows lie in six shards, in turn."""
    rows = make_rows(WHOLE_SPEC, ROWS)
    return write_parts(tmp_path, rows, [slice(number, None, SHARDS) for number in range(SHARDS)])


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the shards that are opened from now on."""
    names: list[str] = []
    open_shard = Store._open

    def counted(self, name: str) -> Shard:
        names.append(name)
        return open_shard(self, name)

    monkeypatch.setattr(Store, "_open", counted)
    return names


def idle(features: FeatureSet) -> int:
    """Return the number of shards that are open and not in use."""
    return len(features.store._open_shards._idle)


def test_batches_open_each_shard_once(features, opened):
    for shuffle in (False, True, True):
        assert len(list(features.batches(batch_size=5, shuffle=shuffle))) == 5

    assert len(opened) == len(set(opened)) == SHARDS


def test_the_description_of_a_store_is_read_once(features, monkeypatch):
    read, reads = Store.__init__, []
    monkeypatch.setattr(
        Store, "__init__", lambda self, *args, **kwargs: reads.append(args) or read(self, *args, **kwargs)
    )
    opened = open_features(features.path)

    for _ in opened.batches(batch_size=5):
        pass

    assert len(reads) == 1


@pytest.mark.parametrize("limit", ["MAXIMUM_OPEN", "MAXIMUM_INDEX_BYTES"])
def test_few_shards_stay_open(features, opened, monkeypatch, limit):
    index_bytes = 4 * (32 + 4 + 8)
    monkeypatch.setattr(open_shards, limit, 2 if limit == "MAXIMUM_OPEN" else 2 * index_bytes)
    expected = make_rows(WHOLE_SPEC, ROWS).features[0]

    for _ in range(2):
        assert np.array_equal(features.arrays()[0], expected)
        assert idle(features) == 2

    assert len(opened) > SHARDS


def test_a_shard_that_cannot_be_read_does_not_stay_open(features, opened, monkeypatch):
    def refuse(self, *_):
        raise ShardError("damaged shard")

    features.arrays()
    with monkeypatch.context() as patch, pytest.raises(ShardError, match="damaged shard"):
        patch.setattr(Shard, "read", refuse)
        features.arrays()
    opened.clear()

    features.arrays()

    assert opened


def test_files_can_be_closed(features):
    features.arrays()
    shards = list(features.store._open_shards._idle.values())

    features.store._open_shards.close()

    assert len(shards) == SHARDS
    assert not any(shard._file for shard in shards)
    assert len(features.arrays()[0]) == ROWS


def test_threads_share_a_set(features):
    expected, failures = features.arrays()[0], []

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            rows = random.integers(0, ROWS, 5)
            if not np.array_equal(features.features(rows), expected[rows]):
                failures.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    assert idle(features) == SHARDS


def test_a_set_with_open_shards_is_sent_to_another_process_without_them(features):
    expected = features.arrays()[0]

    received = pickle.loads(pickle.dumps(features))

    assert np.array_equal(received.arrays()[0], expected)
