"""Stalled connections, connection limits, TLS files, and thousands of malformed requests."""

import contextlib
import json
import pathlib
import queue
import random
import shutil
import socket
import threading
from concurrent import futures

import httpx
import pytest
import serving_fixtures
import sockets
import waiting
from repository import TLS
from starlette import applications, requests, responses, routing

from serving import errors, process, releases
from serving.config import HttpConfig
from serving.service import connections, http_server

pytestmark = pytest.mark.process


def connected(url, **options):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30, **options)


def ends_without_a_byte(connection):
    """Waits for the end of a connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_arrive_ends_the_connection(service_url, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    with connected(service_url) as connection:
        connection.sendall(sent)
        assert ends_without_a_byte(connection)


def test_a_head_may_arrive_in_pieces(service_url):
    with connected(service_url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        # This request is answered after the first piece was read.
        assert httpx.get(f"{service_url}/healthz", timeout=60).is_success
        connection.sendall(b"host: x\r\n\r\n")
        sockets.receive(connection, lambda reply: reply.endswith(b'{"status":"ok"}'))


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_client_that_asks_for_another_protocol_is_answered_without_a_warning(
    service_url, caplog, protocol
):
    headers = {"connection": "upgrade", "upgrade": protocol}
    reply = httpx.get(f"{service_url}/healthz", headers=headers, timeout=60)
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_second_head_that_does_not_arrive_ends_the_connection(service_url, monkeypatch):
    with connected(service_url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        sockets.receive(connection, lambda reply: reply.endswith(b'{"status":"ok"}'))
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
        connection.sendall(b"GET /heal")
        assert ends_without_a_byte(connection)


async def large(_: requests.Request) -> responses.Response:
    return responses.Response(b"x" * 8_000_000)


async def small(_: requests.Request) -> responses.Response:
    return responses.Response(b"x")


@contextlib.contextmanager
def serving_large_responses(http=None):
    """Serves 8 MB at /large; yields the address."""
    routes = [routing.Route("/large", large), routing.Route("/small", small)]
    with process.bound_socket("127.0.0.1", 0) as sock:
        sock.listen()
        server = http_server.HttpServer(
            applications.Starlette(routes=routes), threading.Event(), http
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            yield sock.getsockname()
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address():
    with serving_large_responses() as address:
        yield address


def request_large(address):
    """Requests 8 MB and reads none of it; returns when the first bytes have arrived."""
    connection = socket.socket()
    connection.settimeout(60)
    # The buffers of both ends hold less than half of the 8 MB.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.connect(address)
    connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
    connection.recv(1, socket.MSG_PEEK)
    return connection


def received_bytes(connection):
    """Reads to the end, which may be a broken connection."""
    received = 0
    try:
        while chunk := connection.recv(1 << 20):
            received += len(chunk)
    except ConnectionResetError:
        return received
    return received


@pytest.fixture
def paused(monkeypatch):
    """Queue of the service's connections whose clients do not read what is written."""
    found = queue.Queue()
    pause_writing = connections.TimedConnection.pause_writing

    def pause(connection):
        pause_writing(connection)
        found.put(connection)

    monkeypatch.setattr(connections.TimedConnection, "pause_writing", pause)
    return found


def test_a_client_that_never_reads_is_aborted_and_delays_no_other(address, monkeypatch, paused):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.5)
    with request_large(address) as connection:
        stalled = paused.get(timeout=60)
        host, port = address
        assert httpx.get(f"http://{host}:{port}/small", timeout=60).is_success
        waiting.until(stalled.transport.is_closing)
        assert received_bytes(connection) < 5_000_000


def test_a_client_that_reads_only_a_few_bytes_is_aborted(address, monkeypatch, paused):
    # The test checks instead of the timer.
    monkeypatch.setattr(connections, "WRITE_SECONDS", 3_600.0)
    with request_large(address) as connection:
        slow = paused.get(timeout=60)
        # Since the timer was started, it has read one byte.
        slow._unread_bytes = slow._buffered_bytes() + 1
        slow.loop.call_soon_threadsafe(slow._check_writing)
        waiting.until(slow.transport.is_closing)
        assert received_bytes(connection) < 5_000_000


