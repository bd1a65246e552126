from serving.circuit_breaker import CircuitBreaker


def test_a_breaker_opens_after_consecutive_failures_and_admits_one_trial_call_after_a_pause():
    now = 0.0
    circuit = CircuitBreaker(lambda: now)
    for _ in range(3):
        assert circuit.admit()
        circuit.failed()
    circuit.succeeded()
    for _ in range(4):
        assert circuit.admit()
        circuit.failed()
    assert circuit.is_open
    assert not circuit.admit()
    now = 0.6
    assert [circuit.admit(), circuit.admit()] == [True, False]
    circuit.abandoned()
    assert circuit.admit()
    # The pause doubles after a trial call that fails.
    circuit.failed()
    now += 0.9
    assert not circuit.admit()
    now += 0.2
    assert circuit.admit()
    circuit.succeeded()
    assert not circuit.is_open
    assert circuit.admit()
