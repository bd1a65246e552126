"""The three clients: the same calls give the same results, and transient failures are retried."""

import asyncio
import contextlib
import http.server
import json
import multiprocessing
import threading
import time

import clocks
import numpy as np
import pytest
import serving_fixtures
import waiting

from serving import errors, orchestrator, users
from serving.client import async_client, client, http_calls, local_client
from serving.requests import Condition, Filters, Request

pytestmark = pytest.mark.process

FIELDS = {
    "user": {"country": "CH", "age": 41},
    "context": {"device": "tv"},
    "k": 3,
    # The machine of a test may be slow.
    "deadline_ms": 60_000,
}
FAST = http_calls.Retry(attempts=3, pause_seconds=0.01)


@pytest.fixture(scope="module")
def local(tiny_base):
    with local_client.LocalClient(tiny_base) as connected:
        yield connected


def asynchronously(url, call, **options):
    """Runs `call(client)` with an async client in a new event loop."""

    async def main():
        async with async_client.AsyncClient(url, **options) as connected:
            return await call(connected)

    return asyncio.run(main())


def test_the_same_calls_give_the_same_answers(service_url, local):
    def comparable(answer):
        document = answer.to_json()
        ads = [
            {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in ad.items()}
            for ad in document.pop("ads")
        ]
        return {**document, "stage_ms": set(document["stage_ms"])}, ads

    requests = [Request(user={"age": age}, k=2, request_id=str(age)) for age in range(3)]

    async def all_calls(connected):
        return (
            await connected.recommend(**FIELDS, request_id="r"),
            await connected.recommend_batch(requests),
            await connected.bundle(),
            await connected.health(),
            await connected.ready(),
        )

    found = [asynchronously(service_url, all_calls, timeout_seconds=60)]
    with client.Client(service_url, timeout_seconds=60) as remote:
        for connected in (remote, local):
            found.append(
                (
                    connected.recommend(**FIELDS, request_id="r"),
                    connected.recommend_batch(requests),
                    connected.bundle(),
                    connected.health(),
                    connected.ready(),
                )
            )
    one, batch, bundle, health, ready = found[0]
    assert (one.degraded, len(one.ads), health, ready) == (None, 3, True, True)
    for other_one, other_batch, other_bundle, *state in found[1:]:
        assert comparable(one) == comparable(other_one)
        assert [comparable(a) for a in batch] == [comparable(a) for a in other_batch]
        assert bundle["training_id"] == other_bundle["training_id"]
        assert state == [True, True]


def test_clients_accept_numpy_values(service_url, local):
    fields = {"country": np.int64(7), "age": np.int64(41), "history": np.array([3, 8])}
    parts = {"context": {"device": np.True_}, "user_id": np.int64(5), "deadline_ms": 60_000}
    plain = {"country": 7, "age": 41, "history": [3, 8], "device": True}
    with client.Client(service_url) as remote:
        wanted = remote.recommend(context=plain, user_id=5, deadline_ms=60_000)
        for user in (fields, {**fields, "age": np.float32(41), "history": [*fields["history"]]}):
            for connected in (remote, local):
                answer = connected.recommend(user=user, **parts)
                assert [ad.ad_id for ad in answer.ads] == [ad.ad_id for ad in wanted.ads]


@pytest.mark.parametrize(
    "changes",
    [
        {"user": {"contry": "CH"}},
        {"k": 0},
        {"weights": {"x": 1}},
        {"release": "none"},
        {"dry_run": 1},
        {"filters": {"conditions": 3}},
    ],
)
def test_clients_refuse_a_request_with_the_same_message(service_url, local, changes):
    said = []
    with client.Client(service_url) as remote:
        for connected in (remote, local):
            with pytest.raises(errors.ClientRequestError) as caught:
                connected.recommend(**changes)
            said.append((caught.value.status, caught.value.code, str(caught.value)))
    with pytest.raises(errors.ClientRequestError) as caught:
        asynchronously(service_url, lambda connected: connected.recommend(**changes))
    said.append((caught.value.status, caught.value.code, str(caught.value)))
    assert said[0] == said[1] == said[2]


