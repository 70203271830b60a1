"""Rows of a feature set that stay on disk: in blocks, shuffled, sampled."""

from __future__ import annotations

import time

import numpy as np
import pytest

from permafrost.store.feature_set import FeatureSet
from permafrost.store.streaming import FeatureRows, ShuffledRows
from samples import make_rows, spec_with, write_parts

COUNT, SHARD, CLASSES = 600, 50, 3
TRAIN = COUNT * 9 // 10
ROW_BYTES = 4 * 8
LIMIT = 8000
"""A memory limit below the size of all rows."""


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> FeatureSet:
    """A set of 600 images, one class after the other, in shards of 50 rows; one image in ten is for validation."""
    folder = tmp_path_factory.mktemp("features")
    spec = spec_with(shapes=((8,),))
    rows = make_rows(spec, COUNT)
    return write_parts(
        folder,
        rows,
        [slice(start, start + SHARD) for start in range(0, COUNT, SHARD)],
        spec=spec,
        labels=np.sort(np.arange(COUNT) % CLASSES),
        splits=(np.arange(COUNT) % 10 == 0).astype(np.uint8),
        class_names=("a", "b", "c"),
    )


@pytest.fixture
def rows(features, monkeypatch) -> FeatureRows:
    """The training rows, with a small memory limit and small chunks."""
    monkeypatch.setattr("permafrost.store.streaming.CHUNK_BYTES", 10 * ROW_BYTES)
    return FeatureRows(features, features.rows("train"), memory_limit=LIMIT)


def test_blocks_contain_each_row_once_in_the_order_of_the_disk(features, rows):
    blocks = list(rows.blocks())

    assert len(blocks) > 20
    assert max(block.nbytes for _, block in blocks) <= LIMIT // 16
    numbers = np.concatenate([part for part, _ in blocks])
    assert np.array_equal(numbers, rows.disk_order)
    assert sorted(numbers) == list(range(TRAIN))
    assert np.array_equal(np.concatenate([block for _, block in blocks]), features.arrays("train")[0][numbers])


def test_results_of_blocks_are_in_the_order_of_the_disk_whichever_thread_is_first(features, rows):
    def slow_at_first(numbers: np.ndarray, block: np.ndarray) -> tuple[int, float]:
        if numbers[0] == rows.disk_order[0]:
            time.sleep(0.05)
        return int(numbers[0]), float(block.sum(dtype=np.float64))

    found = list(rows.over_blocks(slow_at_first, threads=3))

    assert [first for first, _ in found] == sorted(first for first, _ in found)
    assert sum(total for _, total in found) == pytest.approx(features.arrays("train")[0].sum(dtype=np.float64))


def test_a_failure_in_a_block_reaches_the_caller(rows):
    with pytest.raises(ZeroDivisionError):
        list(rows.over_blocks(lambda numbers, _: 1 // int(numbers[0] < 300), threads=3))


def test_shuffled_rows_contain_each_row_once_in_a_new_order_each_epoch(features, rows):
    shuffled, random = ShuffledRows(rows), np.random.default_rng(0)
    expected = features.arrays("train")[0]

    orders = [shuffled.order(random) for _ in range(2)]

    assert all(sorted(order) == list(range(TRAIN)) for order in orders)
    assert not np.array_equal(*orders)
    for start in range(0, TRAIN, 32):
        batch = orders[1][start : start + 32]
        assert np.array_equal(shuffled.load(batch), expected[batch])


def test_shuffled_rows_of_several_tensors_are_tuples(rows):
    class TwoTensors:
        disk_order, memory_limit, row_bytes = rows.disk_order, LIMIT, 2 * ROW_BYTES

        def load(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return rows.load(numbers), numbers

    shuffled = ShuffledRows(TwoTensors())
    order = shuffled.order(np.random.default_rng(0))

    for start in range(0, TRAIN, 32):
        batch = order[start : start + 32]
        loaded, numbers = shuffled.load(batch)
        assert np.array_equal(loaded, rows.load(batch))
        assert np.array_equal(numbers, batch)


def test_shuffled_batches_mix_classes_that_lie_apart_on_disk(rows, monkeypatch):
    monkeypatch.setattr("permafrost.store.streaming.CHUNK_BYTES", 5 * ROW_BYTES)

    order = ShuffledRows(rows).order(np.random.default_rng(0))

    # In the order of the disk, a batch of 64 has images of one class, or of two.
    batches = rows.labels[order[:512]].reshape(8, 64)
    assert all(len(set(batch)) == CLASSES for batch in batches)


def test_at_most_two_groups_of_shuffled_rows_are_in_memory(rows):
    shuffled = ShuffledRows(rows)
    order = shuffled.order(np.random.default_rng(0))

    held = []
    for start in range(0, TRAIN, 32):
        shuffled.load(order[start : start + 32])
        held.append(len(shuffled._buffers))

    assert max(held) == 2


def test_no_rows_are_shuffled_to_no_rows(features):
    rows = FeatureRows(features, np.empty(0, np.int64), memory_limit=LIMIT)

    assert len(ShuffledRows(rows).order(np.random.default_rng(0))) == 0


def test_a_sample_has_each_class_in_proportion_to_its_size(rows):
    sample = rows.sample(60 * ROW_BYTES, seed=0)

    assert np.bincount(rows.labels[sample]).tolist() == [20, 20, 20]
    assert len(rows.sample(10**9, seed=0)) == TRAIN
