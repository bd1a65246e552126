"""Events from a stream of Valkey: each once in the store, and none lost."""

import asyncio
import contextlib
import json
import signal
import time

import clocks
import pytest
import requirements
import waiting

pytest.importorskip("redis", reason=requirements.NO_REDIS)

from serving import errors, impressions, orchestrator, users
from serving.config import UserStoreConfig
from serving.users import event_stream

pytestmark = [pytest.mark.engines, requirements.NEEDS_VALKEY]
CONFIG = UserStoreConfig(read_timeout_ms=30_000, write_timeout_seconds=5)


def entry(number, **changes):
    event = {"event_id": f"e{number}", "user_id": "u", "ad_id": f"ad-{number}", "event": "click"}
    return {"event": json.dumps({**event, **changes})}


@contextlib.asynccontextmanager
async def consuming(valkey, store, member="m", feedback=None):
    """Runs a consumer of the stream `events` into a store until the block ends."""
    data = orchestrator.UserData(users.open_store(store, CONFIG), CONFIG)
    reader = users.StreamReader(valkey.url, "events", "group", member)
    consumer = orchestrator.EventConsumer(reader, orchestrator.EventIntake(data, feedback))
    stopping = asyncio.Event()
    running = asyncio.create_task(consumer.run(stopping))
    try:
        yield consumer, data
    finally:
        stopping.set()
        await running
        await reader.close()
        await data.close()


async def until(condition):
    """Waits until a coroutine function returns true, without blocking the loop."""
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(
        waiting.until, lambda: asyncio.run_coroutine_threadsafe(condition(), loop).result()
    )


async def clicked(data):
    return [event.ad_id for event in (await data.get("u")).actions]


def test_each_event_is_stored_once_and_logged(valkey, tmp_path):
    import redis.asyncio

    store = f"sqlite:{tmp_path}/users.db"
    feedback = impressions.FeedbackLog(tmp_path / "log")

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        # Before the group exists.
        await producer.xadd("events", entry(1, request_id="r1"))
        async with consuming(valkey, store, feedback=feedback) as (consumer, data):
            await producer.xadd("events", entry(2, time=1.0e9))
            await producer.xadd("events", entry(1, request_id="r1"))
            await producer.xadd("events", {"event": "no JSON"})
            await producer.xadd("events", {"other": "field"})
            await producer.xadd("events", entry(4, time=1e12))
            await producer.xadd("events", entry(3))
            await until(lambda: _true(consumer.received + consumer.rejected == 7))
            assert await clicked(data) == ["ad-1", "ad-3"]
            assert (consumer.received, consumer.added, consumer.rejected) == (4, 2, 3)
            await until(lambda: _no_pending(producer))
        await producer.aclose()

    asyncio.run(main())
    (file,) = (tmp_path / "log").glob(impressions.FEEDBACK_PATTERN)
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["event_id"], line["request_id"]) for line in logged] == [
        ("e1", "r1"),
        ("e2", None),
        ("e1", "r1"),
        ("e3", None),
    ]


async def _true(value):
    return value


async def _no_pending(producer):
    return (await producer.xpending("events", "group"))["pending"] == 0


def test_unacknowledged_entries_are_delivered_again(valkey):
    import redis.asyncio

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        readers = [users.StreamReader(valkey.url, "events", "group", "m") for _ in range(2)]
        assert await readers[0].read(0.01) == []
        for number in range(3):
            await producer.xadd("events", entry(number))
        first = await readers[0].read()
        await readers[0].acknowledge(first[:1])
        # Started again under its name.
        again = await readers[1].read()
        assert [e.entry_id for e in again] == [e.entry_id for e in first[1:]]
        await readers[1].acknowledge(again)
        assert await readers[1].read(0.01) == []
        for client in (*readers, producer):
            await (client.aclose if client is producer else client.close)()

    asyncio.run(main())


def test_an_error_about_a_key_of_another_type_does_not_ask_whether_the_server_runs(valkey):
    valkey.client().set("events", "text")

    async def main():
        reader = users.StreamReader(valkey.url, "events", "group", "m")
        try:
            await reader.read()
        finally:
            await reader.close()

    with pytest.raises(errors.UserStoreError, match=r"WRONGTYPE.* Check the settings") as caught:
        asyncio.run(main())
    assert "running" not in str(caught.value)


def test_progress_and_backlog_are_logged_once_a_minute(valkey, tmp_path, caplog):
    import redis.asyncio

    caplog.set_level("INFO")
    clock = clocks.Clock()

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        data = orchestrator.UserData(
            users.open_store(f"sqlite:{tmp_path}/users.db", CONFIG), CONFIG
        )
        reader = users.StreamReader(valkey.url, "events", "group", "m")
        consumer = orchestrator.EventConsumer(reader, orchestrator.EventIntake(data), clock)
        with pytest.raises(errors.UserStoreError, match="no such key"):
            await reader.backlog()
        assert await reader.read(0.01) == []
        for number in range(3):
            await producer.xadd("events", entry(number))
        assert await reader.backlog() == (3, 0)
        read = await reader.read()
        assert await reader.backlog() == (0, 3)
        await reader.acknowledge(read[:2])
        reader.retry()
        stopping = asyncio.Event()
        running = asyncio.create_task(consumer.run(stopping))
        await until(lambda: _true(consumer.received == 1))
        assert caplog.messages == []
        for count in (1, 2):
            clock.advance(60)
            await until(lambda count=count: _true(len(caplog.messages) == count))
        stopping.set()
        await running
        await reader.close()
        await data.close()
        await producer.aclose()

    asyncio.run(main())
    assert caplog.messages == 2 * [
        "1 event since the start, 1 of them added to the store; 0 entries were not events; "
        "0 entries of the stream are not read yet, and 0 are not stored yet"
    ]


