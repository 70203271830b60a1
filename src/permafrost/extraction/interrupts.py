"""Ctrl-C, heard between two steps of work that threads share, and not wherever Python happens to be.

Python raises `KeyboardInterrupt` between any two instructions of the main thread. Between those that take a future's
lock and those that see to its being given back, the lock is never given back, and a thread that needs it to hand over
its result waits for ever, and the process with it (https://docs.python.org/3/library/signal.html, "Note on Signal
Handlers and Exceptions").
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Whether Ctrl-C was pressed in a block that `deferred` guards."""

    def __init__(self) -> None:
        self._heard = False
        self._at_once = False

    def check(self) -> None:
        """Stop here if Ctrl-C was pressed.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self._heard:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block, which waits for no other thread and may take long, stop wherever it is.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, before or in the block.
        """
        self._at_once = True
        try:
            self.check()
            yield
        finally:
            self._at_once = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        """What Python calls when Ctrl-C is pressed. Whoever presses it again does not want to wait."""
        if self._heard or self._at_once:
            signal.default_int_handler(number, frame)
        self._heard = True


@contextlib.contextmanager
def deferred() -> Iterator[Interrupts]:
    """Within this block, Ctrl-C stops at the next `Interrupts.check`, at the end of the block at the latest.

    A program that has its own way with Ctrl-C keeps it; threads other than the main one never hear it.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and nobody checked.
    """
    interrupts = Interrupts()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.hear)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.check()
