"""What a user store adds to requests: profiles, histories, frequency caps; and its failures."""

import asyncio
import collections
import contextlib
import dataclasses
import threading
import time

import clocks
import numpy as np
import prometheus_client.parser
import pyarrow.parquet as pq
import pytest
import serving_fixtures

from serving import errors, impressions, orchestrator, users
from serving.health import Health
from serving.orchestrator import user_data
from serving.requests import MAX_SECONDS_AHEAD, Deadline, Event, Request

NOW = 1_000_000_000.0
HOUR = 3600.0
# Lateness has its own tests.
PATIENT = serving_fixtures.PATIENT_USERS
PROFILE = {"country": "CH", "age": 33, "history": ["ad-3", "ad-8"]}
SCHEMA = {
    "name": "tiny",
    "fields": [
        {"name": "country", "kind": "categorical", "side": "query"},
        {"name": "device", "kind": "categorical", "side": "query"},
        {"name": "age", "kind": "numeric", "side": "query"},
        {"name": "history", "kind": "history", "side": "query", "of": "ad", "event": "click"},
        {"name": "advertiser", "kind": "categorical", "side": "ad"},
    ],
    "ad_key": ["ad_id"],
    "click": "click",
    "time": "time",
    "user_key": "user",
}


@pytest.fixture
def run(tiny_bundle, ranker_address, tmp_path):
    """Runs `scenario(orchestrator, data)` over a store in a file."""

    def run_scenario(scenario, config=PATIENT, schema=None, store=None, **options):
        release = tiny_bundle
        if schema is not None:
            manifest = dataclasses.replace(release.manifest, schema=schema)
            release = dataclasses.replace(release, manifest=manifest)

        async def main():
            opened = store or users.open_store(f"sqlite:{tmp_path}/users.db", config)
            clock = options.pop("clock", None) or clocks.Clock()
            now = options.pop("now", None) or (lambda: NOW)
            metrics = orchestrator.ServiceMetrics()
            health = Health(metrics.observe_problem)
            data = orchestrator.UserData(opened, config, metrics, health, clock, now)
            service = serving_fixtures.make_orchestrator(
                release, ranker_address, users=data, metrics=metrics, health=health, **options
            )
            try:
                return await scenario(service, data)
            finally:
                await service.close()
                await data.close()

        return asyncio.run(main())

    return run_scenario


def event(number, kind="click", ad_id=None, time=NOW - 60, user_id="u"):
    amount = 1.0 if kind == "revenue" else None
    return Event(
        event_id=f"e{number}",
        user_id=user_id,
        ad_id=ad_id or f"ad-{number}",
        event=kind,
        time=time,
        amount=amount,
    )


def ids_of(answer):
    return [ad.ad_id for ad in answer.ads]


