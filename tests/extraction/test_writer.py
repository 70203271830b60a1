"""When finished features are committed, and to which cache."""

from __future__ import annotations

import types

import numpy as np
import pytest

from permafrost.errors import FeatureError
from permafrost.extraction import writer as writing
from permafrost.extraction.batcher import Member
from permafrost.extraction.stopwatch import Stopwatch
from permafrost.extraction.writer import Writer
from samples import spec_with


class Cache:
    """Records what is committed."""

    def __init__(self, **spec) -> None:
        self.spec = spec_with(**{"shapes": ((2,),), **spec})
        self.keys: list = []
        self.rows: list[np.ndarray] = []

    def commit(self, keys, tensors, engine) -> None:
        self.keys += keys
        self.rows += list(tensors[0])


ENGINE = types.SimpleNamespace(record="an engine")
NAMES = [f"{number}.png" for number in range(1000)]


def member(number: int, *lacking: bool) -> Member:
    return Member(number, (number.to_bytes(32, "big"), 0), lacking or (True,))


def features(*numbers: float) -> np.ndarray:
    return np.array([[number, -number] for number in numbers], np.float32)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that the writer sees, in seconds."""
    now = [0.0]
    monkeypatch.setattr(writing, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    return now


def test_finished_features_are_committed_at_least_twice_a_second(clock):
    cache = Cache()
    with Writer([cache], ENGINE, NAMES, Stopwatch()) as writer:
        for number in range(100):  # One row every 50 ms
            clock[0] = number * 0.05
            writer.add([member(number)], [features(number)])
            writer._wait(0)
            waiting = number + 1 - len(cache.keys)
            assert waiting * 0.05 <= 0.5 + 1e-9

        assert len(cache.keys) >= 90


def test_features_of_many_bytes_are_committed_at_once(clock, monkeypatch):
    monkeypatch.setattr(writing, "COMMIT_BYTES", 10 * 8)
    cache = Cache()
    with Writer([cache], ENGINE, NAMES, Stopwatch()) as writer:
        for number in range(25):
            writer.add([member(number)], [features(number)])
            writer._wait(0)

        assert len(cache.keys) == 20

    assert len(cache.keys) == 25


def test_what_was_added_is_committed_when_the_block_fails(clock):
    cache = Cache()

    with pytest.raises(KeyboardInterrupt), Writer([cache], ENGINE, NAMES, Stopwatch()) as writer:
        writer.add([member(0)], [features(0)])
        raise KeyboardInterrupt

    assert len(cache.keys) == 1


def test_each_cache_gets_the_rows_that_it_lacks():
    caches = [Cache(), Cache()]
    members = [member(0, True, False), member(1, True, True), member(2, False, True)]

    with Writer(caches, ENGINE, NAMES, Stopwatch()) as writer:
        writer.add(members, [features(0, 1, 2), features(10, 11, 12)])

    assert [[int.from_bytes(digest, "big") for digest, _ in cache.keys] for cache in caches] == [[0, 1], [1, 2]]
    assert [[row[0] for row in cache.rows] for cache in caches] == [[0, 1], [11, 12]]


@pytest.mark.parametrize(
    ("dtype", "value", "found"), [("float32", np.nan, "NaN or infinity"), ("float16", 1e6, "too large")]
)
def test_features_that_are_not_finite_are_refused_naming_the_image(dtype, value, found):
    cache = Cache(dtype=dtype)

    with (
        pytest.raises(FeatureError, match=rf"features of 7\.png are not finite.*{found}"),
        Writer([cache], ENGINE, NAMES, Stopwatch()) as writer,
    ):
        writer.add([member(3), member(7)], [features(1, value)])

    assert cache.keys == []