def test_clients_read_and_write_users_in_the_same_way(
    tiny_base, tiny_bundle, ranker_address, tmp_path
):
    clicked = {"event_id": "e1", "user_id": "a/b", "ad_id": "ad-3", "event": "click"}
    rules = {"frequency_caps": [{"max": 1, "event": "click"}]}
    store = f"sqlite:{tmp_path}/users.db"
    patient = serving_fixtures.PATIENT_USERS
    data = orchestrator.UserData(users.open_store(store, patient), patient)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, users=data)

    async def all_calls(connected):
        await connected.set_profile("a/b", {"country": "CH"})
        done = [await connected.add_events([clicked]), await connected.add_events([clicked])]
        answer = await connected.recommend(user_id="a/b", rules=rules, k=300)
        stored = await connected.get_user("a/b")
        return done, answer, stored, await connected.delete_user("a/b")

    with serving_fixtures.serve_app(service) as url:
        serving_fixtures.wait_until_ready(url)
        found = [asynchronously(url, all_calls, timeout_seconds=60)]
        with (
            client.Client(url, timeout_seconds=60) as remote,
            local_client.LocalClient(tiny_base, user_store=store) as local,
        ):
            for connected in (remote, local):
                connected.set_profile("a/b", {"country": "CH"})
                done = [connected.add_events([clicked]), connected.add_events([clicked])]
                answer = connected.recommend(user_id="a/b", rules=rules, k=300)
                stored = connected.get_user("a/b")
                found.append((done, answer, stored, connected.delete_user("a/b")))
                assert connected.delete_user("a/b") is False
                for call in (
                    lambda c: c.set_profile("u", {"contry": "CH"}),
                    lambda c: c.add_events([{**clicked, "event": "clik"}]),
                ):
                    with pytest.raises(errors.ClientRequestError, match=r"country|'click'"):
                        call(connected)
                for profile in ("CH", None):
                    with pytest.raises(errors.ClientRequestError, match="profile: expected an obj"):
                        connected.set_profile("u", profile)
                with pytest.raises(errors.ClientRequestError, match=r"profile\.country: expected"):
                    connected.set_profile("u", {"country": 1.5})
                for call in (
                    lambda c: c.set_profile(None, {"country": "CH"}),
                    lambda c: c.get_user(None),
                    lambda c: c.delete_user(None),
                ):
                    with pytest.raises(errors.ClientRequestError, match="user_id: expected a str"):
                        call(connected)
                for user in (5, ".", ".."):
                    connected.set_profile(user, {"country": "CH"})
                    assert connected.delete_user(user) is True
                for call in (
                    lambda c: c.set_profile("u" * 257, {}),
                    lambda c: c.get_user("u" * 257),
                    lambda c: c.delete_user("u" * 257),
                ):
                    with pytest.raises(errors.ClientRequestError, match="1 to 256 characters"):
                        call(connected)
    for done, answer, stored, deleted in found:
        assert [added.added for added in done] == [1, 0]
        assert stored["profile"] == {"country": "CH"}
        assert [action["event_id"] for action in stored["actions"]] == ["e1"]
        assert "ad-3" not in {ad.ad_id for ad in answer.ads}
        assert deleted is True
    assert len({tuple(ad.ad_id for ad in answer.ads) for _, answer, *_ in found}) == 1


def test_a_client_without_a_store_says_what_is_missing(service_url, local):
    with pytest.raises(errors.TfrecClientError, match="Create it with user_store"):
        local.delete_user("u")
    with (
        client.Client(service_url) as remote,
        pytest.raises(errors.ClientRequestError, match="start it with --user_store"),
    ):
        remote.delete_user("u")


def test_a_local_client_of_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(errors.BundleNotFoundError, match="has no published bundle"):
        local_client.LocalClient(tmp_path)


@contextlib.contextmanager
def scripted(*replies, drips=False):
    """Serves (status, headers, document) one after another, the last repeatedly; None hangs up.

    Yields the URL and the list of (headers, body) of the requests; the header "port" is the port of
    the connection. A document without a request id gets the id of its request. An answer that drips
    sends a byte every 20 ms, and ends only with the block.
    """
    seen, ending = [], threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")
            seen.append(({**self.headers, "port": self.client_address[1]}, body))
            reply = replies[min(len(seen), len(replies)) - 1]
            if reply is None:
                self.close_connection = True
                return
            status, headers, document = reply
            content = json.dumps({"request_id": body.get("request_id"), **document}).encode()
            length = 10**9 if drips else len(content)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(length)}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)
                while drips and not ending.wait(0.02):
                    self.wfile.write(b" ")

        do_GET = do_POST

        def log_message(self, *_):
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        ending.set()
        server.shutdown()
        thread.join()
        server.server_close()


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


