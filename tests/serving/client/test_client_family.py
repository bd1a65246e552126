"""The three clients against the same release: the same calls give the same results."""

import asyncio
import threading

import numpy as np
import pytest
import serving_fixtures

from serving import client, errors, orchestrator, users
from serving.client import local_client
from serving.requests import Answer, Condition, Filters, Request

pytestmark = pytest.mark.process

FIELDS = {
    "user": {"country": "CH", "age": 41},
    "context": {"device": "tv"},
    "k": 3,
    # The machine of a test may be slow.
    "deadline_ms": 60_000,
}


class Asynchronous:
    """The async client with the calls of the others."""

    def __init__(self, url, **options):
        self._runner = asyncio.Runner()
        self._client = client.AsyncClient(url, **options)

    def __getattr__(self, name):
        def call(*arguments, **fields):
            return self._runner.run(getattr(self._client, name)(*arguments, **fields))

        return call

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._runner.close()


@pytest.fixture(scope="module")
def local(tiny_base):
    with local_client.LocalClient(tiny_base) as connected:
        yield connected


@pytest.fixture
def family(service_url, local):
    """All three clients of the tiny release."""
    with (
        client.Client(service_url, timeout_seconds=60) as remote,
        Asynchronous(service_url, timeout_seconds=60) as other,
    ):
        yield remote, other, local


def ids_of(answer):
    return [ad.ad_id for ad in answer.ads]


def test_the_same_calls_give_the_same_answers(family):
    def comparable(answer):
        document = answer.to_json()
        ads = [
            {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in ad.items()}
            for ad in document.pop("ads")
        ]
        return {**document, "stage_ms": set(document["stage_ms"])}, ads

    requests = [Request(user={"age": age}, k=2, request_id=str(age)) for age in range(3)]
    found = []
    for connected in family:
        assert connected.health() is connected.ready() is True
        assert connected.bundle()["training_id"] == "training-0"
        assert connected.recommend_batch([]) == []
        batch = connected.recommend_batch([*requests, {"k": 2, "request_id": "mine"}])
        found.append([connected.recommend(**FIELDS, request_id="r"), *batch])
        alone = [connected.recommend(request) for request in requests]
        assert [ids_of(answer) for answer in batch[:3]] == [ids_of(answer) for answer in alone]
    assert isinstance(found[0][0], Answer)
    assert (found[0][0].degraded, len(found[0][0].ads)) == (None, 3)
    for other in found[1:]:
        assert [comparable(a) for a in found[0]] == [comparable(a) for a in other]


def test_weights_make_the_utility_of_a_typed_answer(family):
    for connected in family:
        answer = connected.recommend(**FIELDS, weights={"click": 0.0, "revenue": 3})
        assert [ad.rank for ad in answer.ads] == [1, 2, 3]
        for ad in answer.ads:
            # The weight of click is 0, that of engagement the default 1, that of revenue 3.
            expected = ad.engagement_probability + 3 * ad.expected_revenue
            assert ad.utility == pytest.approx(expected, abs=1e-6)
            assert set(ad.fields) == set(serving_fixtures.AD_FIELDS)


def test_requests_and_filters_are_models_or_json_objects(family):
    request = Request(user={"country": "CH"}, k=2, request_id="r", dry_run=True)
    condition = Condition(field="price", at_least=10, at_most=12)
    filters = Filters(conditions=[condition], excluded_ads=("ad-22",))
    nothing = Filters(allowed_ads=())
    for connected in family:
        expected = ids_of(connected.recommend(**request.to_json()))
        assert ids_of(connected.recommend(request)) == expected
        assert ids_of(connected.recommend(request, k=1)) == expected[:1]
        # Prices are r / 2, but the 21st has none: 20, 22, 23 and 24 are left, less ad-22.
        for given in (filters, filters.to_json()):
            answer = connected.recommend(filters=given)
            assert set(ids_of(answer)) == {"ad-20", "ad-23", "ad-24"}
        assert connected.recommend(filters=nothing).ads == []


def test_clients_accept_numpy_values(family):
    fields = {"country": np.int64(7), "age": np.int64(41), "history": np.array([3, 8])}
    parts = {"context": {"device": np.True_}, "user_id": np.int64(5), "deadline_ms": 60_000}
    plain = {"country": 7, "age": 41, "history": [3, 8], "device": True}
    wanted = family[0].recommend(context=plain, user_id=5, deadline_ms=60_000)
    for user in (fields, {**fields, "age": np.float32(41), "history": [*fields["history"]]}):
        for connected in family:
            assert ids_of(connected.recommend(user=user, **parts)) == ids_of(wanted)


