"""Measure which stage limits overlapping work: the one that the calling thread waits for most."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

STAGES: Final = {"read": "reading", "compute": "computing", "write": "writing"}
"""The stages, each with its name for people."""

WINDOW: Final = 2.0
"""Length in seconds of the window in which the recent limit is measured."""

Item = TypeVar("Item")


class Stopwatch:
    """Measures the seconds waited for each stage, since the start and recently.

    Attributes:
        seconds: seconds waited for each of `STAGES` since the start.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._before = self._since = dict(self.seconds)
        self._turned = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self, stage: str) -> Iterator[None]:
        """Count the duration of the block as waiting for `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`, and count the time waited for each as `stage`."""
        iterator = iter(items)
        while True:
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.seconds[stage] += time.perf_counter() - started
            yield item

    @property
    def limit(self) -> str:
        """The stage waited for most since the start: `reading`, `computing` or `writing`."""
        return STAGES[max(self.seconds, key=lambda stage: self.seconds[stage])]

    @property
    def recent_limit(self) -> str:
        """The stage waited for most in the last two to four seconds."""
        now = time.perf_counter()
        if now - self._turned >= WINDOW:
            self._before, self._since, self._turned = self._since, dict(self.seconds), now
        return STAGES[max(self.seconds, key=lambda stage: self.seconds[stage] - self._before[stage])]
