"""Client of the REST service for asyncio; it does not need TensorFlow.

async with AsyncClient("http://127.0.0.1:8080") as client:
    answer = await client.recommend(user={"country": "CH"}, k=10)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from serving import errors
from serving.client import http_calls
from serving.requests import Answer, Event, EventFields, EventsAdded, Request, RequestFields


class AsyncClient:
    """Client of one service for one event loop, with the methods of `client.Client` as coroutines.

    It keeps connections open. Arguments and errors are those of `client.Client`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = http_calls.DEFAULT_TIMEOUT_SECONDS,
        token: str | None = None,
        verify: bool | str = True,
        retry: http_calls.Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Creates a client; arguments and errors as for `client.Client`."""
        options = http_calls.options(base_url, token, verify, timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._retry = retry or http_calls.Retry()
        self._clock = clock
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def recommend(
        self, request: Request | None = None, **fields: Unpack[RequestFields]
    ) -> Answer:
        """Asks for the best ads for one request; arguments and errors as for `client.Client`."""
        call = http_calls.recommend(http_calls.request_of(request, fields))
        return http_calls.read_answer(await self._call(call))

    async def recommend_batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Asks for the ads for many requests; returns the answers in the same order."""
        call = http_calls.recommend_batch(requests)
        return http_calls.read_batch(call.body, await self._call(call))

    async def add_events(self, events: Iterable[Event | EventFields]) -> EventsAdded:
        """Adds what users did to their histories."""
        return http_calls.read_added(await self._call(http_calls.add_events(events)))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user."""
        await self._call(http_calls.set_profile(user_id, profile))

    async def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        return http_calls.read_deleted(await self._call(http_calls.delete_user(user_id)))

    async def bundle(self) -> dict[str, Any]:
        """Returns what is served."""
        return await self._call(http_calls.BUNDLE)

    async def health(self) -> bool:
        """Returns whether the service answers."""
        return (await self._call(http_calls.HEALTH)).get("status") == "ok"

    async def ready(self) -> bool:
        """Returns whether the service expects to give full answers."""
        try:
            return (await self._call(http_calls.READY)).get("status") == "ready"
        except errors.ClientServiceError as error:
            if error.code in http_calls.NOT_READY:
                return False
            raise

    async def _call(self, call: http_calls.Call) -> dict[str, Any]:
        return await http_calls.exchange(
            call,
            self._http,
            self._send,
            self._sleep,
            self._retry,
            self._timeout_seconds,
            self._clock,
        )

    async def _send(self, arguments: dict[str, Any]) -> httpx.Response:
        """Sends a request; httpx's time-out is per read, and an answer may arrive in many reads."""
        try:
            async with asyncio.timeout(arguments["timeout"]):
                return await self._http.request(**arguments)
        except TimeoutError as error:
            raise httpx.ReadTimeout("The answer was incomplete.") from error
