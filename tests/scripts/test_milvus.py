"""The benchmark of Milvus, without a server."""

import types

from serving import errors, requests

REQUESTS = [requests.Request(k=1)]


class Client:
    """Answers all requests but the first ones."""

    def __init__(self, num_failures):
        self.num_failures = num_failures

    def recommend(self, request):
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise errors.ServingError("no index")
        return types.SimpleNamespace(degraded=None)


def test_a_restart_without_a_failed_request_ends(script, monkeypatch):
    benchmark = script("milvus")
    monkeypatch.setattr(benchmark, "_QUIET_SECONDS", 0.1)
    found = benchmark._restart(Client(0), REQUESTS, "true", 500.0)
    assert set(found["outcomes"]) == {"answered"}
    assert found["failed_seconds"] == 0.0
    found = benchmark._restart(Client(3), REQUESTS, "true", 500.0)
    assert sum(found["outcomes"].values()) - found["outcomes"]["answered"] == 3
    assert found["failed_seconds"] >= 0.0
