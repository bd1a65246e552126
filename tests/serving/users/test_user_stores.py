"""The contract of the user store, on every backend."""

import asyncio
import contextlib
import functools
import os
import random
import sqlite3
import threading

import pytest
import requirements
import valkey as valkey_support
import waiting

from serving import errors, users
from serving.config import UserStoreConfig
from serving.users import StoredEvent, sqlite_store

NOW = 1_000_000_000.0
DAY = 86_400.0
CONFIG = UserStoreConfig(max_actions=5, max_impressions=3, ttl_days=10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = valkey_support.Valkey(tmp_path_factory.mktemp("valkey"))
    yield running
    running.kill()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("valkey", marks=[pytest.mark.engines, requirements.NEEDS_VALKEY]),
    ]
)
def address(request, tmp_path):
    """Address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/users.db"
    running = request.getfixturevalue("server")
    running.client().flushall()
    return running.url


def run(address, scenario, config=CONFIG):
    """Runs `scenario(store)` in a new event loop."""

    async def main():
        store = users.open_store(address, config)
        async with contextlib.aclosing(_Closing(store)):
            return await scenario(store)

    return asyncio.run(main())


class _Closing:
    def __init__(self, store):
        self.aclose = store.close


def click(number, time=NOW, kind="click", amount=None):
    return StoredEvent(f"e{number}", kind, f"ad-{number}", time, amount)


async def read(store, user_id="u", now=NOW, impressions=True):
    (found,) = await store.read([user_id], now, impressions)
    return found


def test_an_unknown_user_has_nothing(address):
    found = run(address, read)
    assert not found.is_known
    assert (found.profile, len(found.actions), len(found.impressions)) == ({}, 0, 0)


def test_profile_and_events_are_read_as_they_were_written(address):
    events = [
        click(1, NOW - 2.5),
        click(2, NOW - 1.25, "revenue", -3.5),
        click(3, NOW - 0.5, "impression"),
    ]

    async def scenario(store):
        await store.set_profile("u", {"country": "Zürich\n", "age": 3.5, "tags": ["a", "b"]}, NOW)
        assert await store.append([("u", event) for event in events], NOW) == 3
        # Other users are not affected, even if an id looks like a pattern or a key.
        await store.append([("u*}:{'", click(9))], NOW)
        return await store.read(["u", "nobody", "u*}:{'"], NOW, True)

    known, nobody, other = run(address, scenario)
    assert known.profile == {"country": "Zürich\n", "age": 3.5, "tags": ["a", "b"]}
    assert (known.actions, known.impressions) == (events[:2], events[2:])
    assert not nobody.is_known
    assert other.actions == [click(9)]


def test_a_profile_stored_as_null_is_empty(tmp_path):
    async def scenario(store):
        await store.set_profile("u", None, NOW)
        return await read(store)

    assert run(f"sqlite:{tmp_path}/users.db", scenario).profile == {}


def test_a_reopened_store_keeps_its_data(address):
    async def write(store):
        await store.set_profile("u", {"age": 1}, NOW)
        await store.append([("u", click(1))], NOW)

    run(address, write)
    found = run(address, read)
    assert (found.profile, found.actions) == ({"age": 1}, [click(1)])


def test_impressions_are_read_only_on_request(address):
    async def scenario(store):
        await store.append([("u", click(1, kind="impression")), ("u", click(2))], NOW)
        return await read(store, impressions=False)

    found = run(address, scenario)
    assert found.actions == [click(2)]
    assert not found.impressions


def test_an_event_that_is_sent_twice_is_stored_once(address):
    async def scenario(store):
        counts = [await store.append([("u", click(1)), ("u", click(1))], NOW)]
        # Sent again by a client that lets the service give the time.
        counts.append(await store.append([("u", click(1, NOW + 1)), ("u", click(2))], NOW))
        # Another user may have an event with the same id.
        counts.append(await store.append([("v", click(1))], NOW))
        return counts, await read(store, now=NOW + 1)

    counts, found = run(address, scenario)
    assert counts == [1, 1, 1]
    assert found.actions == [click(1), click(2)]


def test_events_are_sorted_by_time(address):
    order = [3, 1, 4, 2]

    async def scenario(store):
        for number in order:
            await store.append([("u", click(number, NOW - 10 + number))], NOW)
        return await read(store)

    assert [event.event_id for event in run(address, scenario).actions] == ["e1", "e2", "e3", "e4"]


def test_late_events_do_not_push_out_later_ones(address):
    async def scenario(store):
        await store.append([("u", click(n, NOW - 10 + n)) for n in range(3, 10)], NOW)
        # Earlier than a full list: it is not kept, and does not push out a later one.
        await store.append([("u", click(1, NOW - 9))], NOW)
        await store.append([("u", click(n, NOW - 10 + n, "impression")) for n in range(20)], NOW)
        return await read(store, now=NOW + 100)

    found = run(address, scenario)
    assert [event.event_id for event in found.actions] == ["e5", "e6", "e7", "e8", "e9"]
    assert [event.event_id for event in found.impressions] == ["e17", "e18", "e19"]


def test_a_user_with_a_hundred_thousand_events_keeps_the_latest(address):
    events = [("u", click(n, NOW - 200_000 + n)) for n in range(100_000)]

    async def scenario(store):
        assert await store.append(events, NOW) >= CONFIG.max_actions
        return await read(store)

    expected = [event for _, event in events[-5:]]
    assert run(address, scenario).actions == expected


def test_events_of_a_clock_that_is_ahead_do_not_push_out_earlier_ones(address):
    async def scenario(store):
        await store.append([("u", click(n, NOW - 10 + n)) for n in range(6)], NOW)
        ahead = [click(n, NOW + 90 + n) for n in range(10, 17)]
        # Together with one that is read, and one at a time.
        await store.append([("u", click(6, NOW - 4)), *(("u", event) for event in ahead[:6])], NOW)
        await store.append([("u", ahead[6])], NOW)
        found = [await read(store), await read(store, now=NOW + 250)]
        # Once their time has come, a write trims them with the others.
        await store.append([("u", click(20, NOW + 250))], NOW + 250)
        return [*found, await read(store), await read(store, now=NOW + 250)]

    now, later, trimmed, last = [
        [event.event_id for event in found.actions] for found in run(address, scenario)
    ]
    # At most five of each.
    assert now == ["e2", "e3", "e4", "e5", "e6"]
    assert later == ["e12", "e13", "e14", "e15", "e16"]
    assert trimmed == []
    assert last == ["e13", "e14", "e15", "e16", "e20"]


def test_an_impression_does_not_trim_the_actions(address):
    async def scenario(store):
        await store.append([("u", click(n, NOW - 10 + n)) for n in range(5)], NOW)
        # Of a clock that is ahead.
        await store.append([("u", click(n, NOW + n)) for n in range(10, 15)], NOW)
        # Also ahead, until it is set back.
        await store.append([("u", click(20, NOW + 100, "impression"))], NOW + 100)
        return await read(store)

    found = run(address, scenario)
    assert [event.event_id for event in found.actions] == ["e0", "e1", "e2", "e3", "e4"]


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_sqlite_and_valkey_keep_the_same_events_when_clocks_are_set_back(tmp_path, valkey):
    drawn = random.Random(0)
    kinds = ["click", "impression"]

    def history():
        now = NOW
        for step in range(40):
            now += drawn.choice([1, 60, 100, -30, -200])
            events = [
                click(4 * step + n, now + drawn.uniform(-300, 300), drawn.choice(kinds))
                for n in range(drawn.randint(1, 3))
            ]
            yield now, events

    histories = {f"u{number}": list(history()) for number in range(20)}

    async def scenario(store):
        results = []
        for user_id, steps in histories.items():
            for now, events in steps:
                count = await store.append([(user_id, event) for event in events], now)
                kept = [await read(store, user_id, time) for time in (now, now + 1000)]
                results.append((count, [user.to_json() for user in kept]))
        return results

    assert run(f"sqlite:{tmp_path}/users.db", scenario) == run(valkey.url, scenario)


def test_an_event_far_in_the_future_is_left_out(address):
    async def scenario(store):
        events = [click(1, NOW + 300), click(2, NOW + 300.5), click(3, 1.77e12)]
        count = await store.append([("u", event) for event in events], NOW)
        return count, await read(store, now=2e12)

    # Without a time to live, it would be read at any later time.
    count, found = run(address, scenario, None)
    assert count == 1
    assert found.actions == [click(1, NOW + 300)]


def test_events_after_the_request_are_left_out(address):
    async def scenario(store):
        await store.append([("u", click(1, NOW)), ("u", click(2, NOW + 0.001))], NOW)
        return await read(store, now=NOW), await read(store, now=NOW + 1)

    before, after = run(address, scenario)
    assert before.actions == [click(1)]
    assert after.actions == [click(1), click(2, NOW + 0.001)]


def test_events_older_than_the_time_to_live_are_deleted(address):
    async def scenario(store):
        old = click(1, NOW - 9 * DAY)
        counts = [await store.append([("u", old), ("u", click(2, NOW - 11 * DAY))], NOW)]
        before = await read(store)
        after = await read(store, now=NOW + 2 * DAY)
        # A later write deletes it, so an earlier request no longer reads it either.
        counts.append(await store.append([("u", click(3, NOW + 2 * DAY))], NOW + 2 * DAY))
        return counts, before, after, await read(store, now=NOW + 2 * DAY), await read(store)

    counts, before, after, written, earlier = run(address, scenario)
    assert counts == [1, 1]
    assert [event.event_id for event in before.actions] == ["e1"]
    assert after.actions == []
    assert [event.event_id for event in written.actions] == ["e3"]
    assert earlier.actions == []


@pytest.mark.parametrize(("ttl_days", "kept"), [(365, ["e1", "e2"]), (7, [])])
def test_a_store_opened_without_options_has_the_time_to_live_of_the_service(
    address, ttl_days, kept
):
    async def use(store):
        # The upkeep of a service begins with it.
        await store.check_settings()

    async def add(store):
        events = [("u", click(1, NOW - 100 * DAY)), ("u", click(2, NOW - 8 * DAY))]
        await store.append(events, NOW)
        await store.set_profile("u", {"age": 1}, NOW, {"age": NOW})
        return await read(store)

    run(address, use, UserStoreConfig(ttl_days=ttl_days))
    assert [event.event_id for event in run(address, add, None).actions] == kept


def test_a_store_that_no_service_has_used_keeps_events_of_any_age(address):
    async def scenario(store):
        assert await store.append([("u", click(1, 0.5)), ("u", click(2))], NOW) == 2
        await store.set_profile("u", {"age": 1}, NOW)
        await store.expire(NOW)
        return await read(store)

    found = run(address, scenario, None)
    assert ([event.event_id for event in found.actions], found.profile) == (
        ["e1", "e2"],
        {"age": 1},
    )


def test_a_change_of_the_time_to_live_is_logged_once(address, caplog):
    async def use(store):
        await store.check_settings()
        await store.check_settings()

    for ttl_days in (10, 10, 2, 2):
        run(address, use, UserStoreConfig(ttl_days=ttl_days))
    (message,) = caplog.messages
    assert "for 10 days; --user_ttl_days of this service makes it 2 days" in message


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_a_time_to_live_that_valkey_has_lost_is_set_again(valkey):
    async def scenario(store):
        await store.check_settings()
        valkey.client().flushall()
        await store.check_settings()
        found = [valkey.client().get("tfrec:ttl_seconds")]
        # Another service, which was started later.
        valkey.client().set("tfrec:ttl_seconds", "9.0")
        await store.check_settings()
        return [*found, valkey.client().get("tfrec:ttl_seconds")]

    assert run(valkey.url, scenario) == [b"864000", b"9.0"]


def test_replacing_a_profile_keeps_the_events(address):
    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        await store.set_profile("u", {"country": "CH", "age": 3}, NOW)
        await store.set_profile("u", {"country": "FR"}, NOW)
        await store.append([("u", click(2))], NOW)
        return await read(store)

    found = run(address, scenario)
    assert found.profile == {"country": "FR"}
    assert len(found.actions) == 2


def test_an_erased_user_is_unknown_and_others_are_kept(address):
    async def scenario(store):
        for user_id in ("u", "v"):
            await store.set_profile(user_id, {"age": 1}, NOW)
            await store.append([(user_id, click(1)), (user_id, click(2, NOW, "impression"))], NOW)
        deleted = [await store.delete(user_id, NOW) for user_id in ("u", "u", "x")]
        erased, other = await store.read(["u", "v"], NOW, True)
        # The user may return, with the id of an earlier event.
        assert await store.append([("u", click(1, NOW + 1))], NOW + 1) == 1
        return deleted, erased, other

    deleted, erased, other = run(address, scenario)
    assert deleted == [True, False, False]
    assert not erased.is_known
    assert (other.profile, len(other.actions), len(other.impressions)) == ({"age": 1}, 1, 1)


def test_events_from_before_the_erasure_do_not_restore_a_user(address):
    async def scenario(store):
        other = users.open_store(address, CONFIG)
        ahead = click(3, NOW + 5)
        await store.append(
            [("u", click(1, NOW - 10)), ("v", click(1, NOW - 10)), ("u", ahead)], NOW
        )
        await store.delete("u", NOW)
        # Events queued in another process or sent again, one of them of a clock that is ahead.
        late = [click(1, NOW - 10), click(2, NOW - 0.5, "impression"), ahead]
        later = NOW + 6
        counts = [await other.append([("u", event) for event in late], later)]
        gone = await read(store, now=later)
        counts.append(await other.append([("v", event) for event in late], later))
        counts.append(await other.append([("u", late[0]), ("u", click(4, later))], later))
        await other.close()
        return counts, gone, await read(store, now=later)

    counts, gone, back = run(address, scenario)
    assert counts == [0, 2, 1]
    assert not gone.is_known
    assert [event.event_id for event in back.actions] == ["e4"]


def test_a_second_erasure_does_not_restore_an_erased_event(address):
    ahead = click(1, NOW + 250)

    async def scenario(store):
        await store.append([("u", ahead)], NOW)
        for at in (NOW, NOW + 1):
            await store.delete("u", at)
        counts = [await store.append([("u", ahead)], NOW + 2)]
        counts.append(await store.append([("u", click(2, NOW + 251))], NOW + 251))
        return counts

    assert run(address, scenario) == [0, 1]


def test_a_user_erased_with_an_event_far_in_the_future_can_return(address):
    async def scenario(store):
        # Written by a release that accepted it, or before a clock was set back.
        far = NOW + 1e12
        await store.append([("u", click(1, far))], far)
        deleted = await store.delete("u", NOW)
        counts = [
            await store.append([("u", click(n, NOW + seconds))], NOW + seconds)
            for n, seconds in ((2, 300), (3, 300.5))
        ]
        return deleted, counts

    assert run(address, scenario) == (True, [0, 1])


def test_sqlite_ignores_an_erasure_far_in_the_future(tmp_path):
    path = tmp_path / "users.db"

    async def scenario(store):
        # As a process with a wrong clock wrote it.
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("INSERT INTO erased VALUES ('secret-user', 1.77e12)")
            other.commit()
        count = await store.append([("secret-user", click(1))], NOW)
        await store.expire(NOW)
        with contextlib.closing(sqlite3.connect(path)) as other:
            return count, other.execute("SELECT * FROM erased").fetchall()

    assert run(f"sqlite:{path}", scenario) == (1, [])


def test_a_profile_from_a_log_does_not_replace_one_that_was_set(address):
    async def scenario(store):
        written = []
        for profile in ({"age": 1}, {}):
            await store.set_profile("u", profile, NOW)
            written.append(await store.set_profile("u", {"age": 2}, NOW, {"age": NOW}))
        return written, (await read(store)).profile

    assert run(address, scenario) == ([False, True], {"age": 2})


def test_profile_values_from_before_the_erasure_do_not_restore_a_user(address):
    logged = {"city": 'Z"ürich', "tags": [], "age": 3.5}

    async def scenario(store):
        await store.delete("u", NOW)
        written = [await store.set_profile("u", logged, NOW + 60, dict.fromkeys(logged, NOW))]
        gone = await read(store)
        # A user who has returned gets only values logged since.
        times = {"city": NOW + 1, "tags": NOW + 2, "age": NOW}
        for user_id in ("u", "v"):
            written.append(await store.set_profile(user_id, logged, NOW + 60, times))
        found = await store.read(["u", "v"], NOW)
        # A profile that is set is new, whatever the clocks say.
        written.append(await store.set_profile("u", {"age": 1}, NOW - 1))
        return written, gone, *found, await read(store)

    written, gone, back, other, new = run(address, scenario)
    assert written == [False, True, True, True]
    assert not gone.is_known
    assert (back.profile, other.profile) == ({"city": 'Z"ürich', "tags": []}, logged)
    assert new.profile == {"age": 1}


def test_sqlite_remembers_an_erasure_for_an_hour(tmp_path):
    async def scenario(store):
        await store.delete("secret-user", NOW)
        counts = [await store.expire(NOW + 3599)]
        counts.append(await store.append([("secret-user", click(1))], NOW + 3599))
        await store.expire(NOW + 3600)
        found = b"".join(path.read_bytes() for path in tmp_path.glob("users.db*"))
        counts.append(await store.append([("secret-user", click(1))], NOW + 3600))
        return counts, found

    counts, found = run(f"sqlite:{tmp_path}/users.db", scenario)
    assert counts == [0, 0, 1]
    assert b"secret-user" not in found


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_valkey_remembers_an_erasure_for_an_hour(valkey):
    async def scenario(store):
        await store.delete("u", NOW)
        # It must not extend the hour.
        await store.append([("u", click(1, NOW + 1))], NOW + 1)

    run(valkey.url, scenario)
    assert 3500 < valkey.client().ttl("tfrec:{u}:erased") <= 3600


def test_sqlite_files_contain_no_data_of_an_erased_user(tmp_path):
    def contents():
        return b"".join(path.read_bytes() for path in tmp_path.glob("users.db*"))

    async def scenario(store):
        await store.append([("u", StoredEvent("e", "click", "secret-ad", NOW))], NOW)
        before = contents()
        await store.delete("u", NOW)
        # The store is still open, so its write-ahead log still exists.
        return before, contents()

    before, after = run(f"sqlite:{tmp_path}/users.db", scenario)
    assert b"secret-ad" in before
    assert b"secret-ad" not in after


def test_sqlite_files_are_readable_by_the_owner_only(tmp_path):
    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    names = ("users.db", "users.db-wal", "users.db-shm")
    assert run(f"sqlite:{tmp_path}/users.db", scenario) == dict.fromkeys(names, 0o600)


def test_an_erasure_in_sqlite_does_not_wait_for_a_long_read(tmp_path, monkeypatch):
    # Writes that wait for the read exceed the timeout below by far.
    monkeypatch.setattr(sqlite_store, "_BUSY_SECONDS", 60.0)
    path = tmp_path / "users.db"

    def contents():
        return b"".join(path.read_bytes() for path in tmp_path.glob("users.db*"))

    async def scenario(store):
        await store.append([("u", StoredEvent("e", "click", "secret-ad", NOW))], NOW)
        # A backup reads.
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM users").fetchone()
            async with asyncio.timeout(30):
                assert await store.delete("u", NOW)
                assert await store.append([("v", click(1))], NOW) == 1
        left = contents()
        await store.expire(NOW)
        # Later writes wait for others as before.
        (busy,) = store._writer.execute("PRAGMA busy_timeout").fetchone()
        return left, contents(), busy

    left, after, busy = run(f"sqlite:{path}", scenario)
    assert b"secret-ad" in left
    assert b"secret-ad" not in after
    assert busy == 60_000


def test_a_commit_that_fails_leaves_sqlite_usable(tmp_path):
    class FullDisk:
        def __init__(self, connection):
            self._connection = connection

        def __getattr__(self, name):
            return getattr(self._connection, name)

        def execute(self, statement, *arguments):
            if statement == "COMMIT":
                raise sqlite3.OperationalError("disk I/O error")
            return self._connection.execute(statement, *arguments)

    async def scenario(store):
        writer = store._writer
        store._writer = FullDisk(writer)
        with pytest.raises(errors.UserStoreError, match="disk I/O error"):
            await store.append([("u", click(1))], NOW)
        store._writer = writer
        assert await store.append([("u", click(2))], NOW) == 1
        return await read(store)

    found = run(f"sqlite:{tmp_path}/users.db", scenario)
    assert found.actions == [click(2)]


def test_a_new_sqlite_file_can_be_opened_by_several_processes_at_once(tmp_path, monkeypatch):
    refused = []

    class Busy(sqlite3.Connection):
        def execute(self, statement, *arguments):
            if "journal_mode" in statement and len(refused) < 2:
                refused.append(statement)
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorname = "SQLITE_BUSY"
                raise error
            return super().execute(statement, *arguments)

    connect = functools.partial(sqlite3.connect, factory=Busy)
    monkeypatch.setattr(sqlite3, "connect", connect)

    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        return await read(store)

    found = run(f"sqlite:{tmp_path}/users.db", scenario)
    assert (found.actions, len(refused)) == ([click(1)], 2)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_removed_or_replaced_sqlite_file_is_not_used(tmp_path, is_replaced):
    path = tmp_path / "users.db"

    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        path.rename(tmp_path / "kept.db")
        if is_replaced:
            path.touch()
        for use in (
            lambda: store.append([("u", click(2))], NOW),
            lambda: store.set_profile("u", {}, NOW),
            lambda: store.delete("u", NOW),
            lambda: store.read(["u"], NOW),
        ):
            with pytest.raises(errors.UserStoreError, match=r"was removed or replaced .* Restart"):
                await use()
        # The original file is back.
        (tmp_path / "kept.db").rename(path)
        return await read(store)

    assert run(f"sqlite:{path}", scenario).actions == [click(1)]


def test_two_open_stores_agree(address):
    async def scenario(store):
        other = users.open_store(address, CONFIG)
        half = [("u", click(n, NOW - 5 + n)) for n in range(4)]
        # At the same time, with one event in both.
        counts = await asyncio.gather(store.append(half[:3], NOW), other.append(half[2:], NOW))
        await other.set_profile("u", {"age": 1}, NOW)
        found = [await read(store), await read(other)]
        await other.close()
        return counts, found

    counts, (one, other) = run(address, scenario)
    assert sum(counts) == 4
    assert one == other
    assert (len(one.actions), one.profile) == (4, {"age": 1})


def test_users_without_writes_expire_in_sqlite(tmp_path):
    async def scenario(store):
        for number in range(1200):
            await store.append([(f"old-{number}", click(1))], NOW)
        await store.append([("new", click(1, NOW + 5 * DAY))], NOW + 5 * DAY)
        later = NOW + 11 * DAY
        counts = [await store.expire(NOW + 9 * DAY), await store.expire(later)]
        counts.append(await store.expire(later))
        return counts, await store.read(["old-3", "new"], later)

    counts, (old, new) = run(f"sqlite:{tmp_path}/users.db", scenario)
    # More than one transaction deletes.
    assert counts == [0, 1200, 0]
    assert not old.is_known
    assert len(new.actions) == 1


def test_users_written_by_a_clock_far_ahead_expire_in_sqlite(tmp_path):
    async def scenario(store):
        for number in range(1200):
            await store.set_profile(f"ahead-{number}", {"age": 1}, NOW + 365 * DAY)
        await store.append([("u", click(1))], NOW)
        counts = [await store.expire(NOW)]
        await store.append([("u", click(2, NOW + 9 * DAY))], NOW + 9 * DAY)
        # Their times have become NOW.
        counts += [await store.expire(NOW + 9 * DAY), await store.expire(NOW + 11 * DAY)]
        return counts, (await read(store, now=NOW + 11 * DAY)).is_known

    assert run(f"sqlite:{tmp_path}/users.db", scenario) == ([0, 0, 1200], True)


def test_a_clock_far_behind_changes_no_write_times_in_sqlite(tmp_path):
    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        await store.append([("v", click(1, NOW + 5 * DAY))], NOW + 5 * DAY)
        # Before the clock is set after a start, it is 1970.
        for early in (0.0, NOW - 400 * DAY, NOW - 3 * DAY):
            assert await store.expire(early) == 0
        return await store.expire(NOW + 6 * DAY), (await read(store, now=NOW + 5 * DAY)).is_known

    assert run(f"sqlite:{tmp_path}/users.db", scenario) == (0, True)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_users_without_writes_expire_in_valkey(valkey):
    client = valkey.client()

    async def scenario(store):
        await store.set_profile("u", {"age": 1}, NOW)
        await store.append([("u", click(1)), ("u", click(2, kind="impression"))], NOW)
        await store.set_profile("v", {"age": 1}, NOW, {"age": NOW})
        assert await store.expire(NOW + 100 * DAY) == 0

    run(valkey.url, scenario)
    keys = client.keys("tfrec:{*")
    assert len(keys) == 5
    # By the server's clock: every key has the time to live.
    assert all(9.9 * DAY < client.ttl(key) <= 10 * DAY for key in keys)


def test_many_users_are_read_in_a_thread_and_few_are_not(tmp_path):
    threads = []

    class Watched(sqlite_store.SqliteUserStore):
        def _users(self, *arguments):
            threads.append(threading.current_thread() is threading.main_thread())
            return super()._users(*arguments)

    async def main():
        store = Watched(tmp_path / "users.db", CONFIG)
        await store.append([("u", click(1))], NOW)
        # The average time of a read decides: none so far, then a slow disk.
        found = [await store.read(["u"], NOW)]
        store._pace = 0.0009
        found += [await store.read(["u"], NOW), (await store.read(["u", "v"], NOW))[:1]]
        await store.close()
        return found

    first, *others = asyncio.run(main())
    assert first[0].actions == [click(1)]
    assert all(found == first for found in others)
    assert threads == [True, True, False]


def test_an_invalid_address_is_refused_without_its_password():
    # A space, or a missing colon, makes it an address of another kind.
    for address, shown in (
        ("memcached://x", "memcached://x"),
        (" redis://u:secret@h:1/0", " redis://h:1/0"),
        ("redis//u:secret@h", "h"),
    ):
        with pytest.raises(ValueError, match=f"Expected sqlite:PATH or redis://.*'{shown}'") as no:
            users.open_store(address)
        assert "secret" not in str(no.value)


def test_a_missing_directory_is_refused_and_not_created(tmp_path):
    with pytest.raises(ValueError, match=f"create the directory {tmp_path}/user"):
        users.open_store(f"sqlite:{tmp_path}/user/users.db")
    assert not list(tmp_path.iterdir())


def test_the_message_of_a_damaged_file_names_the_remedy(tmp_path):
    path = tmp_path / "users.db"
    asyncio.run(users.open_store(f"sqlite:{path}").close())
    content = path.read_bytes()
    # All pages but the first, which has the header.
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(errors.UserStoreError, match=r"is damaged.*users\.db-wal .* backup"):
        users.open_store(f"sqlite:{path}")


def test_a_file_that_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(errors.UserStoreError, match="file is not a database"):
        users.open_store(f"sqlite:{tmp_path}/text.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(errors.UserStoreError, match="is not a user store of version 1"):
        users.open_store(f"sqlite:{tmp_path}/other.db")


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a); INSERT INTO t VALUES (1)",
        "CREATE TABLE t (a); PRAGMA user_version = 1",
        "CREATE TABLE users (id); CREATE TABLE events (id); PRAGMA user_version = 1",
        "PRAGMA user_version = 7",
    ],
)
def test_a_file_of_another_program_is_refused_and_unchanged(tmp_path, script):
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript(script)
    os.utime(path, (1, 1))
    content = path.read_bytes()
    with pytest.raises(errors.UserStoreError, match=r"not a user store .* Name another file"):
        users.open_store(f"sqlite:{path}", CONFIG)
    assert path.read_bytes() == content
    assert path.stat().st_mtime == 1
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_store_is_opened_without_a_write(tmp_path):
    path = tmp_path / "users.db"

    async def write(store):
        await store.append([("u", click(1))], NOW)

    run(f"sqlite:{path}", write)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        # As on a full disk, no other connection can write.
        other.execute("BEGIN IMMEDIATE")
        assert run(f"sqlite:{path}", read).actions == [click(1)]


def test_a_store_in_memory_is_refused_and_creates_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"got 'sqlite::memory:'.* Name a file"):
        users.open_store("sqlite::memory:")
    assert not list(tmp_path.iterdir())


def test_sqlite_has_no_settings_to_check(tmp_path):
    async def scenario(store):
        return await store.check_settings()

    assert run(f"sqlite:{tmp_path}/users.db", scenario) is None


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_a_server_that_evicts_is_a_problem(valkey):
    client = valkey.client()
    # Like a managed server.
    client.acl_setuser("u", enabled=True, nopass=True, keys="*", commands=["+@all", "-config"])
    client.acl_setuser("v", enabled=True, nopass=True, keys="*", commands=["+@all", "-@dangerous"])

    async def scenario(store):
        return await store.check_settings()

    def problem(user):
        return run(valkey.url.replace("127", f"{user}:secret@127"), scenario)

    found = [problem("u")]
    client.config_set("maxmemory-policy", "volatile-lru")
    found += [problem("u"), problem("v")]
    assert found[0] is None
    assert "maxmemory-policy volatile-lru; expected noeviction." in found[1]
    assert "secret" not in found[1]
    # It may not read the setting.
    assert found[2] is None


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_an_error_about_a_foreign_key_does_not_ask_whether_the_server_runs(valkey):
    valkey.client().lpush("tfrec:{u}:actions", "1")
    with pytest.raises(errors.UserStoreError, match=r"WRONGTYPE.* Check the settings") as caught:
        run(valkey.url, read)
    assert "running" not in str(caught.value)


def test_an_error_while_the_server_loads_does_not_ask_whether_it_runs():
    redis = pytest.importorskip("redis")

    async def scenario(store):
        async with store._mapped():
            raise redis.exceptions.BusyLoadingError("Valkey is loading the dataset in memory")

    with pytest.raises(errors.UserStoreError, match=r"memory\. It can be used once") as caught:
        run("redis://127.0.0.1:1/0", scenario)
    assert "running" not in str(caught.value)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_the_error_of_a_missing_server_has_its_address_without_the_password(valkey):
    valkey.kill()
    address = valkey.url.replace("127", "name:secret@127")
    place = valkey.url.removeprefix("redis://")
    with pytest.raises(errors.UserStoreError, match=f"{place} failed") as caught:
        run(address, read)
    assert "secret" not in str(caught.value)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_the_error_of_a_wrong_password_does_not_show_it(valkey):
    valkey.client().config_set("requirepass", "right-secret")
    address = valkey.url.replace("127", ":wrong-secret@127")
    with pytest.raises(errors.UserStoreError, match="Check the user and the password") as caught:
        run(address, read)
    assert "secret" not in str(caught.value)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_an_error_of_the_server_contains_no_user_data(valkey):
    valkey.client().config_set("maxmemory", 1)

    async def scenario(store):
        found = []
        for write in (
            store.set_profile("secret-user", {"city": "secret"}, NOW),
            store.append([("secret-user", click(1))], NOW),
        ):
            with pytest.raises(
                errors.UserStoreError, match="Give the server more memory"
            ) as caught:
                await write
            found.append(str(caught.value))
        return found

    messages = run(valkey.url, scenario)
    assert all("'maxmemory'" in message for message in messages)
    assert "secret" not in "".join(messages)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_the_address_of_a_replica_is_refused(valkey):
    valkey.client().replicaof("127.0.0.1", "1")

    async def scenario(store):
        await store.append([("u", click(1))], NOW)

    with pytest.raises(errors.UserStoreError, match="Name the primary server, not a replica"):
        run(valkey.url, scenario)


@pytest.mark.parametrize("user_id", ["u", "a}b", "}", "}x", "}{x}", "{", "{}", "_}x", ":"])
def test_all_keys_of_a_user_are_on_one_node_of_a_cluster(user_id):
    crc = pytest.importorskip("redis.crc")
    from serving.users import redis_store

    keys = redis_store._keys(user_id)
    assert len({crc.key_slot(key.encode()) for key in keys}) == 1
    others = {"u", "}x", "_}x", "x"} - {user_id}
    assert not set(keys) & {key for other in others for key in redis_store._keys(other)}


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_connections_to_a_server_that_has_become_a_replica_are_closed(valkey):
    observer = valkey.client()

    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        observer.replicaof("127.0.0.1", "1")
        with pytest.raises(errors.UserStoreError, match="not a replica"):
            await store.append([("u", click(2))], NOW)
        # The next connection goes where the address leads, such as to the new primary.
        await waiting.becomes(lambda: len(observer.client_list(_type="normal")) == 1)
        observer.replicaof("NO", "ONE")
        return await store.append([("u", click(2))], NOW)

    assert run(valkey.url, scenario) == 1


def test_an_unknown_command_is_named_without_its_arguments():
    redis = pytest.importorskip("redis")
    text = "unknown command 'SET', with args beginning with: 'tfrec:{secret}:profile' '{}' "

    async def scenario(store):
        async with store._mapped():
            raise redis.ResponseError(text)

    with pytest.raises(errors.UserStoreError, match=r"command 'SET'\. Check the set") as caught:
        run("redis://127.0.0.1:1/0", scenario)
    assert "secret" not in str(caught.value)


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_a_user_is_erased_from_a_full_server_and_stays_erased(valkey):
    client = valkey.client()

    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        client.config_set("maxmemory", 1)
        deleted = [await store.delete(user_id, NOW) for user_id in ("u", "v")]
        client.config_set("maxmemory", 0)
        # From the queue of another process.
        late = [(user_id, click(2, NOW - 1)) for user_id in ("u", "v")]
        return deleted, await store.append(late, NOW + 60), await read(store)

    deleted, added, found = run(valkey.url, scenario)
    assert (deleted, added) == ([True, False], 0)
    assert not found.is_known
