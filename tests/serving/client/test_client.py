import re
import socket
import subprocess
import sys
import threading

import pytest
import serving_fixtures

from serving import client, errors
from serving.client import http_calls
from serving.requests import Answer, Condition, Filters, Request


@pytest.fixture
def service(service_url):
    with client.Client(service_url, timeout_seconds=30) as connected:
        yield connected


@pytest.mark.process
def test_the_client_imports_no_tensorflow():
    code = (
        "import sys; import serving.client; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('tensorflow', 'tensorflow_serving', 'faiss', 'keras', 'grpc', 'tfrec', 'pyarrow')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "[]"


def test_recommend_returns_a_typed_answer(service):
    answer = service.recommend(
        user={"country": "CH", "age": 20},
        context={"device": "phone"},
        k=4,
        weights={"click": 0.0, "revenue": 3},
        deadline_ms=20_000,
        request_id="r-9",
    )
    assert isinstance(answer, Answer)
    assert (answer.request_id, answer.bundle_version, answer.degraded) == ("r-9", 1, None)
    assert [ad.rank for ad in answer.ads] == [1, 2, 3, 4]
    for ad in answer.ads:
        # The weight of click is 0, that of engagement the default 1, that of revenue 3.
        expected = ad.engagement_probability + 3 * ad.expected_revenue
        assert ad.utility == pytest.approx(expected, abs=1e-6)
        assert set(ad.fields) == set(serving_fixtures.AD_FIELDS)


def test_a_batch_gives_the_same_answers_as_single_requests(service):
    requests = [Request(user={"age": age}, k=3) for age in range(5)]
    together = service.recommend_batch(requests)
    alone = [service.recommend(user=request.user, k=3) for request in requests]
    assert [[ad.ad_id for ad in answer.ads] for answer in together] == [
        [ad.ad_id for ad in answer.ads] for answer in alone
    ]


def test_filters_are_models_or_json_objects(service):
    condition = Condition(field="price", at_least=10, at_most=12)
    filters = Filters(conditions=[condition], excluded_ads=("ad-22",))
    as_classes = service.recommend(filters=filters)
    as_json = service.recommend(
        filters={
            "conditions": [{"field": "price", "at_least": 10, "at_most": 12}],
            "excluded_ads": ["ad-22"],
        }
    )
    # Prices are r / 2, but the 21st has none: 20, 22, 23 and 24 are left, less ad-22.
    (in_a_batch,) = service.recommend_batch([Request(filters=filters)])
    for answer in (as_classes, as_json, in_a_batch):
        assert {ad.ad_id for ad in answer.ads} == {"ad-20", "ad-23", "ad-24"}


def test_an_empty_batch_has_no_answers(service):
    assert service.recommend_batch([]) == []


def test_requests_of_a_batch_may_be_json_objects(service):
    (answer,) = service.recommend_batch([{"k": 2, "request_id": "mine"}])
    assert (answer.request_id, len(answer.ads)) == ("mine", 2)
    with pytest.raises(errors.ClientRequestError, match=r"requests\[1\].*unknown key 'contxt'"):
        service.recommend_batch([Request(), {"contxt": {}}])


def test_the_state_of_the_service(service):
    assert service.health()
    assert service.ready()
    assert service.bundle()["version"] == 1


def test_a_refused_request_raises_the_message_of_the_service(service):
    with pytest.raises(errors.ClientRequestError, match="Did you mean 'country'") as caught:
        service.recommend(user={"contry": "CH"})
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    with pytest.raises(
        errors.ClientRequestError, match=r"k: expected an integer, got 'ten' \(str\)"
    ) as caught:
        service.recommend(k="ten")
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    with pytest.raises(
        errors.ClientRequestError, match=r"unknown key 'usr' \(str\)\. Did you mean 'user'"
    ):
        service.recommend(usr={"country": "CH"})


def test_values_without_a_json_form_are_not_sent(service):
    with pytest.raises(errors.TfrecClientError, match="cannot be sent as JSON"):
        service.recommend(user={"country": object()})
    with pytest.raises(errors.TfrecClientError, match=r"as JSON: .*or None for a missing value\."):
        service.recommend(user={"age": float("nan")})


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "localhost", "ftp://host", "http://", "http://h:x", None, 8080]
)
def test_an_invalid_url_is_refused(url):
    with pytest.raises(errors.TfrecClientError, match="Expected the URL of the service, such as"):
        client.Client(url)


def test_a_service_that_does_not_run_is_a_connection_error():
    url = f"http://127.0.0.1:{serving_fixtures.free_port()}"
    with (
        client.Client(url) as service,
        pytest.raises(errors.ClientConnectionError, match="Is the service running"),
    ):
        service.health()


def test_loopback_calls_bypass_the_proxy(service_url, monkeypatch):
    # Nothing listens at port 9, and httpx lacks what a SOCKS proxy needs.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    for url in (service_url, service_url.replace("127.0.0.1", "localhost")):
        with client.Client(url, timeout_seconds=30) as service:
            assert service.health()


def test_messages_hide_the_password_of_a_url():
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    for url, shown in (
        (f"http://bob:secret@{address}", f"GET http://{address}/healthz: "),
        ("ftp://bob:secret@host", "got 'ftp://host'."),
    ):
        with pytest.raises(errors.TfrecClientError, match=re.escape(shown)) as refused:
            client.Client(url).health()
        assert "secret" not in str(refused.value)


def test_a_service_that_does_not_answer_in_time_is_a_timeout():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            client.Client(url, timeout_seconds=0.2) as service,
            pytest.raises(errors.ClientTimeoutError, match=r"no answer within 0\.2 s"),
        ):
            service.recommend()


def test_a_reply_of_another_server_is_refused():
    def serve_page(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>")

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = threading.Thread(target=serve_page, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with (
            client.Client(url) as service,
            pytest.raises(errors.ClientReplyError, match=r"expected a JSON object .*<html>"),
        ):
            service.recommend()
        thread.join()


def test_a_service_without_a_ranker_is_healthy_and_not_ready(tiny_bundle):
    address = f"127.0.0.1:{serving_fixtures.free_port()}"
    behind = serving_fixtures.make_orchestrator(tiny_bundle, address)
    with serving_fixtures.serve_app(behind) as url, client.Client(url) as service:
        assert service.health()
        assert not service.ready()
        answer = service.recommend()
    assert answer.order == "retrieval"
    assert address in answer.degraded
    assert all(ad.utility is None for ad in answer.ads)


def test_an_answer_survives_json_and_unknown_keys_are_ignored():
    answer = Answer(
        request_id="r",
        bundle_version=1,
        degraded=None,
        order="utility",
        ads=[],
        absent_heads=[],
        stage_ms={"total": 1.0},
    )
    assert http_calls._read(Answer, {**answer.to_json(), "newer": 1}) == answer
    with pytest.raises(errors.ClientReplyError, match="JSON object of an answer"):
        http_calls._read(Answer, {"ads": [{}]})
