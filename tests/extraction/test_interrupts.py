"""Ctrl-C stops work between two of its steps; pressed twice, at once."""

from __future__ import annotations

import signal
import threading

import pytest

from permafrost.extraction import interrupts


@pytest.fixture(autouse=True)
def handler():
    """Python's own way with Ctrl-C, whatever the suite was started with."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_takes_effect_at_the_next_check():
    steps = []

    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted:
        interrupted.check()
        press()
        steps.append("after it was pressed")
        interrupted.check()
        steps.append("after the check")

    assert steps == ["after it was pressed"]


def test_it_takes_effect_at_the_end_of_the_block_at_the_latest():
    done = False

    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        press()
        done = True

    assert done


def test_a_second_ctrl_c_takes_effect_immediately():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():
        press()
        press()
        pytest.fail("it went on")


def test_ctrl_c_takes_effect_immediately_where_no_thread_is_waited_for():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted, interrupted.immediate():
        press()
        pytest.fail("it went on")


def test_what_takes_long_is_not_begun_after_ctrl_c():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted:
        press()
        with interrupted.immediate():
            pytest.fail("it was begun")


def test_after_what_takes_long_it_waits_for_a_check_again():
    done = False

    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted:
        with interrupted.immediate():
            pass
        press()
        done = True

    assert done


def test_another_error_is_not_hidden_by_it():
    with pytest.raises(ZeroDivisionError), interrupts.deferred():
        press()
        raise ZeroDivisionError


def test_afterwards_it_is_as_it_was():
    with interrupts.deferred():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_has_its_own_way_with_it_keeps_it():
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append("pressed"))

    with interrupts.deferred() as interrupted:
        press()
        interrupted.check()

    assert pressed == ["pressed"]


def test_threads_other_than_the_main_one_may_use_it():
    checked = []

    def work() -> None:
        with interrupts.deferred() as interrupted:
            interrupted.check()
            checked.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert checked == [True]
