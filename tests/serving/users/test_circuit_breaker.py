"""The circuit breaker of the user store."""

import clocks

from serving import users


def test_a_breaker_opens_after_consecutive_failures_and_admits_one_trial_call_after_a_pause():
    clock = clocks.Clock()
    circuit = users.CircuitBreaker(clock)
    for _ in range(3):
        assert circuit.admit()
        circuit.failed()
    circuit.succeeded()  # The failures are no longer consecutive.
    for _ in range(4):
        assert circuit.admit()
        circuit.failed()
    assert (circuit.state, circuit.admit()) == ("open", False)
    for pause in (0.5, 1, 2, 4, 4):  # Each call that fails doubles the pause, to at most 4 s.
        clock.advance(pause - 0.25)
        assert not circuit.admit()
        clock.advance(0.25)
        assert circuit.admit()
        assert not circuit.admit()  # One at a time.
        circuit.failed()
    clock.advance(4)
    assert circuit.admit()
    circuit.abandoned()  # No evidence about the server, so another call may try.
    assert circuit.admit()
    circuit.succeeded()
    assert (circuit.state, circuit.admit()) == ("closed", True)
