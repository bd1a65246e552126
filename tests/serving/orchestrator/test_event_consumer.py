"""What becomes of the entries of a stream, without a server."""

import asyncio
import json
import logging

import clocks
import pytest

from serving import orchestrator, users

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
    assert "expected a field 'event', got none" in caplog.messages[2]
