"""The memory of a process, as Linux counts it. Imports almost nothing, because imports count too."""

from __future__ import annotations

import resource
import threading
from pathlib import Path


def most() -> int:
    """Return the peak memory of this process in bytes. `getrusage` would include its parent's before the fork."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class Peak:
    """The peak of resident memory within a block, in bytes; `above_start` is relative to the start of the block."""

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
    def above_start(self) -> int:
        return self.most - self._start

    @staticmethod
    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, self.now())
