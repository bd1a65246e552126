"""Client of the REST service for asyncio; it does not need TensorFlow.

async with AsyncClient("http://127.0.0.1:8080") as client:
    answer = await client.recommend(user={"country": "CH"}, k=10)
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx

from serving import errors
from serving.client import http_calls


class AsyncClient(http_calls.Calls):
    """Client of one service for one event loop, with the methods of `client.Client` as coroutines.

    It keeps connections open. Arguments and errors are the same as for `client.Client`.
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
        """Creates a client; see `client.Client` for the arguments and errors."""
        options = http_calls.options(base_url, token, verify, timeout_seconds)
        self._loop: asyncio.AbstractEventLoop | None = None
        http = self._client = httpx.AsyncClient(transport=transport, **options)
        super().__init__(http, self._sent, sleep, retry, timeout_seconds, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections.

        Raises:
            TfrecClientError: They belong to another event loop.
        """
        if not self._client.is_closed:
            self._check_loop()
            await self._client.aclose()

    async def _sent(self, arguments: dict[str, Any]) -> httpx.Response:
        """Sends a request; httpx's timeout is per read, and an answer may arrive in many reads."""
        self._check_loop()
        try:
            async with asyncio.timeout(arguments["timeout"]):
                return await self._client.request(**arguments)
        except TimeoutError as error:
            raise httpx.ReadTimeout("The answer was incomplete.") from error

    def _check_loop(self) -> None:
        """Checks that the connections belong to the running event loop."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        if self._loop is not loop:
            raise errors.TfrecClientError(
                "The client belongs to the event loop of its first call, but this is a "
                "different one. Create a client in each."
            )
