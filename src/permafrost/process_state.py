"""Changes to the state of the whole process that end with the work that needs them, also when threads overlap.

A plain `with` block saves what it finds and puts it back. Of two such blocks that overlap in threads, the second saves
what the first has set, and leaves it behind for good. Here the first block changes the state, and the last one restores
it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final


class Overlapping(AbstractContextManager[None]):
    """A context that any number of threads may be in: the first one enters `make()`, and the last one leaves it.

    Args:
        make: returns the context that changes the state of the process.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._depth = 0
        self._held = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._depth:
                self._held.enter_context(self._make())
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._held.close()


_WARNINGS: Final = Overlapping(warnings.catch_warnings)


@contextlib.contextmanager
def ignored_warnings(**which: Any) -> Iterator[None]:
    """Ignore warnings in the block, those of other threads too; the program's own filters come back after it.

    Args:
        **which: as for `warnings.filterwarnings`; all warnings if nothing is given.
    """
    # Where filters belong to a thread's context, the thread that enters has to leave, and no other sees its filters.
    of_context = getattr(sys.flags, "context_aware_warnings", False)
    with warnings.catch_warnings() if of_context else _WARNINGS:
        warnings.filterwarnings("ignore", **which)
        yield


standard_output_to_error: Final = Overlapping(lambda: contextlib.redirect_stdout(sys.stderr))
"""A context that sends what Python code prints to standard error; standard output is for results."""
