"""Results of work in threads come in order, and a bounded number is worked on ahead."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future

from permafrost.threads import in_order


def test_all_results_are_yielded_in_order_with_a_bounded_number_ahead():
    started: list[int] = []

    def start(number: int) -> Future[int]:
        started.append(number)
        future: Future[int] = Future()
        future.set_result(number)
        return future

    ahead = [len(started) - result for result in in_order(map(start, range(9)), ahead=3)]

    assert ahead == [4, 4, 4, 4, 4, 4, 3, 2, 1]


def test_work_that_is_no_longer_wanted_is_cancelled():
    futures: list[Future[int]] = [Future() for _ in range(9)]
    futures[0].set_result(0)
    results = in_order(iter(futures), ahead=3)

    with contextlib.closing(results):
        next(results)

    assert [future.cancelled() for future in futures] == [False, True, True, True, *[False] * 5]