@pytest.mark.parametrize(
    "changes",
    [
        {"user": {"contry": "CH"}},
        {"usr": {}},
        {"k": 0},
        {"k": "ten"},
        {"weights": {"x": 1}},
        {"release": "none"},
        {"dry_run": 1},
        {"filters": {"conditions": 3}},
    ],
)
def test_clients_refuse_a_request_with_the_same_message(family, changes):
    said = set()
    for connected in family:
        with pytest.raises(errors.ClientRequestError) as caught:
            connected.recommend(**changes)
        said.add((caught.value.status, caught.value.code, str(caught.value)))
    ((status, code, message),) = said
    assert (status, code) == (422, "invalid_request")
    assert next(iter(changes)) in message


def test_a_refused_request_of_a_batch_is_its_error_and_the_others_are_answered(family):
    for connected in family:
        wrong = {"user": {"contry": "CH"}}
        first, second, third = connected.recommend_batch([{"k": 1}, wrong, {"k": 2}])
        assert (len(first.ads), len(third.ads)) == (1, 2)
        assert isinstance(second, errors.ClientRequestError)
        assert (second.status, second.code) == (422, "invalid_request")
        assert "contry" in str(second)


def test_clients_read_and_write_users_in_the_same_way(
    tiny_base, tiny_bundle, ranker_address, tmp_path
):
    clicked = {"event_id": "e1", "user_id": "a/b", "ad_id": "ad-3", "event": "click"}
    rules = {"frequency_caps": [{"max": 1, "event": "click"}]}
    store = f"sqlite:{tmp_path}/users.db"
    patient = serving_fixtures.PATIENT_USERS
    data = orchestrator.UserData(users.open_store(store, patient), patient)
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, users=data)
    answers = []
    with serving_fixtures.serve_app(service) as url:
        serving_fixtures.wait_until_ready(url)
        with (
            Asynchronous(url, timeout_seconds=60) as other,
            client.Client(url, timeout_seconds=60) as remote,
            local_client.LocalClient(tiny_base, user_store=store) as local,
        ):
            for connected in (other, remote, local):
                connected.set_profile("a/b", {"country": "CH"})
                assert [connected.add_events([clicked]).added for _ in range(2)] == [1, 0]
                answer = connected.recommend(user_id="a/b", rules=rules, k=300)
                answers.append(ids_of(answer))
                stored = connected.get_user("a/b")
                assert stored["profile"] == {"country": "CH"}
                assert [action["event_id"] for action in stored["actions"]] == ["e1"]
                assert connected.delete_user("a/b") is True
                assert connected.delete_user("a/b") is False
                for user in (5, ".", ".."):
                    connected.set_profile(user, {"country": "CH"})
                    assert connected.delete_user(user) is True
                for name, arguments in (
                    ("set_profile", ("u", {"contry": "CH"})),
                    ("set_profile", ("u", {"country": 1.5})),
                    ("set_profile", ("u", None)),
                    ("set_profile", ("u" * 257, {})),
                    ("get_user", ("u" * 257,)),
                    ("delete_user", ("u" * 257,)),
                    ("add_events", ([{**clicked, "event": "clik"}],)),
                ):
                    with pytest.raises(errors.ClientRequestError):
                        getattr(connected, name)(*arguments)
    assert answers[0] == answers[1] == answers[2]
    assert "ad-3" not in answers[0]


def test_a_client_without_a_store_says_what_is_missing(family):
    for connected in family:
        with pytest.raises(errors.TfrecClientError, match="user_store"):
            connected.delete_user("u")


def test_every_client_can_name_a_release(family):
    for connected in family:
        for release in ("stable", "canary"):
            answer = connected.recommend(k=1, release=release)
            assert (answer.bundle_version, answer.release) == (1, "stable")
        answers = connected.recommend_batch([{"k": 1, "release": "canary"}, {"k": 1}])
        assert [answer.release for answer in answers] == ["stable", None]


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


def test_a_token_is_sent_and_a_wrong_one_is_refused(tiny_bundle, ranker_address):
    service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address)
    with serving_fixtures.serve_app(service, token="right") as url:
        for kind in (client.Client, Asynchronous):
            with kind(url, token="right", timeout_seconds=30) as known:
                assert known.recommend().bundle_version == 1
            with kind(url, token="wrong") as unknown:
                with pytest.raises(errors.ClientRequestError, match="Bearer") as caught:
                    unknown.recommend()
                assert caught.value.status == 401


def test_a_local_client_of_a_missing_bundle_is_refused(tmp_path):
    with pytest.raises(errors.BundleNotFoundError, match="has no published bundle"):
        local_client.LocalClient(tmp_path)


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
    assert not connected.health()
    with pytest.raises(errors.TfrecClientError, match="The client is closed"):
        connected.recommend(**FIELDS)