def test_a_postponed_entry_is_delivered_again_and_delays_no_other(valkey, monkeypatch):
    import redis.asyncio

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        reader = users.StreamReader(valkey.url, "events", "group", "m")
        assert await reader.read(0.01) == []
        ids = [await producer.xadd("events", entry(number)) for number in range(2)]
        first = await reader.read()
        await reader.acknowledge(first[1:])
        # As after a failure.
        reader.retry()
        found = [await reader.read()]
        ids.append(await producer.xadd("events", entry(2)))
        found.append(await reader.read())
        await reader.acknowledge(found[-1])
        monkeypatch.setattr(event_stream, "_CLAIM_MS", 0)
        found.append(await reader.read())
        assert [[e.entry_id for e in entries] for entries in found] == [
            [ids[0]],
            [ids[2]],
            [ids[0]],
        ]
        await reader.close()
        await producer.aclose()

    asyncio.run(main())


class _Failing:
    """A store that fails to append while `down`."""

    def __init__(self, store):
        self._store = store
        self.down = True

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def append(self, *arguments):
        if self.down:
            raise errors.UserStoreError("down")
        return await self._store.append(*arguments)


def test_after_a_failure_of_the_store_entries_are_retried_immediately_and_in_order(
    valkey, tmp_path
):
    import redis.asyncio

    appended = []

    class Watched(_Failing):
        async def append(self, events, now):
            added = await super().append(events, now)
            appended.extend(event.event_id for _, event in events)
            return added

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        store = Watched(users.open_store(f"sqlite:{tmp_path}/users.db", CONFIG))
        data = orchestrator.UserData(store, CONFIG)
        reader = users.StreamReader(valkey.url, "events", "group", "m")
        consumer = orchestrator.EventConsumer(reader, orchestrator.EventIntake(data))
        stopping = asyncio.Event()
        await producer.xadd("events", entry(1))
        await producer.xadd("events", {"event": "no JSON"})
        running = asyncio.create_task(consumer.run(stopping))
        await until(lambda: _true(consumer.problem is not None))
        await producer.xadd("events", entry(2))
        store.down = False
        # Entries of a reader that has ended would be claimed only after 30 s.
        async with asyncio.timeout(20):
            await until(lambda: _true(consumer.added == 2))
        assert (appended, consumer.rejected) == (["e1", "e2"], 1)
        stopping.set()
        await running
        await reader.close()
        await data.close()
        await producer.aclose()

    asyncio.run(main())


def test_an_event_without_a_time_gets_the_time_of_its_entry(valkey, tmp_path):
    import redis.asyncio

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        seconds = int(time.time()) - 1000
        # It was added to the stream long ago.
        await producer.xadd("events", entry(1), id=f"{seconds}250-0")
        async with consuming(valkey, f"sqlite:{tmp_path}/users.db") as (consumer, data):
            await until(lambda: _true(consumer.added == 1))
            (action,) = (await data.get("u")).actions
        await producer.aclose()
        assert action.time == seconds + 0.25

    asyncio.run(main())


def test_a_consumer_continues_after_the_server_was_stopped_flushed_and_killed(valkey, tmp_path):
    import redis.asyncio

    async def main():
        producer = redis.asyncio.Redis.from_url(valkey.url)
        async with consuming(valkey, f"sqlite:{tmp_path}/users.db") as (consumer, data):

            async def added(count):
                await until(lambda: _true(consumer.added == count))

            await producer.xadd("events", entry(1))
            await added(1)
            valkey.signal(signal.SIGSTOP)
            await until(lambda: _true(consumer.problem is not None))
            valkey.signal(signal.SIGCONT)
            await until(lambda: _true(consumer.problem is None))
            await producer.xadd("events", entry(2))
            await added(2)
            valkey.client().flushall()
            await producer.xadd("events", entry(3))
            await added(3)
            valkey.kill()
            await until(lambda: _true(consumer.problem is not None))
            valkey.start()
            await producer.connection_pool.disconnect()
            await producer.xadd("events", entry(4))
            await added(4)
            assert await clicked(data) == ["ad-1", "ad-2", "ad-3", "ad-4"]
        await producer.aclose()

    asyncio.run(main())


def test_a_reader_of_a_server_that_has_become_a_replica_opens_new_connections(valkey):
    observer = valkey.client()
    observer.xadd("events", entry(1))

    async def main():
        reader = users.StreamReader(valkey.url, "events", "group", "m")
        while not await reader.read():
            pass
        observer.replicaof("127.0.0.1", "1")
        with pytest.raises(errors.UserStoreError, match="not a replica"):
            await reader.read()
        await waiting.becomes(lambda: len(observer.client_list(_type="normal")) == 1)
        observer.replicaof("NO", "ONE")
        found = await reader.read()
        await reader.close()
        return found

    assert len(asyncio.run(main())) == 1
