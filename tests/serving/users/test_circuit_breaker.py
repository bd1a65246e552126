"""The circuit breaker of the user store."""

import clocks

from serving import users
from serving.config import BreakerConfig


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_call_through_after_a_pause():
    clock = clocks.Clock()
    config = BreakerConfig(failures_to_open=3, pause_seconds=1, max_pause_seconds=3)
    circuit = users.CircuitBreaker(config, clock)
    for _ in range(2):
        assert circuit.admit()
        circuit.failed()
    circuit.succeeded()  # The row is broken.
    for _ in range(3):
        assert circuit.admit()
        circuit.failed()
    assert (circuit.state, circuit.admit()) == ("open", False)
    for pause in (1, 2, 3):  # Each call that fails doubles the pause, to at most 3 seconds.
        clock.advance(pause - 0.25)
        assert not circuit.admit()
        clock.advance(0.25)
        assert circuit.admit()
        assert not circuit.admit()  # One at a time.
        circuit.failed()
    clock.advance(3)
    assert circuit.admit()
    circuit.abandoned()  # It said nothing, so another may try.
    assert circuit.admit()
    circuit.succeeded()
    assert (circuit.state, circuit.admit()) == ("closed", True)
