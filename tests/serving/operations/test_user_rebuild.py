"""A store that is rebuilt from the logs has what the service's store had."""

import asyncio
import dataclasses
import json
import time

import pyarrow.parquet as pq
import pytest
import scripts_in_forks
import serving_fixtures

from serving import errors, impressions, operations, orchestrator, users
from serving.requests import Event, Request

PATIENT = serving_fixtures.PATIENT_USERS


@pytest.fixture
def logged(tiny_bundle, ranker_address, tmp_path):
    """The users of a service with logs, and the files of its logs."""
    directory = tmp_path / "log"
    log, feedback = impressions.ImpressionLog(directory), impressions.FeedbackLog(directory)

    async def main():
        data = orchestrator.UserData(users.open_store(f"sqlite:{tmp_path}/users.db"), PATIENT)
        service = serving_fixtures.make_orchestrator(
            tiny_bundle, ranker_address, users=data, impressions=log
        )
        events = orchestrator.EventIntake(data, feedback)
        for user_id in ("u", "v", None):
            for number in range(2):
                answer = await service.recommend(
                    Request(
                        user_id=user_id,
                        user={"country": f"C{number}", "age": None if number else 7},
                        context={"device": "phone"},
                        request_id=f"{user_id}-{number}",
                        k=3,
                    )
                )
            if user_id is not None:
                ids = {"user_id": user_id, "request_id": answer.request_id}
                ids["ad_id"] = answer.ads[1].ad_id
                await events.add(
                    [
                        Event(event_id="e1", event="click", **ids),
                        Event(event_id="e2", event="revenue", amount=2.5, **ids),
                        # These belong to no answer.
                        Event(event_id="e3", event="click", user_id=user_id, ad_id="ad-9"),
                        Event(event_id="e4", event="impression", user_id=user_id, ad_id="ad-9"),
                    ]
                )
        found = {user_id: await data.get(user_id) for user_id in ("u", "v")}
        await service.close()
        await data.close()
        return found

    found = asyncio.run(main())
    log.close()
    return (
        found,
        sorted(directory.glob(impressions.FILE_PATTERN)),
        sorted(directory.glob(impressions.FEEDBACK_PATTERN)),
    )


def rebuilt(path, log_files, event_files, fields=("country", "age"), clock_error=0.0):
    async def main():
        store = users.open_store(f"sqlite:{path}")
        try:
            now = orchestrator.UserData(store).now() + clock_error
            done = await operations.rebuild_users(store, log_files, event_files, fields, now)
            return done, dict(zip(("u", "v"), await store.read(["u", "v"], now, True), strict=True))
        finally:
            await store.close()

    return asyncio.run(main())


def test_a_rebuilt_store_has_what_the_service_had(logged, tmp_path):
    found, log_files, event_files = logged
    done, again = rebuilt(tmp_path / "again.db", log_files, event_files)
    for user_id, before in found.items():
        # Including the times.
        assert list(again[user_id].actions) == list(before.actions)
        assert list(again[user_id].impressions) == list(before.impressions)
        # The latest values that are not missing; the device is not a profile field.
        assert again[user_id].profile == {"country": "C1", "age": 7}
    assert (done.impressions, done.events, done.profiles, done.anonymous) == (12, 8, 2, 6)
    assert done.added == 20


@pytest.mark.process
def test_the_command_finds_the_events_next_to_impressions_named_by_a_pattern(logged, tmp_path):
    command = (
        "rebuild_users.py",
        f"--user_store=sqlite:{tmp_path}/again.db",
        f"--impressions={tmp_path}/log/{impressions.FILE_PATTERN}",
    )
    done = scripts_in_forks.run(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["events"] == 8
    shown = scripts_in_forks.run(*command).stdout
    assert shown.startswith("12 impressions and 8 events, 0 of them added to the store; 20 not")
    assert "6 impressions and events name no user; left out" in shown


def test_a_store_in_use_gets_only_what_it_does_not_have(logged, tmp_path):
    found, log_files, event_files = logged
    done, same = rebuilt(tmp_path / "users.db", log_files, event_files, ())
    assert done.added == 0
    assert same == found


def test_lines_that_are_not_events_of_users_are_counted(logged, tmp_path):
    _, log_files, _ = logged
    lines = [
        {"user_id": "u", "ad_id": "a", "event_id": "x", "time": 1.7e9, "click": 1},
        {"user_id": "u", "ad_id": "a", "event_id": "x", "time": 1.7e9, "click": 1, "revenue": 2},
        {"request_id": "r", "ad_id": "a", "event_id": "x", "click": 1},
        {"user_id": "u", "ad_id": "a", "time": 1.7e9, "click": 1},
        # Labels of 0 are not events.
        {"user_id": "u", "ad_id": "a", "event_id": "y", "time": 1.7e9, "click": 0},
        {"user_id": "u", "ad_id": "a", "event_id": "z", "time": 1.7e9, "click": 0, "engagement": 1},
        {"user_id": "u", "ad_id": "a", "event_id": "q", "time": 1.7e9, "click": "yes"},
        ["a", "list"],
        7,
    ]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join([*map(json.dumps, lines), "no JSON"]))
    done, _ = rebuilt(tmp_path / "again.db", log_files, [path])
    assert (done.events, done.rejected, done.anonymous) == (2, 7, 7)


