"""A user store in Valkey that is stopped, flushed, killed and started again under load."""

import asyncio
import collections
import signal

import pytest
import requirements
import serving_fixtures

from serving import circuit_breaker, errors, orchestrator, users
from serving.config import UserStoreConfig
from serving.requests import Event, Request

pytestmark = [pytest.mark.engines, requirements.NEEDS_VALKEY]
CONFIG = UserStoreConfig(read_timeout_ms=50.0, write_timeout_seconds=1.0)
GUARD_SECONDS = 60


def test_requests_are_answered_whatever_happens_to_the_server(
    tiny_bundle, ranker_address, valkey, monkeypatch
):
    # Short pauses, so that a recovery is soon.
    monkeypatch.setattr(circuit_breaker, "_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(circuit_breaker, "_MAX_PAUSE_SECONDS", 0.1)

    async def main():
        data = orchestrator.UserData(users.open_store(valkey.url, CONFIG), CONFIG)
        service = serving_fixtures.make_orchestrator(tiny_bundle, ranker_address, users=data)
        clicked = Event(event_id="e", user_id="u", ad_id="a", event="click")
        states = collections.Counter()
        changed = asyncio.Event()
        answered = []
        stopping = False

        async def load():
            while not stopping:
                answer = await service.recommend(Request(user_id="u", k=3))
                answered.append(len(answer.ads))
                states[answer.user_data] += 1
                changed.set()

        async def until(*wanted):
            """Returns once an answer that was begun later has one of the states."""
            states.clear()
            async with asyncio.timeout(GUARD_SECONDS):
                while not any(states[state] for state in wanted):
                    changed.clear()
                    await changed.wait()

        await data.set_profile("u", {"country": "CH"})
        loads = [asyncio.create_task(load()) for _ in range(3)]
        await until("found")
        valkey.signal(signal.SIGSTOP)
        await until("late", "failed")
        with pytest.raises(errors.UserStoreError):
            await data.append([clicked.model_copy(update={"time": data.now()})])
        valkey.signal(signal.SIGCONT)
        await until("found")
        await data.flush()
        valkey.client().flushall()
        # Nobody is known until the next impressions are written.
        await until("unknown", "found")
        valkey.kill()
        await until("failed")
        valkey.start()
        await until("unknown", "found")
        await data.set_profile("u", {"country": "CH"})
        await until("found")
        stopping = True
        await asyncio.gather(*loads)
        known = await data.get("u")
        await service.close()
        await data.close()
        return answered, known

    answered, known = asyncio.run(main())
    assert set(answered) == {3}
    assert known.profile == {"country": "CH"}
    # They are recorded again, too.
    assert known.impressions