def check_since(connection, unread):
    """Checks what was read since `unread`, unless the timer has been started again."""
    if connection._unread_bytes == unread:
        connection._check_writing()


def test_a_slow_client_gets_the_whole_response(address, monkeypatch, paused):
    # The test checks instead of the timer.
    monkeypatch.setattr(connections, "WRITE_SECONDS", 3_600.0)
    with request_large(address) as connection:
        head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
        lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        missing = int(lines[b"content-length"]) - len(body)
        slow = paused.get(timeout=60)
        while unread := slow._unread_bytes:
            while slow._buffered_bytes() > max(0, unread - connections.WRITE_BYTES):
                # The last bytes may arrive before the service takes them off its buffer.
                if missing:
                    missing -= len(connection.recv(65536))
            slow.loop.call_soon_threadsafe(check_since, slow, unread)
            waiting.until(lambda unread=unread: slow._unread_bytes < unread)
        assert len(sockets.receive(connection, lambda rest: len(rest) >= missing)) == missing


def test_shutdown_does_not_wait_for_a_client_that_never_reads(monkeypatch, paused):
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.5)
    with contextlib.ExitStack() as running:
        patient = HttpConfig(end_seconds=3_600)
        address = running.enter_context(serving_large_responses(patient))
        with request_large(address):
            paused.get(timeout=60)
            ending = threading.Thread(target=running.pop_all().close)
            ending.start()
            ending.join(60)
            assert not ending.is_alive()


def test_idle_connections_outlive_those_of_load_balancers():
    server = http_server.HttpServer(lambda: None, threading.Event())
    # The longest idle timeout of the large clouds' load balancers.
    assert server.config.timeout_keep_alive > 600


def test_at_the_limit_the_longest_idle_connection_is_closed(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with (
        serving_fixtures.serve_app(service, http=HttpConfig(max_connections=2)) as url,
        connected(url) as first,
        connected(url) as second,
    ):
        second.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        sockets.receive(second, lambda reply: reply.endswith(b'{"status":"ok"}'))
        assert httpx.get(f"{url}/healthz", timeout=60).is_success
        assert ends_without_a_byte(first)
        second.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        sockets.receive(second, lambda reply: reply.endswith(b'{"status":"ok"}'))


def test_at_the_limit_new_connections_wait_for_a_request_in_progress(tiny_bundle, ranker_address):
    verified, arrived, go_on = (threading.Event() for _ in range(3))

    def hold(reply):
        # Calls that verify the ranker pass: they may arrive before the request.
        if verified.is_set():
            arrived.set()
            assert go_on.wait(60)

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(serving_fixtures.altering_server(ranker_address, hold))
        service = serving_fixtures.make_orchestrator(tiny_bundle, address)
        one = HttpConfig(max_connections=1)
        url = stack.enter_context(serving_fixtures.serve_app(service, http=one))
        serving_fixtures.wait_until_ready(url)
        verified.set()
        pool = stack.enter_context(futures.ThreadPoolExecutor(1))
        once = {"connection": "close"}
        held = pool.submit(httpx.post, f"{url}/v1/recommend", json={}, headers=once, timeout=60)
        assert arrived.wait(60)
        with connected(url) as other:
            other.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            go_on.set()
            assert held.result().is_success
            sockets.receive(other, lambda reply: reply.endswith(b'{"status":"ok"}'))


def test_time_in_the_kernel_counts_toward_the_deadline(service_url, monkeypatch, caplog):
    # What the kernel would report after the process was stopped for 2 seconds.
    last_received = connections._LAST_RECEIVED.pack(2_010)
    monkeypatch.setattr(connections.trsock.TransportSocket, "getsockopt", lambda *_: last_received)
    reply = httpx.post(f"{service_url}/v1/recommend", json={"deadline_ms": 1_500}, timeout=60)
    assert "No time was left for ranking" in reply.json()["degraded"]
    assert reply.json()["stage_ms"]["total"] > 2_000


def test_a_replaced_index_changes_no_answer_and_cannot_be_loaded(
    tiny_base, ranker_address, tmp_path
):
    base = tmp_path / "bundles"
    shutil.copytree(tiny_base, base)
    service = serving_fixtures.make_orchestrator(releases.load(base), ranker_address)
    with serving_fixtures.serve_app(service) as url:

        def ask():
            reply = httpx.post(f"{url}/v1/recommend", json={"user": {"age": 3}}, timeout=60)
            return [(ad["ad_id"], ad["retrieval_score"]) for ad in reply.json()["ads"]]

        before = ask()
        for name in ("index.faiss", "ad_features.npy", "ads.arrow"):
            other = tmp_path / name
            other.write_bytes(b"another")
            other.rename(base / "ad_index" / "1" / name)
        assert ask() == before
    with pytest.raises(errors.BundleError, match="has 7 bytes"):
        releases.load(base)


def test_only_a_certificate_with_its_key_is_accepted(tmp_path):
    certificate, key = str(TLS / "certificate.pem"), str(TLS / "key.pem")
    both = tmp_path / "both.pem"
    both.write_text(pathlib.Path(certificate).read_text() + pathlib.Path(key).read_text())
    for given in ((None, None), (certificate, key), (str(both), None)):
        http_server.check_tls(HttpConfig(*given))
    for given, message in (
        ((None, key), "A TLS key was given without a certificate"),
        ((certificate, None), "expected a PEM certificate in .* its key in the same file"),
        ((key, certificate), "expected a PEM certificate"),
        (("/no/such", key), "expected a PEM certificate in /no/such"),
    ):
        with pytest.raises(ValueError, match=message):
            http_server.check_tls(HttpConfig(*given))


VALID = (
    b'{"user": {"country": "CH", "age": 41, "history": ["ad-3", "ad-17"]}, "k": 3}',
    b'{"context": {"device": "tv"}, "weights": {"click": 1.5}, "request_id": "r"}',
    b'{"filters": {"conditions": [{"field": "price", "at_most": 20}]}, "deadline_ms": 5}',
    b'{"rules": {"caps": [{"field": "advertiser", "max": 1}]}, "explain": true}',
)
TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"[]", b"{}", b'"\\ud800"', b'"\\u0000"'),
    *(b"9" * 400, b"-0.0", b'""', b"\xff", b"\xc3(", b"[[[[", b"}}", b'{"a":', b",", b"1e-400"),
)


