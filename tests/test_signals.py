"""SIGINT and SIGTERM: at once where nothing can be lost, and after the step where a run would be."""

import os
import signal
import time

import pytest

from trainer.errors import Interrupted, UserError
from trainer.exits import exit_code
from trainer.signals import Signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # Python runs a handler between two instructions


def test_before_the_training_a_signal_ends_the_process_at_once() -> None:
    with Signals().listening():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        with pytest.raises(Interrupted) as ended:
            send(signal.SIGTERM)
    assert ended.value.exit_code == 143


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_it_trains_a_signal_waits_to_be_asked_for(number: int) -> None:
    signals = Signals()
    with signals.listening(), signals.deferred():
        assert signals.received == 0
        send(number)
        assert signals.received == number


def test_a_second_ctrl_c_ends_it_at_once_and_a_second_sigterm_does_not() -> None:
    signals = Signals()
    with signals.listening(), signals.deferred():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_what_a_callback_of_the_interpreter_has_swallowed_still_counts() -> None:
    signals = Signals()
    with signals.listening():
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        with pytest.raises(Interrupted), signals.deferred():
            pytest.fail("began to train")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_a_library_makes_of_it_is_still_the_signal(number: int, code: int) -> None:
    def task(signals: Signals) -> None:
        try:
            send(number)
        except BaseException as error:  # as code that tidies up, and fails at that
            raise UserError("half done") from error

    handler = signal.getsignal(signal.SIGINT)
    try:
        assert exit_code(task) == code
    finally:
        signal.signal(signal.SIGINT, handler)


def test_an_error_after_a_signal_that_waits_is_an_error() -> None:
    def task(signals: Signals) -> None:
        with signals.deferred():
            send(signal.SIGTERM)
            raise UserError("no room")

    assert exit_code(task) == 2


def test_afterwards_all_is_as_it_was() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Signals().listening():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
