"""The outermost layer of the REST service: bodies, tokens, deadlines, ids, overload."""

import contextlib
import json
import logging
import socket
import threading
from concurrent import futures

import fastapi
import httpx
import pytest
import serving_fixtures
import waiting

from serving import client
from serving.config import OrchestratorConfig
from serving.service.rest import entrance

pytestmark = pytest.mark.process

TOKEN = "a secret"


@pytest.fixture(scope="module")
def guarded(tiny_bundle, ranker_address):
    """URL of a service with a token."""
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token=TOKEN) as url:
        serving_fixtures.wait_until_ready(url)
        yield url


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_only_health_readiness_and_pages_require_no_token(guarded):
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert httpx.get(guarded + path, timeout=60).status_code == 200
    for path in ("/v1/bundle", "/redoc", "/nothing"):
        reply = httpx.get(guarded + path, timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
    for headers in ({}, bearer("a"), bearer("a secre"), {"authorization": TOKEN}):
        reply = httpx.post(guarded + "/v1/recommend", json={}, headers=headers, timeout=60)
        assert reply.status_code == 401
    reply = httpx.post(guarded + "/v1/recommend", json={}, headers=bearer(TOKEN), timeout=60)
    assert reply.status_code == 200


def test_metrics_label_requests_by_route_without_parameters():
    app = fastapi.FastAPI(openapi_url=None)
    paths = ["/", "/v1/similar", "/v1/users/{user_id:path}", "/console", "/console/{name:path}"]
    for path in paths:
        app.add_api_route(path, lambda: None)
    labels = {
        "/": "/",
        "/v1/similar": "/v1/similar",
        "/v1/similar/ads": "other",
        "/v1/users/a/b": "/v1/users",
        "/console": "/console",
        "/console/page.js": "/console",
        "/consoles": "other",
    }
    for path, label in labels.items():
        assert entrance._label({"path": path, "app": app}) == label


def raw(url, data, then=b""):
    """Sends bytes and returns all that is received."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(data)
        if then:
            connection.sendall(then)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def head(length, **headers):
    lines = ["POST /v1/recommend HTTP/1.1", "host: x", "content-type: application/json"]
    lines += [f"authorization: Bearer {TOKEN}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_body_of_100_mb_is_refused_before_it_is_sent(guarded):
    received = raw(guarded, head(100_000_000, expect="100-continue", connection="close"))
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in received


@contextlib.contextmanager
def two_in_flight(release, ranker_address, post, config=None, **options):
    """Serves two requests that the ranker holds; yields URL, futures and an event to end this."""
    go_on = threading.Event()
    with (
        serving_fixtures.altering_server(ranker_address, lambda _: go_on.wait(60)) as address,
        futures.ThreadPoolExecutor(2) as pool,
    ):
        service = serving_fixtures.make_orchestrator(release, address, config)
        with serving_fixtures.serve_app(service, **options) as url:
            admitted = [pool.submit(post, url) for _ in range(2)]
            waiting.until(lambda: service.admission.in_flight == 2)
            yield url, admitted, go_on


def test_requests_above_the_limit_are_told_when_to_retry(tiny_bundle, ranker_address):
    config = OrchestratorConfig(max_in_flight=2, default_deadline_ms=60_000)

    def post(url):
        return httpx.post(f"{url}/v1/recommend", json={}, timeout=60)

    held = two_in_flight(tiny_bundle, ranker_address, post, config)
    with held as (url, admitted, go_on):
        refused = post(url)
        go_on.set()
        assert [reply.result().status_code for reply in admitted] == [200, 200]
        assert post(url).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_that_cannot_be_answered_in_time_is_refused_before_its_body_arrives(
    tiny_bundle, ranker_address
):
    def post(url):
        return httpx.post(f"{url}/v1/recommend", json={"deadline_ms": 60_000}, timeout=60)

    held = two_in_flight(tiny_bundle, ranker_address, post)
    with held as (url, admitted, go_on):
        # The third answer is expected after 30 ms, the estimate before the first answer.
        hurried = head(1000, connection="close", **{"x-deadline-ms": "20"})
        received = raw(url, hurried)
        go_on.set()
        assert [reply.result().status_code for reply in admitted] == [200, 200]
    assert received.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 1" in received
    assert b"left until the deadline of 20 ms" in received


def test_a_longer_deadline_counts_before_the_body_only_in_the_header(tiny_bundle, ranker_address):
    # An answer is expected after 10 ms for each request ahead, too late from the second on.
    config = OrchestratorConfig(default_deadline_ms=20)

    def post(url):
        with client.Client(url, timeout_seconds=60) as connected:
            return connected.recommend(deadline_ms=50_000)

    held = two_in_flight(tiny_bundle, ranker_address, post, config)
    with held as (url, admitted, go_on):
        body = {"deadline_ms": 50_000}
        refused = httpx.post(f"{url}/v1/recommend", json=body, timeout=60)
        go_on.set()
        assert [len(answer.result().ads) for answer in admitted] == [10, 10]
    assert refused.status_code == 429
    assert "left until the deadline of 20 ms" in refused.json()["error"]["message"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "60001", ""])
def test_an_invalid_deadline_header_is_refused(service_url, value):
    headers = {"x-deadline-ms": value}
    reply = httpx.post(service_url + "/v1/recommend", json={}, headers=headers, timeout=60)
    assert reply.status_code == 422
    assert (
        "header x-deadline-ms: expected a number in (0, 60000]" in reply.json()["error"]["message"]
    )


def test_the_shorter_of_header_and_body_is_the_deadline(service_url):
    def degraded(header, body):
        headers = {"x-deadline-ms": header}
        reply = httpx.post(service_url + "/v1/recommend", json=body, headers=headers, timeout=60)
        return reply.json()["degraded"]

    assert "the deadline is 1 ms" in degraded("1", {})
    assert "the deadline is 1 ms" in degraded("1", {"deadline_ms": 30_000})
    assert "the deadline is 2 ms" in degraded("30000", {"deadline_ms": 2})
    assert degraded("30000", {"deadline_ms": 30_000}) is None


def test_header_body_and_log_have_the_same_request_id(service_url, caplog):
    with caplog.at_level(logging.INFO, "tfrec.access"):
        named = httpx.post(
            service_url + "/v1/recommend",
            json={"k": 1},
            headers={"x-request-id": "r-77"},
            timeout=60,
        )
        unnamed = httpx.post(service_url + "/v1/recommend", json={"k": 1}, timeout=60)
        unusable = httpx.get(
            service_url + "/healthz", headers={"x-request-id": "x" * 500}, timeout=60
        )
    assert named.headers["x-request-id"] == named.json()["request_id"] == "r-77"
    assert unnamed.headers["x-request-id"] == unnamed.json()["request_id"] != "r-77"
    assert len(unusable.headers["x-request-id"]) == 32
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    line = next(line for line in lines if line["request_id"] == "r-77")
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/recommend", 200)
    assert (line["bundle_version"], line["degraded"]) == (1, None)
    assert line["milliseconds"] >= line["stage_ms"]["total"]


@pytest.mark.parametrize(
    ("given", "header"), [(" r", "%20r"), ("r ", "r%20"), ("é", "%C3%A9"), ("a b", "a b")]
)
def test_a_request_id_is_percent_encoded_in_the_header(service_url, given, header):
    reply = httpx.post(f"{service_url}/v1/recommend", json={"request_id": given}, timeout=60)
    assert (reply.status_code, reply.json()["request_id"]) == (200, given)
    assert reply.headers["x-request-id"] == header


def test_a_batch_has_the_id_of_its_caller(service_url, caplog):
    with caplog.at_level(logging.INFO, "tfrec.access"):
        reply = httpx.post(
            f"{service_url}/v1/recommend/batch",
            json={"requests": [{"request_id": "r-1"}]},
            headers={"x-request-id": "b-7"},
            timeout=60,
        )
        # The line is written after the reply.
        waiting.until(lambda: "/v1/recommend/batch" in caplog.text)
    assert reply.headers["x-request-id"] == "b-7"
    assert [answer["request_id"] for answer in reply.json()["responses"]] == ["r-1"]
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    (line,) = [line for line in lines if line["path"] == "/v1/recommend/batch"]
    assert (line["request_id"], line["requests"]) == ("b-7", 1)


@pytest.mark.parametrize("path", ["/healthz/", "/v1/recommend/", "/console/", "//evil/healthz"])
def test_redirects_do_not_contain_headers_of_the_client(service_url, path):
    for headers in ({"host": "evil.example"}, {"x-forwarded-host": "evil.example"}):
        reply = httpx.get(service_url + path, headers=headers, timeout=60)
        assert "evil.example" not in f"{reply.headers}"
        assert "evil.example" not in reply.text


def test_a_draining_service_answers_is_not_ready_and_closes_connections(
    tiny_bundle, ranker_address
):
    draining = threading.Event()
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with (
        serving_fixtures.serve_app(service, draining=draining) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        serving_fixtures.wait_until_ready(url)
        draining.set()
        reply = http.get("/readyz")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
        assert http.get("/healthz").status_code == 200
        answered = http.post("/v1/recommend", json={})
        assert answered.status_code == 200
        assert answered.headers["connection"] == "close"


def test_1000_connections_at_once_are_all_answered_or_refused(service_url):
    host, port = service_url.removeprefix("http://").split(":")
    lines = [
        *("POST /v1/recommend HTTP/1.1", "host: x", "connection: close", "x-deadline-ms: 20"),
        *("content-type: application/json", "content-length: 2", "", "{}"),
    ]
    request = "\r\n".join(lines).encode()

    def answer(connection):
        with connection:
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received[9:12]

    connections = [socket.create_connection((host, int(port)), timeout=60) for _ in range(1000)]
    for connection in connections:
        connection.sendall(request)
    with futures.ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(answer, connections))
    assert len(statuses) == 1000
    # Requests that waited for longer than their 20 ms are refused.
    assert set(statuses) == {b"200", b"429"}
