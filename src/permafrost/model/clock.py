"""Measure the time that each step of making a run takes."""

from __future__ import annotations

import time


class Clock:
    """Measures the seconds of consecutive steps, from its creation on."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, step: str) -> None:
        """Record the end of a step."""
        now = time.perf_counter()
        self._laps[step], self._last = now - self._last, now

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step and their `total`, rounded to milliseconds, as a run records them."""
        laps = self._laps | {"total": self._last - self._started}
        return {step: round(value, 3) for step, value in laps.items()}
