"""The contract of the user store, on every backend."""

import asyncio
import contextlib
import functools
import os
import sqlite3

import pytest
import requirements
import valkey as valkey_support

from serving import errors, users
from serving.config import UserStoreConfig
from serving.users import StoredEvent

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
    return await store.read(user_id, now, impressions)


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
        return [await read(store, user_id) for user_id in ("u", "nobody", "u*}:{'")]

    known, nobody, other = run(address, scenario)
    assert known.profile == {"country": "Zürich\n", "age": 3.5, "tags": ["a", "b"]}
    assert (known.actions, known.impressions) == (events[:2], events[2:])
    assert not nobody.is_known
    assert other.actions == [click(9)]


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


def test_an_impression_does_not_trim_the_actions(address):
    async def scenario(store):
        await store.append([("u", click(n, NOW - 10 + n)) for n in range(5)], NOW)
        for n in range(20, 30):
            await store.append([("u", click(n, NOW, "impression"))], NOW)
        return await read(store)

    found = run(address, scenario)
    assert [event.event_id for event in found.actions] == ["e0", "e1", "e2", "e3", "e4"]


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
        erased, other = await read(store), await read(store, "v")
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
        await store.append([("u", click(1, NOW - 10)), ("v", click(1, NOW - 10))], NOW)
        await store.delete("u", NOW)
        # Events queued in another process or sent again.
        late = [click(1, NOW - 10), click(2, NOW - 0.5, "impression")]
        later = NOW + 6
        counts = [await other.append([("u", event) for event in late], later)]
        gone = await read(store, now=later)
        counts.append(await other.append([("v", event) for event in late], later))
        counts.append(await other.append([("u", late[0]), ("u", click(4, later))], later))
        await other.close()
        return counts, gone, await read(store, now=later)

    counts, gone, back = run(address, scenario)
    assert counts == [0, 1, 1]
    assert not gone.is_known
    assert [event.event_id for event in back.actions] == ["e4"]


def test_sqlite_remembers_an_erasure_for_an_hour(tmp_path):
    async def scenario(store):
        await store.delete("secret-user", NOW)
        counts = [await store.expire(NOW + 3599)]
        counts.append(await store.append([("secret-user", click(1))], NOW + 3599))
        await store.expire(NOW + 3600)
        counts.append(await store.append([("secret-user", click(1))], NOW + 3600))
        return counts

    assert run(f"sqlite:{tmp_path}/users.db", scenario) == [0, 0, 1]


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_valkey_remembers_an_erasure_for_an_hour(valkey):
    async def scenario(store):
        await store.delete("u", NOW)
        # It must not extend the hour.
        await store.append([("u", click(1, NOW + 1))], NOW + 1)

    run(valkey.url, scenario)
    assert 3500 < valkey.client().ttl("tfrec:{u}:erased") <= 3600


def test_sqlite_files_are_readable_by_the_owner_only(tmp_path):
    async def scenario(store):
        await store.append([("u", click(1))], NOW)
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    names = ("users.db", "users.db-wal", "users.db-shm")
    assert run(f"sqlite:{tmp_path}/users.db", scenario) == dict.fromkeys(names, 0o600)


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
            lambda: store.read("u", NOW),
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
        return counts, [await read(store, user_id, later) for user_id in ("old-3", "new")]

    counts, (old, new) = run(f"sqlite:{tmp_path}/users.db", scenario)
    # More than one transaction deletes.
    assert counts == [0, 1200, 0]
    assert not old.is_known
    assert len(new.actions) == 1


@pytest.mark.engines
@requirements.NEEDS_VALKEY
def test_users_without_writes_expire_in_valkey(valkey):
    client = valkey.client()

    async def scenario(store):
        await store.set_profile("u", {"age": 1}, NOW)
        await store.append([("u", click(1)), ("u", click(2, kind="impression"))], NOW)
        await store.set_profile("v", {"age": 1}, NOW)
        assert await store.expire(NOW + 100 * DAY) == 0

    run(valkey.url, scenario)
    keys = client.keys("tfrec:{*")
    assert len(keys) == 5
    # By the server's clock: every key has the time to live.
    assert all(9.9 * DAY < client.ttl(key) <= 10 * DAY for key in keys)


def test_an_invalid_address_is_refused_without_its_password():
    # A space, or a missing colon, makes it an address of another kind.
    for address, shown in (
        ("memcached://x", "memcached://x"),
        (" redis://u:secret@h:1/0", "h:1/0"),
        ("redis//u:secret@h", "h"),
    ):
        with pytest.raises(
            ValueError, match=f"Expected sqlite:PATH, a file, or redis://.*'{shown}'"
        ) as no:
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
    with pytest.raises(errors.UserStoreError, match=r"malformed\. .* restore a backup"):
        run(f"sqlite:{path}", read)


def test_a_file_that_is_not_a_store_is_refused(tmp_path):
    (tmp_path / "text.db").write_text("not a database" * 100)
    with pytest.raises(errors.UserStoreError, match="file is not a database"):
        users.open_store(f"sqlite:{tmp_path}/text.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE t (a)")
    with pytest.raises(errors.UserStoreError, match="is not a user store of version 2"):
        users.open_store(f"sqlite:{tmp_path}/other.db")


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE t (a); INSERT INTO t VALUES (1)",
        "CREATE TABLE t (a); PRAGMA user_version = 3",
        "CREATE TABLE users (id); CREATE TABLE events (id); PRAGMA user_version = 3",
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
    with pytest.raises(ValueError, match=r"sqlite:PATH, a file.*got 'sqlite::memory:'"):
        users.open_store("sqlite::memory:")
    assert not list(tmp_path.iterdir())


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
    with pytest.raises(errors.UserStoreError, match=r"failed: .*Check its address") as caught:
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
            with pytest.raises(errors.UserStoreError) as caught:
                await write
            found.append(str(caught.value))
        return found

    messages = run(valkey.url, scenario)
    assert all("'maxmemory'" in message for message in messages)
    assert "secret" not in "".join(messages)


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
