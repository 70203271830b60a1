"""Where the time goes: what was waited for, in all and lately."""

from __future__ import annotations

import time

import pytest

from permafrost.extraction import stopwatch
from permafrost.extraction.stopwatch import Stopwatch


def test_time_is_counted_for_the_stage_that_was_waited_for():
    watch = Stopwatch()

    def slow_items():
        for item in "ab":
            time.sleep(0.02)
            yield item

    assert list(watch.each("read", slow_items())) == ["a", "b"]
    with watch.waiting("write"):
        time.sleep(0.01)

    assert 0.04 <= watch.seconds["read"] < 1
    assert 0.01 <= watch.seconds["write"] < 1
    assert watch.seconds["compute"] == 0
    assert watch.limit == "reading"


def test_waiting_that_ends_in_an_error_is_counted():
    watch = Stopwatch()

    with pytest.raises(ValueError, match="broken"), watch.waiting("compute"):
        time.sleep(0.01)
        raise ValueError("broken")

    assert watch.seconds["compute"] >= 0.01


def test_the_recent_limit_follows_the_last_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch()

    def wait(stage: str, seconds: float) -> str:
        with watch.waiting(stage):
            now[0] += seconds
        return watch.recent_limit

    assert wait("read", 10) == "reading"
    assert [wait("compute", 3) for _ in range(2)][-1] == "computing"
    assert watch.limit == "reading"
