"""TLS files, limits of connections, and thousands of malformed requests."""

import json
import pathlib
import random
import shutil
import socket
import threading

import httpx
import pytest
import serving_fixtures
import waiting
from repository import TLS

from serving import errors, releases
from serving.config import HttpConfig
from serving.service import http_server

pytestmark = pytest.mark.process


def connected(url, **options):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30, **options)


def test_idle_connections_outlive_those_of_load_balancers():
    server = http_server.HttpServer(lambda: None, threading.Event())
    # The longest idle timeout of the large clouds' load balancers.
    assert server.config.timeout_keep_alive > 600


def test_a_request_above_the_maximum_of_connections_gets_503(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    http = HttpConfig(max_connections=2)
    with serving_fixtures.serve_app(service, http=http) as url:
        with connected(url), connected(url):
            assert httpx.get(f"{url}/healthz", timeout=60).status_code == 503
        waiting.until(lambda: httpx.get(f"{url}/healthz", timeout=60).is_success)


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


def test_2000_malformed_bodies_are_refused_without_a_failure(service_url):
    rng = random.Random(7)
    statuses = {}
    with connected(service_url) as connection, connection.makefile("rb") as replies:
        for number in range(2_000):
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
    assert {200, 422} <= set(statuses) <= {200, 400, 422}, statuses
    assert min(statuses[200], statuses[422]) > 50, statuses
    assert httpx.post(f"{service_url}/v1/recommend", json={}, timeout=60).json()["ads"]
