"""The outcome of the entries of a stream, without a server."""

import asyncio
import json
import logging

import clocks
import pytest

from serving import errors, orchestrator, users

NOW = 1_800_000_000.0
MINUTE = 60.0

pytest.importorskip("redis")


class _Stream:
    """A reader whose entries come until they are acknowledged."""

    def __init__(self, texts):
        self.entries = {
            f"{int(NOW)}000-{number}".encode(): text for number, text in enumerate(texts)
        }

    async def read(self):
        return [users.StreamEntry(entry_id, text) for entry_id, text in self.entries.items()]

    async def acknowledge(self, entries):
        for entry in entries:
            self.entries.pop(entry.entry_id, None)


class _StreamUntilItIsEmpty(_Stream):
    """Stops the consumer when all entries are acknowledged."""

    def __init__(self, texts, stopping):
        super().__init__(texts)
        self._stopping = stopping

    def retry(self):
        pass

    async def read(self):
        if not self.entries:
            self._stopping.set()
        return await super().read()


class _BrokenStream:
    """A reader that fails a number of times, then has no entries, and then stops the consumer."""

    def __init__(self, failures, stopping):
        self._failures, self._stopping = failures, stopping

    async def read(self):
        if self._failures:
            self._failures -= 1
            raise errors.UserStoreError("down.")
        self._stopping.set()
        return []

    def retry(self):
        pass

    async def acknowledge(self, entries):
        assert not entries


def test_pauses_after_failures_double_up_to_a_limit(tmp_path, monkeypatch):
    pauses = []

    async def wait_for(waited, seconds):
        waited.close()
        pauses.append(seconds)
        raise TimeoutError

    async def main():
        stopping = asyncio.Event()
        data = orchestrator.UserData(users.open_store(f"sqlite:{tmp_path}/users.db"))
        intake = orchestrator.EventIntake(data)
        consumer = orchestrator.EventConsumer(_BrokenStream(10, stopping), intake)
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "wait_for", wait_for)
            await consumer.run(stopping)
        await data.close()

    asyncio.run(main())
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0])


def text(number, ahead):
    event = {"event_id": f"e{number}", "user_id": "u", "ad_id": "a", "event": "click"}
    return json.dumps({**event, "time": NOW + ahead}).encode()


def consumed(tmp_path, texts, *times):
    """Returns the consumer, and how many entries are left after a step at each of the times."""

    async def main():
        clock = clocks.Clock()
        store = users.open_store(f"sqlite:{tmp_path}/users.db")
        data = orchestrator.UserData(store, now=lambda: clock() - 1000 + NOW)
        stream = _Stream(texts)
        consumer = orchestrator.EventConsumer(stream, orchestrator.EventIntake(data))
        left = []
        for seconds in times:
            clock.advance(seconds)
            await consumer._step()
            left.append(len(stream.entries))
        await data.close()
        return consumer, left

    return asyncio.run(main())


def test_events_ahead_of_the_clock_wait_until_they_are_valid(tmp_path, caplog):
    texts = [text(1, 4 * MINUTE), text(2, 15 * MINUTE), text(3, 34 * MINUTE)]
    consumer, left = consumed(tmp_path, texts, 0, 9 * MINUTE, 2 * MINUTE, 20 * MINUTE)
    assert left == [2, 2, 1, 0]
    assert (consumer.received, consumer.added, consumer.rejected) == (3, 3, 0)
    # Not at each read.
    (message,) = caplog.messages
    assert "up to 2040 s ahead of the clock of this host" in message


def test_a_clock_that_is_set_back_does_not_end_the_consumer(tmp_path):
    # Looks at the clock: the first check, the second, and all others.
    looks = iter([NOW, NOW - 2])

    async def main():
        store = users.open_store(f"sqlite:{tmp_path}/users.db")
        data = orchestrator.UserData(store, now=lambda: next(looks, NOW))
        stopping = asyncio.Event()
        stream = _StreamUntilItIsEmpty([text(1, 5 * MINUTE - 1)], stopping)
        consumer = orchestrator.EventConsumer(stream, orchestrator.EventIntake(data))
        await consumer.run(stopping)
        await data.close()
        return consumer

    consumer = asyncio.run(main())
    assert (consumer.received, consumer.added, consumer.rejected) == (1, 1, 0)


def test_no_event_is_rejected_because_the_clock_of_the_consumer_is_behind(tmp_path, caplog):
    # The machine was paused for two hours. The last event is wrong by the server's clock, too.
    texts = [text(1, 0), text(2, -30 * MINUTE), text(3, 36 * MINUTE)]
    consumer, left = consumed(tmp_path, texts, -120 * MINUTE, 120 * MINUTE)
    assert left == [2, 0]
    assert (consumer.received, consumer.added, consumer.rejected) == (2, 2, 1)
    rejected, waiting = caplog.messages
    assert rejected.startswith("Entry 1800000000000-2 of the stream was rejected")
    assert "up to 7200 s ahead of the clock of this host" in waiting


def test_an_event_that_would_wait_for_long_is_rejected(tmp_path, caplog):
    # In milliseconds, and of another time zone.
    texts = [text(1, NOW * 1000), text(2, 60 * MINUTE), text(3, 0)]
    consumer, left = consumed(tmp_path, texts, 0)
    assert left == [0]
    assert (consumer.received, consumer.rejected) == (1, 2)
    assert len(caplog.messages) == 2


def test_a_rejected_entry_is_named_on_one_line_with_the_beginning_of_its_text(tmp_path, caplog):
    texts = [b'{"evnt_id": "e1",\n"x": "' + b"y" * 1000 + b'"}', b"\xff", None]
    consumed(tmp_path, texts, 0)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3
    assert not any("\n" in message or "b'" in message for message in caplog.messages)
    assert caplog.messages[0].startswith("Entry 1800000000000-0 of the stream was rejected: event")
    assert r"""Its text begins: '{"evnt_id": "e1",\n"x": "yyy""" in caplog.messages[0]
    assert len(caplog.messages[0]) < 1000
    assert "rejected: expected a JSON object (" in caplog.messages[1]
    assert "expected a field 'event', got none. Its" in caplog.messages[2]