def test_transient_failures_are_retried_with_the_same_id_and_the_remaining_time():
    script = (failure(503, "serving_error"), None, failure(429, "overloaded"), OK)
    retry = http_calls.Retry(attempts=4, pause_seconds=1.0)
    clock, other_clock = clocks.Clock(), clocks.Clock()

    async def pause(seconds):
        other_clock.advance(seconds)

    with scripted(*script) as (url, seen):
        options = {"retry": retry, "timeout_seconds": 20}
        with client.Client(url, clock=clock, sleep=clock.advance, **options) as connected:
            assert connected.recommend().bundle_version == 1
        assert_retried(seen, clock.advances)
    with scripted(*script) as (url, seen):
        options |= {"clock": other_clock, "sleep": pause}
        assert asynchronously(url, lambda c: c.recommend(), **options).bundle_version == 1
        assert_retried(seen, other_clock.advances)


def assert_retried(seen, pauses):
    """Checks four attempts of a call of 20 s, with a first pause of a second."""
    assert len(seen) == 4
    assert len({body["request_id"] for _, body in seen}) == 1
    # Half of each pause is random; each is twice the one before, up to 2 s.
    assert [0.5 <= pauses[0] <= 1, 1 <= pauses[1] <= 2, 1 <= pauses[2] <= 2] == [True] * 3
    # Nine tenths of the remaining time.
    left = [20.0 - sum(pauses[:count]) for count in range(4)]
    assert [float(headers["x-deadline-ms"]) for headers, _ in seen] == pytest.approx(
        [900 * seconds for seconds in left], abs=0.5
    )


@pytest.mark.parametrize("ids", [["b", "a"], ["a", "x"]])
def test_an_answer_to_another_request_is_refused(ids):
    batch = {"responses": [{**ANSWER, "request_id": request_id} for request_id in ids]}
    script = ((200, {}, {**ANSWER, "request_id": "of another"}), (200, {}, batch))
    calls = (
        (
            lambda c: c.recommend(request_id="a"),
            r"the answer to request 'a', got .*'of another'",
        ),
        (lambda c: c.recommend_batch([{"request_id": "a"}, {"request_id": "b"}]), "answer to"),
    )
    with scripted(*script) as (url, _), client.Client(url) as connected:
        for call, said in calls:
            with pytest.raises(errors.ClientReplyError, match=said):
                call(connected)
    with scripted(*script) as (url, _):
        for call, said in calls:
            with pytest.raises(errors.ClientReplyError, match=said):
                asynchronously(url, call)


def test_a_forked_process_opens_its_own_connections():
    with scripted(OK) as (url, seen), client.Client(url, timeout_seconds=60) as connected:
        connected.recommend(request_id="before the fork")
        child = multiprocessing.get_context("fork").Process(
            target=connected.recommend, kwargs={"request_id": "child"}
        )
        child.start()
        child.join(waiting.GUARD_SECONDS)
        connected.recommend(request_id="parent")
    assert [body["request_id"] for _, body in seen] == ["before the fork", "child", "parent"]
    ports = [headers["port"] for headers, _ in seen]
    assert ports[1] not in (ports[0], ports[2])


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
def test_the_header_has_the_longest_deadline_of_the_requests(deadlines, expected):
    batch = [{"deadline_ms": deadline, "request_id": "r"} for deadline in deadlines]
    script = (200, {}, {"responses": [{**ANSWER, "request_id": "r"}] * len(batch)}), OK
    options = {"timeout_seconds": 20, "clock": clocks.Clock()}
    with scripted(*script) as (url, seen), client.Client(url, **options) as connected:
        connected.recommend_batch(batch)
        if len(batch) == 1:
            connected.recommend(**batch[0])
    assert {float(headers["x-deadline-ms"]) for headers, _ in seen} == {expected}


def test_the_error_of_the_last_attempt_is_raised():
    with scripted(failure(429, "overloaded")) as (url, seen):
        with (
            client.Client(url, retry=FAST) as connected,
            pytest.raises(errors.ClientOverloadedError, match="injected") as caught,
        ):
            connected.recommend()
        assert (caught.value.status, len(seen)) == (429, 3)


def test_an_answer_that_drips_ends_at_the_timeout_of_the_call():
    # Each byte arrives well within the read timeout, but the answer never ends.
    with scripted(OK, drips=True) as (url, _):
        late = pytest.raises(errors.ClientTimeoutError, match=r"no answer within 0\.3 s")
        with client.Client(url, timeout_seconds=0.3) as connected, late:
            connected.recommend()
        with late:
            asynchronously(url, lambda connected: connected.recommend(), timeout_seconds=0.3)


