"""Events, profiles and erasure over REST, with a store in a file behind it."""

import json
import time

import httpx
import prometheus_client.parser
import pyarrow.parquet as pq
import pytest
import serving_fixtures

from serving import errors, impressions, orchestrator, users
from serving.health import Health

CONFIG = serving_fixtures.PATIENT_USERS


@pytest.fixture
def serve(tiny_bundle, ranker_address, tmp_path):
    """Serves a release with a store and its logs; `serve(token=…)` yields an HTTP client."""
    return lambda **options: _serving(tiny_bundle, ranker_address, tmp_path, **options)


@pytest.fixture(scope="module")
def http(tiny_bundle, ranker_address, tmp_path_factory):
    """A client of one service that tests share; each test has its own users."""
    with _serving(tiny_bundle, ranker_address, tmp_path_factory.mktemp("shared")) as client:
        yield client


class _serving:
    def __init__(self, release, address, directory, store=None, **options):
        opened = store or users.open_store(f"sqlite:{directory}/users.db", CONFIG)
        metrics = orchestrator.ServiceMetrics()
        health = Health(metrics.observe_problem)
        data = orchestrator.UserData(opened, CONFIG, metrics, health)
        self._log = impressions.ImpressionLog(directory / "log")
        service = serving_fixtures.make_orchestrator(
            release, address, users=data, metrics=metrics, impressions=self._log, health=health
        )
        feedback = impressions.FeedbackLog(directory / "log", health=health)
        self._app = serving_fixtures.serve_app(service, feedback=feedback, **options)

    def __enter__(self):
        url = self._app.__enter__()
        serving_fixtures.wait_until_ready(url)
        self._http = httpx.Client(base_url=url, timeout=60)
        return self._http

    def __exit__(self, *raised):
        self._http.close()
        self._app.__exit__(*raised)
        self._log.close()


def event(number, **changes):
    return {"event_id": number, "user_id": "u", "ad_id": "ad-1", "event": "click", **changes}


def error_of(reply):
    return reply.status_code, reply.json()["error"]["code"], reply.json()["error"]["message"]


def ids_of(reply):
    assert reply.status_code == 200, reply.text
    return [ad["ad_id"] for ad in reply.json()["ads"]]


def test_an_event_affects_the_next_answer_to_its_user(serve):
    body = {"user_id": "u", "k": 2, "rules": {"frequency_caps": [{"max": 1, "event": "click"}]}}
    with serve() as http:
        first = ids_of(http.post("/v1/recommend", json=body))
        clicked = event("e1", ad_id=first[0])
        reply = http.post("/v1/events", json={"events": [clicked]})
        assert reply.json() == {"received": 1, "added": 1}
        # The same event counts once.
        again = http.post("/v1/events", json={"events": [clicked, clicked]})
        assert again.json() == {"received": 2, "added": 0}
        second = http.post("/v1/recommend", json=body)
        assert ids_of(second)[0] == first[1]
        assert second.json()["user_data"] == "found"
        known = http.get("/v1/users/u").json()
        assert [action["ad_id"] for action in known["actions"]] == [first[0]]
        # The ads of both answers; one ad was in both.
        assert len(known["impressions"]) == 4


