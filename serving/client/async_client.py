"""Client of the REST service for asyncio; it does not need TensorFlow.

async with AsyncClient("http://127.0.0.1:8080") as client:
    answer = await client.recommend(user={"country": "CH"}, k=10)
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Self

import httpx

from serving.client import calls
from serving.errors import ClientStatusError
from serving.requests import Answer, Event, EventsAdded, Request, UserDeleted


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
        body = calls.body_of(calls.request_of(request, fields))
        return calls.answer_to(body, await self._call("POST", "/v1/recommend", body))

    async def recommend_batch(
        self, requests: Iterable[Request | Mapping[str, Any]]
    ) -> list[Answer | ClientStatusError]:
        """Returns the answer to each request, or its error, in the same order."""
        bodies = [calls.body_of(request) for request in calls.requests_of(requests)]
        path = "/v1/recommend/batch"
        return calls.outcomes_of(bodies, await self._call("POST", path, {"requests": bodies}))

    async def add_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAdded:
        """Adds events to the histories of users in the user store."""
        body = calls.events_body(events)
        return calls.read(EventsAdded, await self._call("POST", "/v1/events", body))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user in the user store."""
        await self._call("PUT", calls.user_path(user_id), calls.profile_body(profile))

    async def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return await self._call("GET", calls.user_path(user_id))

    async def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        document = await self._call("DELETE", calls.user_path(user_id))
        return calls.read(UserDeleted, document).deleted

    async def bundle(self) -> dict[str, Any]:
        """Describes the served release."""
        return await self._call("GET", "/v1/bundle")

    async def health(self) -> bool:
        """Returns whether the service is alive."""
        return (await self._call("GET", "/healthz")).get("status") == "ok"

    async def ready(self) -> bool:
        """Returns whether the service expects to give full answers."""
        return (await self._call("GET", calls.READY)).get("status") == "ready"

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        url, timeout = self._http.base_url, self._timeout_seconds
        attempts = calls.Attempts(url, method, path, body, timeout, self._attempts)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.request(**attempts.request())
            except httpx.RequestError as error:
                outcome = error
            pause_seconds = attempts.pause_seconds(outcome)
            if pause_seconds is None:
                return attempts.document(outcome)
            await asyncio.sleep(pause_seconds)
