"""Results of work in threads, in order and a bounded number ahead."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_order(futures: Iterable[Future[Result]], *, ahead: int) -> Iterator[Result]:
    """Yield the results of futures in order; those that are left at the end are cancelled.

    Args:
        futures: starts the work of each future when it is taken.
        ahead: the number of futures that are taken beyond the one whose result is yielded.
    """
    waiting: collections.deque[Future[Result]] = collections.deque()
    try:
        for future in futures:
            waiting.append(future)
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