def test_events_are_logged_as_feedback_to_the_answers_that_they_name(serve, tmp_path):
    with serve() as http:
        answer = {"user_id": "u", "k": 3, "request_id": "r1"}
        shown = ids_of(http.post("/v1/recommend", json=answer))
        events = [
            event("e1", ad_id=shown[1], request_id="r1"),
            event("e2", ad_id=shown[1], request_id="r1", event="revenue", amount=2.5),
            event("e3", ad_id=shown[1], request_id="r1", event="revenue", amount=-1),
            # Left out: an event without an answer, and an impression.
            event("e4", ad_id=shown[0]),
            event("e5", ad_id=shown[0], request_id="r1", event="impression"),
        ]
        for _ in range(2):
            assert http.post("/v1/events", json={"events": events}).status_code == 200
    log = tmp_path / "log"
    joined = impressions.join_feedback(
        sorted(log.glob(impressions.FILE_PATTERN)),
        sorted(log.glob(impressions.FEEDBACK_PATTERN)),
        tmp_path / "joined.parquet",
    )
    assert (joined.events, joined.duplicate_events, joined.rejected_events) == (3, 3, 0)
    assert joined.other_events == 4
    rows = pq.read_table(tmp_path / "joined.parquet").to_pylist()
    labels = {row["_ad_id"]: (row["_click"], row["_revenue"], row["_user_id"]) for row in rows}
    assert labels == {shown[0]: (0, 0, "u"), shown[1]: (1, 1.5, "u"), shown[2]: (0, 0, "u")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event": "clik"}, "events[0].event: Input should be 'impression', 'click'"),
        ({"event": "revenue"}, "events[0]: Expected an amount for the event revenue, and"),
        ({"amount": 1}, "events[0]: Expected an amount for the event revenue, and"),
        ({"event_id": ""}, "events[0].event_id: Expected 1 to 256 characters"),
        ({"user_id": "u" * 257}, "events[0].user_id: Expected 1 to 256 characters"),
        ({"user_id": None}, "events[0].user_id: Input should be a valid string, got None"),
        ({"adid": "ad-1"}, "events[0].adid: unknown key."),
        ({"time": -1}, "events[0].time: Input should be greater than or equal to 0, got -1"),
        ({"time": "today"}, "events[0].time: Expected a number of seconds since 1970, got 'today'"),
        # Milliseconds.
        ({"time": 1_800_000_000_000}, "events[0].time: expected at most 300 s after the"),
    ],
)
def test_an_invalid_event_refuses_the_whole_batch(http, changes, message):
    events = [event("e1", **{"user_id": "refused", **changes}), event("e2", user_id="refused")]
    reply = http.post("/v1/events", json={"events": events})
    assert error_of(reply)[:2] == (422, "invalid_request")
    assert error_of(reply)[2].startswith(message)
    assert http.get("/v1/users/refused").json()["actions"] == []


def test_events_of_a_clock_that_is_slightly_ahead_are_accepted(http):
    ahead = event("e1", user_id="ahead", time=time.time() + 100)
    assert http.post("/v1/events", json={"events": [ahead]}).json()["added"] == 1
    # It has not happened yet.
    assert http.get("/v1/users/ahead").json()["actions"] == []


def test_readiness_reports_a_feedback_log_until_it_can_be_written_again(serve, tmp_path, caplog):
    def problem():
        return http.get("/readyz").json()["problems"].get("event log")

    with serve() as http:
        (tmp_path / "log").rmdir()
        for number in ("e1", "e2"):
            refused = http.post("/v1/events", json={"events": [event(number)]})
            assert refused.status_code == 503
            assert error_of(refused)[2] in problem()
        assert caplog.text.count("event log: ") == 1
        (tmp_path / "log").mkdir()
        assert http.post("/v1/events", json={"events": [event("e1")]}).json()["added"] == 1
        assert problem() is None


def test_events_of_ads_outside_the_catalog_are_accepted(http):
    gone = {"events": [event("e1", user_id="curious", ad_id="gone")]}
    assert http.post("/v1/events", json=gone).json() == {"received": 1, "added": 1}


@pytest.mark.parametrize("user_id", ["u", "a/b", "50 %", "ü{}*"])
def test_a_profile_is_set_and_a_user_is_erased(http, user_id):
    path = "/v1/users/" + "".join(f"%{byte:02X}" for byte in user_id.encode())
    profile = {"country": "CH", "age": 33}
    assert http.put(path, json={"profile": profile}).json() == {"profile": profile}
    body = {"user_id": user_id, "request_id": "r"}
    asked = http.post("/v1/recommend", json=body)
    assert asked.json()["user_data"] == "found"
    assert http.get(path).json()["profile"] == profile
    # The impressions of the answer are written first, and do not restore the user.
    assert http.delete(path).json() == {"deleted": True}
    assert http.delete(path).json() == {"deleted": False}
    assert http.get(path).json() == {"profile": {}, "actions": [], "impressions": []}
    assert http.post("/v1/recommend", json=body).json()["user_data"] == "unknown"


def test_a_profile_that_the_release_cannot_use_is_refused(http):
    for body, message in [
        ({"profile": {"contry": "CH"}}, "profile: unknown field 'contry' (str). Did you mean"),
        ({"profile": {"age": "old"}}, "profile.age: expected a finite number or null"),
        ({"profle": {}}, "profle: unknown key."),
        ({"profile": []}, "profile: Input should be a valid dictionary, got [] (list)"),
    ]:
        reply = http.put("/v1/users/unset", json=body)
        assert error_of(reply)[0] == 422
        assert error_of(reply)[2].startswith(message)
    assert http.get("/v1/users/unset").json()["profile"] == {}


