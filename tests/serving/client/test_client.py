"""The HTTP clients against a scripted server: what they send, retry and refuse."""

import asyncio
import contextlib
import http.server
import json
import re
import socket
import subprocess
import sys
import threading
import types

import clocks
import pytest
import serving_fixtures

from serving import client, errors
from serving.client import async_client, calls
from serving.client import client as sync_client

ANSWER = {
    "bundle_version": 1,
    "degraded": None,
    "order": "utility",
    "ads": [],
    "absent_heads": [],
    "stage_ms": {"total": 1.0},
}
OK = (200, {}, ANSWER)


def failure(status, code, **headers):
    return status, headers, {"error": {"code": code, "message": "injected"}}


@contextlib.contextmanager
def scripted(*replies):
    """Serves (status, headers, document) one after another, the last repeatedly; None hangs up.

    Yields the URL and the list of (headers, body) of the requests. A document without a request id
    gets the id of its request.
    """
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            seen.append((dict(self.headers), body))
            reply = replies[min(len(seen), len(replies)) - 1]
            if reply is None:
                self.close_connection = True
                return
            status, headers, document = reply
            if isinstance(document, dict):
                document = {"request_id": body.get("request_id"), **document}
            content = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_):
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def synchronously(url, name, *arguments, **options):
    with client.Client(url, **options) as connected:
        return getattr(connected, name)(*arguments)


def asynchronously(url, name, *arguments, **options):
    async def main():
        async with client.AsyncClient(url, **options) as connected:
            return await getattr(connected, name)(*arguments)

    return asyncio.run(main())


both = pytest.mark.parametrize("call", [synchronously, asynchronously])