def test_events_that_the_service_would_refuse_are_rejected_with_line_and_reason(logged, tmp_path):
    _, log_files, _ = logged
    now = time.time()
    click = {"user_id": "ms", "ad_id": "a", "click": 1}
    lines = [
        {**click, "event_id": "ahead", "time": now + 200},
        # Milliseconds.
        {**click, "event_id": "ms", "time": int(now * 1000)},
        {**click, "event_id": "untimed"},
    ]
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("\n".join(map(json.dumps, lines)))
    second.write_text("no JSON\nno JSON\n")
    done, _ = rebuilt(tmp_path / "again.db", log_files, [first, second])
    assert (done.events, done.rejected, done.anonymous) == (1, 4, 6)
    shown = operations.describe_rejected(done.rejected, done.examples)
    assert shown[0] == "4 lines are not events and were left out:"
    assert shown[1].startswith(f"{first}, line 2: time: expected at most 300 s after the service's")
    assert shown[2] == f"{first}, line 3: time: expected seconds since 1970, got none"
    assert shown[3].startswith(f"{second}, line 1: expected a JSON object (Expecting value")
    assert shown[4] == "and 1 more"


def test_impressions_ahead_of_the_clock_are_counted_and_left_out(logged, tmp_path):
    _, log_files, event_files = logged
    done, again = rebuilt(tmp_path / "again.db", log_files, event_files, clock_error=-400.0)
    assert (done.ahead, done.rejected, done.anonymous) == (12, 8, 6)
    assert (done.impressions, done.events, done.added, done.profiles) == (0, 0, 0, 0)
    assert not again["u"].impressions


def test_only_reported_impressions_are_rebuilt_if_pages_report_them(
    tiny_bundle, ranker_address, tmp_path
):
    directory = tmp_path / "log"
    log = impressions.ImpressionLog(directory, counts_as_shown=False)
    config = dataclasses.replace(PATIENT, record_impressions=False)

    async def main():
        data = orchestrator.UserData(users.open_store(f"sqlite:{tmp_path}/users.db"), config)
        service = serving_fixtures.make_orchestrator(
            tiny_bundle, ranker_address, users=data, impressions=log
        )
        intake = orchestrator.EventIntake(data, impressions.FeedbackLog(directory))
        answer = await service.recommend(
            Request(user_id="u", user={"country": "CH"}, request_id="r", k=3)
        )
        ids = {"user_id": "u", "ad_id": answer.ads[0].ad_id, "request_id": "r"}
        # The page displayed the first of three ads.
        await intake.add([Event(event_id="view-1", event="impression", **ids)])
        found = await data.get("u")
        await service.close()
        await data.close()
        return found

    before = asyncio.run(main())
    assert [event.event_id for event in before.impressions] == ["view-1"]
    log.close()
    files = (
        sorted(directory.glob(impressions.FILE_PATTERN)),
        sorted(directory.glob(impressions.FEEDBACK_PATTERN)),
    )
    done, again = rebuilt(tmp_path / "again.db", *files, ("country",))
    assert list(again["u"].impressions) == list(before.impressions)
    assert again["u"].profile == {"country": "CH"}
    assert (done.impressions, done.not_shown, done.events) == (0, 3, 1)


def test_a_profile_that_a_store_in_use_has_stays(logged, tmp_path):
    _, log_files, event_files = logged

    async def set_newer():
        store = users.open_store(f"sqlite:{tmp_path}/users.db")
        await store.set_profile("u", {"country": "FR"}, time.time())
        await store.close()

    asyncio.run(set_newer())
    done, found = rebuilt(tmp_path / "users.db", log_files, event_files)
    assert found["u"].profile == {"country": "FR"}
    assert found["v"].profile == {"country": "C1", "age": 7}
    assert done.profiles == 1


def test_an_erased_user_does_not_come_back_from_the_logs(logged, tmp_path):
    _, log_files, event_files = logged

    async def erase():
        store = users.open_store(f"sqlite:{tmp_path}/users.db")
        await store.delete("u", time.time())
        await store.close()

    asyncio.run(erase())
    done, found = rebuilt(tmp_path / "users.db", log_files, event_files)
    assert not found["u"].is_known
    assert found["v"].profile == {"country": "C1", "age": 7}
    assert (done.added, done.profiles) == (0, 1)


def test_a_field_that_only_the_newer_release_has_is_in_the_profile(logged, tmp_path):
    _, (newer,), event_files = logged
    table = impressions.read_file(newer)
    older = tmp_path / "older.parquet"
    pq.write_table(table.drop_columns("age"), older)
    done, again = rebuilt(tmp_path / "again.db", [older, newer], event_files)
    assert again["u"].profile == {"country": "C1", "age": 7}
    # Impressions of both files; each is in both.
    assert (done.impressions, done.added) == (24, 20)


def test_a_field_that_the_log_does_not_have_is_named(logged, tmp_path):
    _, log_files, event_files = logged
    with pytest.raises(errors.ImpressionLogError, match="got a log without city"):
        rebuilt(tmp_path / "again.db", log_files, event_files, ("country", "city"))
