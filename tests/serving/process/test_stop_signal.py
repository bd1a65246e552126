"""Waiting for the signal to stop a process."""

import os
import signal
import threading

import pytest

from serving import process


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_all_later_waits(number):
    stop = process.StopSignal()
    assert not stop.wait(0.01)
    timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
    timer.start()
    assert stop.wait(60)
    assert stop.wait(0)
    timer.join()


def test_a_signal_that_arrives_in_another_thread_ends_the_wait():
    stop = process.StopSignal()
    kill_self = threading.Timer(
        0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    )
    kill_self.start()
    assert stop.wait(60)
    kill_self.join()


def test_a_repeated_signal_calls_back():
    again = []
    stop = process.StopSignal(again=again.append)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    assert stop.wait(60)
    assert again == [signal.SIGTERM]
