"""The memory that a process takes, as Linux counts it. Imports next to nothing, which would be counted as well."""

from __future__ import annotations

import resource
import threading
from pathlib import Path


def most() -> int:
    """The most bytes that this process has had in memory; `getrusage` counts what its parent had before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class Peak:
    """The largest resident memory while it is watched, beyond what it was at the start; in bytes."""

    def __enter__(self) -> Peak:
        self._start = self.now()
        self.most, self._ended = self._start, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def beyond(self) -> int:
        return self.most - self._start

    @staticmethod
    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, self.now())