def test_closing_a_local_client_ends_a_call_in_flight_with_an_error(tiny_base, monkeypatch):
    connected = local_client.LocalClient(tiny_base)
    asked = threading.Event()

    async def never(*_):
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(connected._service._retrieval, "find", never)
    said = []

    def ask():
        try:
            connected.recommend(**FIELDS)
        except errors.TfrecClientError as error:
            said.append(str(error))

    other = threading.Thread(target=ask)
    other.start()
    assert asked.wait(60)
    connected.close()
    other.join(60)
    assert said == ["The client was closed before the answer."]
    with pytest.raises(errors.TfrecClientError, match="The client is closed"):
        connected.recommend(**FIELDS)
    assert not connected.health()


def test_an_empty_list_of_allowed_ads_gives_no_ads(service_url, local):
    nothing = Filters(allowed_ads=())
    assert nothing.to_json() == {"allowed_ads": ()}
    no_price = Filters(conditions=[Condition(field="price", any_of=(), at_most=20.0)])
    with client.Client(service_url) as connected:
        for filters in (nothing, no_price):
            found = [each.recommend(**FIELDS, filters=filters) for each in (connected, local)]
            assert [answer.ads for answer in found] == [[], []]


@pytest.mark.parametrize(
    ("status", "kind"), [(400, errors.ClientRequestError), (500, errors.ClientServiceError)]
)
def test_permanent_failures_are_not_retried(status, kind):
    with scripted(failure(status, "injected"), OK) as (url, seen):
        with client.Client(url, retry=FAST) as connected, pytest.raises(kind):
            connected.recommend()
        assert len(seen) == 1


def test_retry_after_is_honored_within_the_timeout():
    clock = clocks.Clock()
    options = {"retry": FAST, "timeout_seconds": 5, "clock": clock, "sleep": clock.advance}
    with scripted(failure(429, "overloaded", **{"retry-after": "1"}), OK) as (url, seen):
        with client.Client(url, **options) as connected:
            connected.recommend()
        assert (len(seen), clock.advances) == (2, [1.0])
    with scripted(failure(429, "overloaded", **{"retry-after": "60"}), OK) as (url, seen):
        with (
            client.Client(url, **options) as connected,
            pytest.raises(errors.ClientOverloadedError),
        ):
            connected.recommend()
        assert (len(seen), clock.advances) == (1, [1.0])
    # Not a number of seconds: the pause is that of a response without the header.
    with scripted(failure(429, "overloaded", **{"retry-after": "\xb2"}), OK) as (url, seen):
        with client.Client(url, **options) as connected:
            connected.recommend()
        assert len(seen) == 2


def test_ready_does_not_retry_a_service_that_is_not_ready():
    with scripted(failure(503, "draining")) as (url, seen):
        with client.Client(url, retry=FAST) as connected:
            assert connected.ready() is False
        assert asynchronously(url, lambda c: c.ready()) is False
        assert len(seen) == 2


def test_a_short_timeout_gives_an_answer_in_retrieval_order_instead_of_none(
    tiny_bundle, ranker_address
):
    held = threading.Event()
    held.set()
    ahead = 0.0
    with serving_fixtures.altering_server(ranker_address, lambda _: held.wait(60)) as address:
        # The deadline is nine tenths of 20 s. By its clock, the service has used all but one of
        # them; the client still waits for 20, for a slow machine.
        service = serving_fixtures.make_orchestrator(
            tiny_bundle, address, clock=lambda: time.perf_counter() + ahead
        )
        with (
            serving_fixtures.serve_app(service) as url,
            client.Client(url, timeout_seconds=20) as connected,
        ):
            serving_fixtures.wait_until_ready(url)
            held.clear()
            ahead = 17.0
            answer = connected.recommend()
            held.set()
    assert answer.order == "retrieval"


def test_a_token_is_sent_and_a_wrong_one_is_refused(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token="right") as url:
        with client.Client(url, token="right", timeout_seconds=30) as known:
            assert known.recommend().bundle_version == 1
        with (
            client.Client(url, token="wrong") as unknown,
            pytest.raises(errors.ClientRequestError, match="authorization: Bearer") as caught,
        ):
            unknown.recommend()
        assert caught.value.status == 401
        assert asynchronously(url, lambda c: c.bundle(), token="right")["version"] == 1