@pytest.mark.parametrize("user_id", ["u" * 257, "u%00"])
def test_an_invalid_user_id_is_refused(http, user_id):
    path = f"/v1/users/{user_id}"
    for reply in (
        http.get(path),
        http.put(path, json={"profile": {"country": "CH"}}),
        http.delete(path),
    ):
        assert error_of(reply)[:2] == (422, "invalid_request")
        assert error_of(reply)[2].startswith("user_id: Expected 1 to 256 characters")


def test_user_routes_require_the_token(serve):
    with serve(token="secret") as http:
        calls = [
            ("POST", "/v1/events"),
            ("GET", "/v1/users/u"),
            ("PUT", "/v1/users/u"),
            ("DELETE", "/v1/users/u"),
        ]
        for method, path in calls:
            assert http.request(method, path, json={"events": []}).status_code == 401
        http.headers["authorization"] = "Bearer secret"
        assert http.post("/v1/events", json={"events": []}).json() == {"received": 0, "added": 0}


def test_a_service_without_a_store_has_no_user_routes(service_url):
    with httpx.Client(base_url=service_url, timeout=60) as http:
        why = "this service has no user store; start it with --user_store"
        for method, path in (
            ("POST", "/v1/events"),
            ("PUT", "/v1/users/a/b"),
            ("DELETE", "/v1/users/u"),
        ):
            reply = http.request(method, path, json={"events": []})
            assert error_of(reply) == (404, "not_found", f"{method} {path}: {why}")
        assert "/v1/events" not in http.get("/openapi.json").json()["paths"]
        # The id of a user needs no store.
        answer = http.post("/v1/recommend", json={"user_id": "u"}).json()
        assert "user_data" not in answer


def test_the_openapi_document_describes_the_user_routes(serve):
    with serve() as http:
        document = http.get("/openapi.json").json()
    assert {"/v1/events", "/v1/users/{user_id}"} <= set(document["paths"])
    assert set(document["paths"]["/v1/users/{user_id}"]) == {"get", "put", "delete"}
    described = document["components"]["schemas"]["Event"]["properties"]["request_id"]
    assert "learn from" in described["description"]
    # Errors have the service's own body, and a user id can be any text, so its type is never wrong.
    assert "ValidationError" not in json.dumps(document)
    # Generated clients name their methods by these.
    operations = {
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    assert operations == {
        *("recommend", "recommend_batch", "bundle", "healthz", "readyz", "metrics"),
        *("add_events", "get_user", "set_profile", "delete_user"),
    }


class _Down:
    """A store whose server is gone."""

    def __getattr__(self, name):
        async def fail(*arguments):
            raise errors.UserStoreError("The user store h:1 failed. Is the server running?")

        return fail


def test_the_impression_log_is_complete_before_the_user_store_is_closed(
    serve, tmp_path, monkeypatch
):
    found = []

    async def close(data):
        found.extend((tmp_path / "log").glob(impressions.FILE_PATTERN))

    monkeypatch.setattr(orchestrator.UserData, "close", close)
    with serve() as http:
        ids_of(http.post("/v1/recommend", json={"user_id": "u", "k": 2}))
    assert len(found) == 1


def test_a_store_that_is_down_refuses_writes_but_not_recommendations(serve, tmp_path):
    with serve(store=_Down()) as http:
        named = event("e1", request_id="r1")
        reply = http.post("/v1/events", json={"events": [named]})
        assert error_of(reply)[:2] == (503, "user_store")
        assert "Is the server running?" in error_of(reply)[2]
        assert http.delete("/v1/users/u").status_code == 503
        answer = http.post("/v1/recommend", json={"user_id": "u"}).json()
        assert (len(answer["ads"]), answer["user_data"]) == (10, "failed")
        problem = http.get("/v1/bundle").json()["problems"]["user store"]
        assert problem == http.get("/readyz").json()["problems"]["user store"]
        assert problem == "The user store h:1 failed. Is the server running?"
        page = http.get("/metrics").text
    counts = {
        sample.labels["outcome"]: sample.value
        for family in prometheus_client.parser.text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "tfrec_user_reads_total" and sample.value
    }
    assert counts == {"failed": 1}
    # The log is written first: the join recognizes events that are sent again.
    (file,) = (tmp_path / "log").glob(impressions.FEEDBACK_PATTERN)
    assert '"event_id": "e1"' in file.read_text()