@pytest.fixture
def clock(monkeypatch):
    """The clock of both clients, which their pauses move."""
    clock = clocks.Clock()

    async def pause(seconds):
        clock.advance(seconds)

    monkeypatch.setattr(calls, "time", types.SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(sync_client, "time", types.SimpleNamespace(sleep=clock.advance))
    monkeypatch.setattr(async_client, "asyncio", types.SimpleNamespace(sleep=pause))
    return clock


@pytest.mark.process
def test_the_client_imports_no_tensorflow():
    code = (
        "import sys; import serving.client; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('tensorflow', 'tensorflow_serving', 'faiss', 'keras', 'grpc', 'tfrec', 'pyarrow')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "[]"


@both
def test_transient_failures_are_retried_with_the_same_id_and_the_remaining_time(call, clock):
    script = (failure(503, "serving_error"), None, failure(429, "overloaded"), OK)
    with scripted(*script) as (url, seen):
        answer = call(url, "recommend", timeout_seconds=20, attempts=4)
    assert answer.bundle_version == 1
    assert len(seen) == 4
    assert len({body["request_id"] for _, body in seen}) == 1
    # Half of each pause is random; each is twice the one before.
    pauses = clock.advances
    assert all(
        half <= pause <= 2 * half for half, pause in zip((0.025, 0.05, 0.1), pauses, strict=True)
    )
    # Nine tenths of the remaining time.
    left = [20.0 - sum(pauses[:count]) for count in range(4)]
    assert [float(headers["x-deadline-ms"]) for headers, _ in seen] == pytest.approx(
        [900 * seconds for seconds in left], abs=0.5
    )


@both
def test_retry_after_is_honored_within_the_timeout(call, clock):
    with scripted(failure(429, "overloaded", **{"retry-after": "1"}), OK) as (url, seen):
        call(url, "recommend", timeout_seconds=5)
        assert (len(seen), clock.advances) == (2, [1.0])
    with scripted(failure(429, "overloaded", **{"retry-after": "60"}), OK) as (url, seen):
        with pytest.raises(errors.ClientOverloadedError):
            call(url, "recommend", timeout_seconds=5)
        assert (len(seen), clock.advances) == (1, [1.0])
    # Not a number of seconds: the pause is that of a response without the header.
    with scripted(failure(429, "overloaded", **{"retry-after": "\xb2"}), OK) as (url, seen):
        call(url, "recommend", timeout_seconds=5)
        assert len(seen) == 2


@both
@pytest.mark.parametrize(
    ("reply", "kind", "attempts"),
    [
        (failure(400, "injected"), errors.ClientRequestError, 1),
        (failure(429, "overloaded"), errors.ClientOverloadedError, 3),
        (failure(500, "injected"), errors.ClientServiceError, 1),
        (failure(503, "injected"), errors.ClientServiceError, 3),
        (None, errors.ClientConnectionError, 3),
        ((200, {}, ["another server"]), errors.ClientReplyError, 1),
        ((502, {}, "another server"), errors.ClientReplyError, 1),
        ((200, {}, {"ads": [{}]}), errors.ClientReplyError, 1),
        ((200, {}, {**ANSWER, "request_id": "of another"}), errors.ClientReplyError, 1),
    ],
)
def test_each_failure_has_its_error_and_number_of_attempts(call, clock, reply, kind, attempts):
    with scripted(reply) as (url, seen), pytest.raises(kind) as caught:
        call(url, "recommend")
    assert len(seen) == attempts
    if isinstance(caught.value, errors.ClientStatusError):
        document = reply[2]["error"]
        assert (caught.value.status, caught.value.code) == (reply[0], document["code"])
        assert str(caught.value) == document["message"]


@both
@pytest.mark.parametrize(
    "reply",
    [
        {"responses": [{**ANSWER, "request_id": request_id} for request_id in ("b", "a")]},
        {"responses": [{**ANSWER, "request_id": "a"}]},
    ],
)
def test_a_batch_with_the_answers_of_other_requests_is_refused(call, reply):
    with scripted((200, {}, reply)) as (url, _), pytest.raises(errors.ClientReplyError):
        call(url, "recommend_batch", [{"request_id": "a"}, {"request_id": "b"}])


@both
@pytest.mark.parametrize("code", ["not_ready", "draining"])
def test_a_service_that_is_not_ready_is_asked_once(call, code):
    with scripted(failure(503, code)) as (url, seen):
        assert call(url, "ready") is False
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("deadlines", "expected"),
    [
        ([500], 500),
        ([500, 700], 700),
        # Nine tenths of 20 s: the other deadline is the service's default, or longer.
        ([500, None], 18_000),
        ([60_000], 18_000),
    ],
)
def test_the_header_has_the_longest_deadline_of_the_requests(clock, deadlines, expected):
    batch = [{"deadline_ms": deadline, "request_id": "r"} for deadline in deadlines]
    reply = {"responses": [{**ANSWER, "request_id": "r"}] * len(batch)}
    with scripted((200, {}, reply)) as (url, seen):
        synchronously(url, "recommend_batch", batch, timeout_seconds=20)
    assert float(seen[0][0]["x-deadline-ms"]) == expected


@both
def test_a_service_that_does_not_answer_in_time_is_a_timeout(call):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(errors.ClientTimeoutError, match=r"no answer within 0\.2 s"):
            call(url, "recommend", timeout_seconds=0.2)


@pytest.mark.parametrize("kind", [client.Client, client.AsyncClient])
@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        *((url, {}, "base_url: ") for url in ("127.0.0.1:8000", "localhost", "ftp://host")),
        *((url, {}, "base_url: ") for url in ("http://", "http://h:x", None, 8080)),
        *(("http://h", {"token": token}, "token: ") for token in ("right\n", "é", "two words")),
        *(("http://h", {"timeout_seconds": n}, "timeout_seconds: ") for n in (0, -1, float("nan"))),
    ],
)
def test_invalid_arguments_of_a_client_are_refused(kind, url, options, said):
    with pytest.raises(errors.TfrecClientError, match=said) as caught:
        kind(url, **options)
    assert options.get("token", "not shown") not in str(caught.value)


def test_messages_hide_the_password_of_a_url():
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    for url, shown in (
        (f"http://bob:secret@{address}", f"GET http://{address}/healthz: "),
        ("ftp://bob:secret@host", "expected a URL"),
    ):
        with pytest.raises(errors.TfrecClientError, match=re.escape(shown)) as refused:
            synchronously(url, "health", attempts=1)
        assert "secret" not in str(refused.value)


def test_loopback_calls_bypass_the_proxy(monkeypatch):
    # Nothing listens at port 9, and httpx lacks what a SOCKS proxy needs.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with scripted((200, {}, {"status": "ok"})) as (url, _):
        for address in (url, url.replace("127.0.0.1", "localhost")):
            assert synchronously(address, "health")