def assert_same_scores(one, other):
    assert ids_of(one) == ids_of(other)
    scores = [[ad.utility for ad in answer.ads] for answer in (one, other)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def reads_of(data):
    """Returns the numbers of users read, by outcome, above 0."""
    page = data._metrics.render().decode()
    return {
        sample.labels["outcome"]: sample.value
        for family in prometheus_client.parser.text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "tfrec_user_reads_total" and sample.value
    }


def test_the_id_of_a_user_is_enough(run):
    async def scenario(service, data):
        await data.set_profile("u", PROFILE)
        asked = [
            await service.recommend(Request(user_id="u", context={"device": "phone"})),
            await service.recommend(Request(user=PROFILE, context={"device": "phone"})),
        ]
        return *asked, reads_of(data)

    stored, carried, reads = run(scenario)
    assert_same_scores(stored, carried)
    assert (stored.user_data, stored.degraded) == ("found", None)
    assert "users" in stored.stage_ms
    # Without an id, no user can be read.
    assert "user_data" not in carried.to_json()
    assert "users" not in carried.stage_ms
    assert reads == {"found": 1}


def test_fields_of_a_request_take_precedence_over_the_store(run):
    own = {"country": "FR", "history": None}

    async def scenario(service, data):
        await data.set_profile("u", PROFILE)
        return (
            await service.recommend(Request(user_id="u", user=own)),
            await service.recommend(Request(user={**PROFILE, "country": "FR"})),
        )

    # Null is the same as absent, as everywhere.
    assert_same_scores(*run(scenario))


def test_the_users_of_a_batch_are_completed_too(run):
    asked = [Request(user_id="u"), Request(user_id="v"), Request(), Request(user_id="nobody")]

    async def scenario(service, data):
        await data.set_profile("u", PROFILE)
        await data.set_profile("v", {"country": "FR"})
        single = [await service.recommend(request) for request in asked]
        return single, await serving_fixtures.together(service, asked)

    single, batch = run(scenario)
    for one, other in zip(single, batch, strict=True):
        assert_same_scores(one, other)
    assert [answer.user_data for answer in batch] == ["found", "found", None, "unknown"]


def test_stored_values_that_do_not_fit_the_release_are_missing(run):
    async def scenario(service, data):
        await data.set_profile("u", {"country": 3.5, "age": "old", "gone": 1, "history": ["ad-3"]})
        return (
            await service.recommend(Request(user_id="u")),
            await service.recommend(Request(user={"history": ["ad-3"]})),
        )

    stored, carried = run(scenario)
    assert_same_scores(stored, carried)
    assert stored.user_data == "found"


def test_a_profile_with_a_history_is_refused_because_it_is_computed_from_events(run):
    async def scenario(service, data):
        service.check_profile("u", {"country": "CH"})
        with pytest.raises(errors.InvalidRequestError, match=r"profile\.history: .* /v1/events"):
            service.check_profile("u", {"history": ["ad-3"]})

    run(scenario, schema=SCHEMA)


def test_histories_contain_the_events_before_the_request(run):
    events = [
        event(8, time=NOW - 10),
        event(3, time=NOW - 20),
        event(5, kind="engagement"),
        event(6, time=NOW),
        event(7, time=NOW + 100),
        event(9, user_id="v"),
    ]

    async def scenario(service, data):
        await data.append(events)
        return [
            await service.recommend(Request(user_id="u")),
            await service.recommend(Request(user={"history": ["ad-3", "ad-8"]})),
            await service.recommend(Request(user_id="u", user={"history": ["ad-1"]})),
            await service.recommend(Request(user={"history": ["ad-1"]})),
        ]

    # The latest click is the last; the request's own history replaces all of it.
    stored, carried, own, same = run(scenario, schema=SCHEMA)
    assert_same_scores(stored, carried)
    assert_same_scores(own, same)
    assert ids_of(stored) != ids_of(own)


def test_a_history_lists_the_values_of_a_field(run):
    fields = [dict(field) for field in SCHEMA["fields"]]
    fields[3] |= {"of": "advertiser"}

    async def scenario(service, data):
        await data.append([event(1, ad_id="ad-10"), event(2, ad_id="gone", time=NOW - 5)])
        return (
            await service.recommend(Request(user_id="u")),
            await service.recommend(Request(user={"history": ["advertiser-1"]})),
        )

    # Ad 10 is of advertiser 10 % 9; what is not in the catalog has no advertiser.
    assert_same_scores(*run(scenario, schema={**SCHEMA, "fields": fields}))


def test_the_id_is_the_value_of_the_field_that_is_the_user_key(run):
    fields = [dict(field) for field in SCHEMA["fields"]]
    fields[1] |= {"column": "user"}

    async def scenario(service, data):
        await data.set_profile("phone", {"country": "CH"})
        return [
            await service.recommend(Request(user_id="phone")),
            await service.recommend(Request(user={"country": "CH", "device": "phone"})),
            await service.recommend(Request(user_id="phone", context={"device": "tv"})),
            await service.recommend(Request(user={"country": "CH", "device": "tv"})),
        ]

    by_id, carried, other, carried_other = run(scenario, schema={**SCHEMA, "fields": fields})
    assert_same_scores(by_id, carried)
    assert_same_scores(other, carried_other)
    # A request without an id is as without a store.
    assert (by_id.user_data, carried.user_data) == ("found", None)


def test_ads_that_were_shown_often_enough_are_left_out(run):
    asked = Request(user_id="u", k=3, rules={"frequency_caps": [{"max": 2}]}, explain=True)

    async def scenario(service, data):
        answers = []
        for _ in range(3):
            answers.append(await service.recommend(asked))
            await data.flush()
        other = await service.recommend(Request(user_id="v", k=3, rules=asked.rules))
        return answers, other

    (first, second, third), other = run(scenario)
    assert ids_of(first) == ids_of(second) == ids_of(other)
    assert not set(ids_of(third)) & set(ids_of(first))
    assert [(cap.field, cap.count) for cap in third.explanation.at_frequency_cap] == [(None, 3)]


def test_only_the_last_hours_count(run):
    now = [NOW]
    cap = {"max": 1, "hours": 24}

    async def scenario(service, data):
        answers = []
        for hours in (0, 1, 24.5, 26):
            now[0] = NOW + hours * HOUR
            answers.append(
                await service.recommend(Request(user_id="u", k=2, rules={"frequency_caps": [cap]}))
            )
            await data.flush()
        return answers

    first, second, third, fourth = run(scenario, now=lambda: now[0])
    assert not set(ids_of(second)) & set(ids_of(first))
    # The first are a day old, and the second are not.
    assert ids_of(third) == ids_of(first)
    # All but the second were shown within a day, and these are the best of the others.
    assert ids_of(fourth) == ids_of(second)


@pytest.mark.parametrize("kind", ["click", "engagement", "revenue"])
def test_ads_that_the_user_has_clicked_or_bought_are_left_out(run, kind):
    rules = {"frequency_caps": [{"max": 1, "event": kind}]}

    async def scenario(service, data):
        plain = await service.recommend(Request(user_id="u", k=3))
        await data.append([event(1, kind, plain.ads[0].ad_id), event(2, "impression")])
        return plain, await service.recommend(Request(user_id="u", k=3, rules=rules))

    plain, capped = run(scenario)
    assert ids_of(capped)[:2] == ids_of(plain)[1:]


def test_events_count_by_the_value_of_a_field(run):
    rules = {"frequency_caps": [{"max": 2, "field": "advertiser", "event": "click"}]}

    async def scenario(service, data):
        # Advertisers 1, 1 and 2, by the row modulo 9.
        await data.append([event(n, ad_id=f"ad-{row}") for n, row in enumerate((1, 10, 2))])
        return await service.recommend(Request(user_id="u", k=300, rules=rules))

    advertisers = {ad.fields["advertiser"] for ad in run(scenario).ads}
    assert advertisers == {f"advertiser-{n}" for n in range(9) if n != 1}


def test_impressions_of_the_answer_count_by_the_value_of_a_field(run):
    rules = {"frequency_caps": [{"max": 3, "field": "advertiser", "hours": 24}]}
    asked = Request(user_id="u", k=18, rules=rules, explain=True)

    async def scenario(service, data):
        first = await service.recommend(asked)
        await data.flush()
        return first, await service.recommend(asked)

    first, second = run(scenario)
    counts = [collections.Counter(ad.fields["advertiser"] for ad in a.ads) for a in (first, second)]
    assert max(counts[0].values()) == 3
    # 18 of the 27 impressions that nine advertisers may have; the others are left.
    assert (len(first.ads), len(second.ads)) == (18, 9)
    assert set((counts[0] + counts[1]).values()) == {3}
    assert [(left.rule, left.field) for left in first.explanation.left_out] == [
        ("frequency_cap", "advertiser")
    ]
    assert "at most 3 impressions with the same advertiser (reached for" in second.shortage


def test_counts_of_the_request_replace_those_of_the_store(run):
    rules = {"frequency_caps": [{"max": 1}, {"max": 1, "event": "click"}]}

    async def scenario(service, data):
        plain = await service.recommend(Request(k=4))
        shown, seen, clicked, _ = ids_of(plain)
        await data.append([event(1, "impression", shown), event(2, "click", clicked)])
        request = Request(user_id="u", k=2, rules=rules, seen={"ads": {seen: 1}})
        return plain, await service.recommend(request)

    plain, capped = run(scenario)
    assert ids_of(capped) == [plain.ads[0].ad_id, plain.ads[3].ad_id]


def test_a_dry_run_and_a_service_that_does_not_record_show_nothing(run):
    async def scenario(service, data):
        await service.recommend(Request(user_id="u", dry_run=True))
        return await data.get("u")

    assert not run(scenario).is_known

    async def shown(service, data):
        await service.recommend(Request(user_id="v"))
        return await data.get("v")

    assert len(run(shown).impressions) == 10
    off = dataclasses.replace(PATIENT, record_impressions=False)
    assert len(run(shown, off).impressions) == 10


def test_the_impression_log_has_the_values_that_were_used(run, tmp_path):
    log = impressions.ImpressionLog(tmp_path / "log")

    async def scenario(service, data):
        await data.set_profile("u", {"country": "CH", "age": 33})
        await data.append([event(3, time=NOW - 20), event(8, time=NOW - 10)])
        await service.recommend(Request(user_id="u", k=1))

    run(scenario, schema=SCHEMA, impressions=log)
    log.close()
    (file,) = log.directory.glob(impressions.FILE_PATTERN)
    (row,) = pq.read_table(file, partitioning=None).to_pylist()
    assert (row["country"], row["age"], row["history"]) == ("CH", 33, ["ad-3", "ad-8"])
    assert row["_user_id"] == "u"


class _Gate:
    """A store behind a gate, which holds reads or lets a use fail."""

    def __init__(self, store):
        self._store = store
        self.open = asyncio.Event()
        self.open.set()
        self.problem = None
        self.write_problem = None
        self.expiry_problem = None
        self.reads = 0
        self.expiries = 0
        self._used = asyncio.Condition()

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def until(self, condition):
        """Waits for a condition, which is looked at as each read and expiry begins."""
        async with asyncio.timeout(30), self._used:
            await self._used.wait_for(condition)

    async def _notify(self):
        async with self._used:
            self._used.notify_all()

    async def read(self, *arguments):
        self.reads += 1
        await self._notify()
        await self.open.wait()
        if self.problem is not None:
            raise self.problem
        return await self._store.read(*arguments)

    async def append(self, *arguments):
        if self.write_problem is not None:
            raise self.write_problem
        return await self._store.append(*arguments)

    async def expire(self, *arguments):
        self.expiries += 1
        await self._notify()
        if self.expiry_problem is not None:
            raise self.expiry_problem
        return await self._store.expire(*arguments)


def test_a_store_that_is_late_or_fails_is_not_used_for_a_while(run, tmp_path):
    clock = clocks.Clock()
    hasty = dataclasses.replace(PATIENT, read_timeout_ms=1.0)
    gate = _Gate(users.open_store(f"sqlite:{tmp_path}/gated.db", PATIENT))
    states = []

    async def scenario(service, data):
        await data.set_profile("u", PROFILE)

        async def ask():
            answer = await service.recommend(Request(user_id="u", context={"device": "phone"}))
            states.append(answer.user_data)
            return answer

        gate.open.clear()
        plain = await service.recommend(Request(context={"device": "phone"}))
        assert_same_scores(await ask(), plain)
        gate.open.set()
        gate.problem = errors.UserStoreError("gone")
        for _ in range(3):
            assert_same_scores(await ask(), plain)
        # Four failures: it is not asked any more.
        await ask()
        assert gate.reads == 4
        gate.problem = None
        clock.advance(11)
        # With time, for a slow machine.
        data.config = PATIENT
        complete = await ask()
        carried = Request(user=PROFILE, context={"device": "phone"})
        assert_same_scores(complete, await service.recommend(carried))
        return reads_of(data)

    reads = run(scenario, hasty, store=gate, clock=clock)
    assert states == ["late", *["failed"] * 4, "found"]
    assert reads == {"late": 1, "failed": 4, "found": 1}


def test_a_failure_of_the_store_is_noticed_without_requests_until_it_works(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(user_data, "_PROBE_SECONDS", 0.01)
    gate = _Gate(users.open_store(f"sqlite:{tmp_path}/gated.db", PATIENT))

    async def scenario(service, data):
        def problem():
            return service.health.problem("user store")

        seen = []
        for operation in ("expiry_problem", "problem"):
            setattr(gate, operation, errors.UserStoreError(f"{operation} is injected"))
            data.start_upkeep()
            await gate.until(problem)
            seen.append(problem())
            setattr(gate, operation, None)
            await gate.until(lambda: problem() is None)
        return seen

    assert run(scenario, store=gate) == [
        "expiry_problem is injected",
        "problem is injected",
    ]


def test_a_write_that_fails_is_a_problem_until_one_succeeds_whatever_reads_do(run, tmp_path):
    gate = _Gate(users.open_store(f"sqlite:{tmp_path}/gated.db", PATIENT))
    problems = []

    async def scenario(service, data):
        gate.write_problem = errors.UserStoreError("locked")
        with pytest.raises(errors.UserStoreError, match="locked"):
            await data.append([event(1)])
        await data.read("u", False, NOW, 30_000)
        problems.append(service.health.problem("user store"))
        assert 'tfrec_problem{part="user store"} 1.0' in service.metrics.render().decode()
        gate.write_problem = None
        await data.append([event(1)])
        problems.append(service.health.problem("user store"))

    run(scenario, store=gate)
    assert problems == ["locked", None]


def test_a_read_cut_short_by_its_request_is_not_a_failure_of_the_store(run, tmp_path):
    gate = _Gate(users.open_store(f"sqlite:{tmp_path}/gated.db", PATIENT))

    async def scenario(service, data):
        async def filled(milliseconds):
            deadline = Deadline(milliseconds, time.perf_counter())
            valid = await service._user_stage.fill(service.check(Request(user_id="u")), deadline)
            return valid.user_data

        gate.open.clear()
        async with asyncio.timeout(20):
            late = [await filled(1.0) for _ in range(5)]
        gate.open.set()
        return late, await filled(30_000)

    assert run(scenario, store=gate) == (["late"] * 5, "unknown")


def test_a_lookup_of_values_that_takes_until_the_deadline_is_late(run):
    fields = [dict(field) for field in SCHEMA["fields"]]
    fields[3] |= {"of": "advertiser"}
    going_on = threading.Event()

    class _Catalog:
        def view(self):
            return self

        def values(self, ad_ids, fields):
            going_on.wait(30)
            return {field: {} for field in fields}

    async def scenario(service, data):
        await data.append([event(1)])
        service._user_stage._catalog = _Catalog()
        deadline = Deadline(200.0, time.perf_counter())
        try:
            filled = await service._user_stage.fill(service.check(Request(user_id="u")), deadline)
        finally:
            going_on.set()
        return filled

    filled = run(scenario, schema={**SCHEMA, "fields": fields})
    assert filled.user_data == "late"


class _Slow(_Gate):
    """A store whose writes wait for the gate."""

    async def read(self, *arguments):
        return await self._store.read(*arguments)

    async def append(self, *arguments):
        await self.open.wait()
        return await self._store.append(*arguments)


def test_flush_and_close_end_while_answers_go_on(run, tmp_path):
    class _Busy(_Gate):
        answer = None

        async def append(self, *arguments):
            # Another answer during each write.
            if self.answer is not None:
                self.data.record("u", self.answer, NOW)
            return await self._store.append(*arguments)

    busy = _Busy(users.open_store(f"sqlite:{tmp_path}/busy.db", PATIENT))

    async def scenario(service, data):
        answer = await service.recommend(Request(user_id="u", k=1))
        await data.flush()
        busy.data, busy.answer = data, answer.model_copy(update={"request_id": "another"})
        data.record("u", busy.answer, NOW)
        async with asyncio.timeout(30):
            await data.flush()
            return await data.get("u")

    assert len(run(scenario, store=busy).impressions) == 2


def test_a_write_that_takes_too_long_fails_and_so_do_too_many(run, tmp_path):
    slow = _Slow(users.open_store(f"sqlite:{tmp_path}/slow.db", PATIENT))

    async def scenario(service, data):
        slow.open.clear()
        data.config = dataclasses.replace(PATIENT, write_timeout_seconds=0.01)
        with pytest.raises(errors.UserStoreError, match=r"within 0\.01 s. Send it again later"):
            await data.append([event(1)])
        data.config = PATIENT
        intake = orchestrator.EventIntake(data)
        waiting = [asyncio.create_task(intake.add([event(n)])) for n in range(100)]
        await asyncio.sleep(0)
        with pytest.raises(errors.UserStoreError, match="100 batches of events wait"):
            await intake.add([event(100)])
        slow.open.set()
        added = sum(one.added for one in await asyncio.gather(*waiting))
        return added, (await intake.add([event(100)])).added

    assert run(scenario, store=slow) == (100, 1)


def test_reading_and_erasing_a_user_of_a_store_that_hangs_fail_in_time(run, tmp_path):
    slow = _Slow(users.open_store(f"sqlite:{tmp_path}/slow.db", PATIENT))

    async def scenario(service, data):
        slow.open.clear()
        await service.recommend(Request(user_id="u", k=2))
        data.config = dataclasses.replace(PATIENT, write_timeout_seconds=0.01)
        async with asyncio.timeout(30):
            for use in (data.get("u"), data.delete("u")):
                with pytest.raises(errors.UserStoreError, match=r"a request within 0\.01 s"):
                    await use
        data.config = PATIENT
        slow.open.set()
        # The impressions were still being written.
        return len((await data.get("u")).impressions), await data.delete("u")

    assert run(scenario, store=slow) == (2, True)


def test_a_store_that_hangs_does_not_hold_up_the_shutdown(run, tmp_path, monkeypatch):
    monkeypatch.setattr(user_data, "_CLOSE_SECONDS", 0.01)
    monkeypatch.setattr(user_data, "_ANSWERS_PER_WRITE", 1)
    slow = _Slow(users.open_store(f"sqlite:{tmp_path}/slow.db", PATIENT))

    async def scenario(service, data):
        answer = await service.recommend(Request(k=4))
        slow.open.clear()
        for _ in range(3):
            data.record("u", answer, NOW)
        return data

    page = run(scenario, store=slow)._metrics.render().decode()
    assert 'tfrec_user_events_total{outcome="dropped"} 12.0' in page


def test_a_request_in_flight_does_not_bring_back_an_erased_user(run):
    async def scenario(service, data):
        answer = await service.recommend(Request(user_id="u"))
        await data.delete("u")
        # Another process answers, whose request began before.
        other = answer.model_copy(update={"request_id": "other"})
        data.record("u", other, NOW - 0.05)
        gone = await data.get("u")
        later = NOW + MAX_SECONDS_AHEAD + 1
        data.now = lambda: later
        data.record("u", other, later)
        return gone, await data.get("u")

    gone, back = run(scenario)
    assert not gone.is_known
    assert len(back.impressions) == 10


def test_impressions_are_written_without_waiting_for_more(run):
    async def scenario(service, data):
        await service.recommend(Request(user_id="u", k=4))
        await data.flush()
        return await data._store.read("u", NOW + 1, True)

    user = run(scenario)
    assert len(user.impressions) == 4


def test_impressions_of_more_answers_than_can_wait_are_dropped_and_counted(run):
    async def scenario(service, data):
        answer = await service.recommend(Request(k=4))
        for _ in range(5):
            data.record("u", answer, NOW)
        return data._metrics.render().decode()

    config = dataclasses.replace(PATIENT, max_queued=2)
    assert 'tfrec_user_events_total{outcome="dropped"} 12.0' in run(scenario, config)


def test_impressions_of_a_store_that_fails_are_dropped_and_counted(run, tmp_path):
    class _Full:
        def __init__(self, store):
            self._store = store

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def append(self, events, now):
            raise errors.UserStoreError("full")

    async def scenario(service, data):
        answer = await service.recommend(Request(user_id="u", k=4))
        await data.flush()
        page = data._metrics.render().decode()
        return answer, page

    full = _Full(users.open_store(f"sqlite:{tmp_path}/full.db", PATIENT))
    answer, page = run(scenario, store=full)
    assert len(answer.ads) == 4
    assert 'tfrec_user_events_total{outcome="dropped"} 4.0' in page


def test_two_services_on_one_store_agree(run, tiny_bundle, ranker_address, tmp_path):
    async def scenario(service, data):
        async with contextlib.AsyncExitStack() as stack:
            store = users.open_store(f"sqlite:{tmp_path}/users.db", PATIENT)
            other_data = orchestrator.UserData(store, PATIENT, now=lambda: NOW)
            stack.push_async_callback(other_data.close)
            other = serving_fixtures.make_orchestrator(
                tiny_bundle, ranker_address, users=other_data
            )
            stack.push_async_callback(other.close)
            await data.set_profile("u", PROFILE)
            asked = Request(user_id="u", k=2, rules={"frequency_caps": [{"max": 2}]})
            answers = []
            for own, its_data in ((service, data), (other, other_data), (service, data)):
                answers.append(await own.recommend(asked))
                await its_data.flush()
            return answers

    first, second, third = run(scenario)
    assert_same_scores(first, second)
    # Each service showed them once.
    assert not set(ids_of(third)) & set(ids_of(first))
