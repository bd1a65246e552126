"""Client of the REST service for asyncio; it does not need TensorFlow.

async with AsyncClient("http://127.0.0.1:8080") as client:
    answer = await client.recommend(user={"country": "CH"}, k=10)
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

import httpx

from serving import errors
from serving.client import calls
from serving.requests import Answer, Event, EventsAdded, Request


class AsyncClient:
    """Client of one service for one event loop, with the methods of `Client` as coroutines.

    It keeps connections open. Arguments and errors are the same as for `Client`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = 10.0,
        token: str | None = None,
        verify: bool | str = True,
        attempts: int = 3,
    ) -> None:
        """Creates a client; see `Client` for the arguments and errors."""
        self._http = httpx.AsyncClient(**calls.options(base_url, timeout_seconds, token, verify))
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def recommend(self, request: Request | None = None, **fields: Any) -> Answer:
        """Returns the best ads for one request."""
        return await self._run(calls.recommend(request, fields))

    async def recommend_batch(
        self, requests: Iterable[Request | Mapping[str, Any]]
    ) -> list[Answer]:
        """Returns the answers to many requests, in the same order."""
        return await self._run(calls.recommend_batch(requests))

    async def add_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAdded:
        """Adds events to the histories of users in the user store."""
        return await self._run(calls.add_events(events))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user in the user store."""
        await self._run(calls.set_profile(user_id, profile))

    async def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return await self._run(calls.get_user(user_id))

    async def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        return await self._run(calls.delete_user(user_id))

    async def bundle(self) -> dict[str, Any]:
        """Describes the served release."""
        return await self._run(calls.BUNDLE)

    async def health(self) -> bool:
        """Returns whether the service is alive."""
        return await self._run(calls.HEALTH)

    async def ready(self) -> bool:
        """Returns whether the service expects to give full answers."""
        try:
            return await self._run(calls.READY)
        except errors.ClientServiceError as error:
            if error.code not in calls.NOT_READY:
                raise
            return False

    async def _run(self, call: calls.Call[calls.Result]) -> calls.Result:
        attempts = calls.Attempts(call, self._http.base_url, self._timeout_seconds, self._attempts)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.request(**attempts.request())
            except httpx.RequestError as error:
                outcome = error
            pause_seconds = attempts.pause_seconds(outcome)
            if pause_seconds is None:
                return attempts.result(outcome)
            await asyncio.sleep(pause_seconds)
