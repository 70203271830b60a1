"""Ctrl-C is deferred to the next safe point; a second one takes effect immediately."""

from __future__ import annotations

import signal
import threading

import pytest

from permafrost.extraction import interrupts


@pytest.fixture(autouse=True)
def handler():
    """Install Python's own handler, whatever handler the suite was started with."""
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


def test_ctrl_c_takes_effect_at_the_end_of_the_block_at_the_latest():
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


def test_ctrl_c_takes_effect_immediately_in_an_immediate_block():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted, interrupted.immediate():
        press()
        pytest.fail("it went on")


def test_an_immediate_block_does_not_start_after_ctrl_c():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted:
        press()
        with interrupted.immediate():
            pytest.fail("it was begun")


def test_ctrl_c_is_deferred_again_after_an_immediate_block():
    done = False

    with pytest.raises(KeyboardInterrupt), interrupts.deferred() as interrupted:
        with interrupted.immediate():
            pass
        press()
        done = True

    assert done


def test_ctrl_c_does_not_hide_another_error():
    with pytest.raises(ZeroDivisionError), interrupts.deferred():
        press()
        raise ZeroDivisionError


def test_the_default_handler_is_restored_after_the_block():
    with interrupts.deferred():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_that_the_program_installed_stays_in_place():
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append("pressed"))

    with interrupts.deferred() as interrupted:
        press()
        interrupted.check()

    assert pressed == ["pressed"]


def test_threads_other_than_the_main_thread_may_defer():
    checked = []

    def work() -> None:
        with interrupts.deferred() as interrupted:
            interrupted.check()
            checked.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert checked == [True]