@pytest.mark.parametrize("kind", [client.Client, async_client.AsyncClient])
def test_invalid_arguments_of_a_client_are_refused(kind):
    for token in ("right\n", "schlüssel", "two words"):
        with pytest.raises(errors.TfrecClientError, match="token: expected printable") as caught:
            kind("http://127.0.0.1:1", token=token)
        assert token not in str(caught.value)
    for seconds in (None, 0, -1, float("nan"), float("inf"), "3"):
        with pytest.raises(errors.TfrecClientError, match="timeout_seconds: expected a number"):
            kind("http://127.0.0.1:1", timeout_seconds=seconds)


def test_a_retry_without_attempts_is_refused():
    for attempts in (0, -1, 1.5, None, True):
        with pytest.raises(errors.TfrecClientError, match="attempts: expected an integer of at le"):
            http_calls.Retry(attempts=attempts)


def test_a_local_client_refuses_calls_in_a_forked_process(local):
    def ask():
        for call in (lambda: local.recommend(k=1), local.bundle, local.ready):
            with pytest.raises(errors.TfrecClientError, match="this one was forked from"):
                call()
        assert not local.health()
        local.close()

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join(waiting.GUARD_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 0
    assert local.recommend(k=1).bundle_version == 1


def test_an_async_client_refuses_calls_in_another_event_loop(service_url):
    remote = async_client.AsyncClient(service_url, timeout_seconds=60)
    assert asyncio.run(remote.health())
    for call in (remote.health, remote.recommend, remote.close):
        with pytest.raises(errors.TfrecClientError, match="belongs to the event loop of its first"):
            asyncio.run(call())


def test_a_closed_client_refuses_calls(service_url):
    connected = client.Client(service_url)
    connected.close()
    connected.close()
    with pytest.raises(errors.TfrecClientError, match=r"The client is closed\. Create another"):
        connected.health()

    async def closed():
        remote = async_client.AsyncClient(service_url)
        await remote.close()
        await remote.recommend()

    with pytest.raises(errors.TfrecClientError, match=r"The client is closed\. Create another"):
        asyncio.run(closed())


def test_closing_a_local_client_ends_all_calls_in_flight(tiny_base):
    connected = local_client.LocalClient(tiny_base)
    answered, said = threading.Event(), []

    def ask():
        try:
            while True:
                connected.recommend(**FIELDS)
                answered.set()
        except errors.TfrecClientError as error:
            said.append(str(error))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert answered.wait(60)
    closers = [threading.Thread(target=connected.close, daemon=True) for _ in range(3)]
    for thread in closers:
        thread.start()
    for thread in (*closers, *threads):
        thread.join(60)
        assert not thread.is_alive()
    assert len(said) == 8
    assert all("closed" in text for text in said)


def test_every_client_can_name_a_release(service_url, local):
    batch = [{"k": 1, "release": "canary"}, {"k": 1}]
    answer = asynchronously(service_url, lambda remote: remote.recommend(k=1, release="canary"))
    assert (answer.bundle_version, answer.release) == (1, "stable")
    with client.Client(service_url, timeout_seconds=30) as remote:
        for connected in (remote, local):
            for release in ("stable", "canary"):
                answer = connected.recommend(k=1, release=release)
                assert (answer.bundle_version, answer.release) == (1, "stable")
            assert connected.recommend(k=1).release is None
            answers = connected.recommend_batch(batch)
            assert [answer.release for answer in answers] == ["stable", None]


def test_a_file_without_certificates_is_refused(tmp_path):
    path = tmp_path / "none.pem"
    path.write_text("no certificate")
    with pytest.raises(errors.TfrecClientError, match="Expected a PEM file of certificates"):
        client.Client("https://127.0.0.1:1", verify=str(path))


def test_every_client_accepts_a_request_or_its_fields(service_url, local):
    request = Request(user={"country": "CH"}, k=2, request_id="r", dry_run=True)

    def ads_of(answer):
        return [ad.ad_id for ad in answer.ads]

    with client.Client(service_url, timeout_seconds=30) as remote:
        for connected in (remote, local):
            expected = ads_of(connected.recommend(**request.to_json()))
            assert len(expected) == 2
            assert ads_of(connected.recommend(request)) == expected
            assert ads_of(connected.recommend(request, k=1)) == expected[:1]
        found = asynchronously(service_url, lambda connected: connected.recommend(request))
        assert ads_of(found) == expected
