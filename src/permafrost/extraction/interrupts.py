"""Defer Ctrl-C to safe points.

Python raises `KeyboardInterrupt` between any two instructions of the main thread. If that thread has just acquired the
lock of a future, the lock is never released: the thread that needs it to set its result waits forever, and so does the
process (https://docs.python.org/3/library/signal.html, "Note on Signal Handlers and Exceptions").
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Remember whether Ctrl-C was pressed in a `deferred` block."""

    def __init__(self) -> None:
        self._pressed = False
        self._immediate = False

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if Ctrl-C was pressed.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self._pressed:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Do not defer Ctrl-C in this block, which waits for no other thread and may take long.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, before or in the block.
        """
        self._immediate = True
        try:
            self.check()
            yield
        finally:
            self._immediate = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal. A second Ctrl-C interrupts immediately."""
        if self._pressed or self._immediate:
            signal.default_int_handler(number, frame)
        self._pressed = True


@contextlib.contextmanager
def deferred() -> Iterator[Interrupts]:
    """Defer Ctrl-C in this block to the next `Interrupts.check`, or to its end.

    A handler that the program has installed stays in place. Only the main thread receives signals.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and `check` was not called afterwards.
    """
    interrupts = Interrupts()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.check()