def malformed(rng):
    """Returns a valid body after a few random changes; it may still be valid."""
    body = bytearray(rng.choice(VALID))
    # Replaced values are the most frequent: most other changes only break the syntax.
    for _ in range(rng.randint(1, 2)):
        place, kind = rng.randrange(len(body) + 1), rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
        if kind == 0:
            body[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del body[place : place + rng.randint(1, 9)]
        elif kind == 2:
            body[place:place] = rng.choice(TOKENS)
        elif kind == 3:
            # The value after some colon.
            colons = [i for i, byte in enumerate(body) if byte == ord(":")] or [0]
            start = rng.choice(colons) + 1
            end = min(
                (body.find(c, start) for c in b",}" if body.find(c, start) > 0), default=start
            )
            body[start:end] = rng.choice(TOKENS)
        else:
            body[place:place] = body[: rng.randrange(len(body) + 1)]
        body = body or bytearray(b"0")
    return bytes(body)


def test_5000_malformed_bodies_are_refused_without_a_failure(service_url):
    rng = random.Random(7)
    statuses = {}
    with connected(service_url) as connection, connection.makefile("rb") as replies:
        for number in range(5_000):
            body = malformed(rng)
            path = "/v1/recommend"
            if number % 5 == 0:
                body, path = b'{"requests": [' + body + b"]}", "/v1/recommend/batch"
            lines = [
                *(f"POST {path} HTTP/1.1", "host: x", "x-deadline-ms: 1"),
                *("content-type: application/json", f"content-length: {len(body)}", "", ""),
            ]
            connection.sendall("\r\n".join(lines).encode() + body)
            status, length = int(replies.readline().split()[1]), 0
            while line := replies.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            document = json.loads(replies.read(length))
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500, (body, document)
            assert status == 200 or set(document) == {"error"}, (body, document)
    assert set(statuses) == {200, 400, 422}, statuses
    assert min(statuses.values()) > 100, statuses
    assert httpx.post(f"{service_url}/v1/recommend", json={}, timeout=60).json()["ads"]
