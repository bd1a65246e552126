"""Python client of the REST service; it does not need TensorFlow.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.recommend(user={"country": "CH"}, k=10)
        for ad in answer.ads:
            print(ad.rank, ad.ad_id, ad.utility)

`client.AsyncClient` has the same methods for asyncio. `client.LocalClient` has them over a bundle
in this process, without a service.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, Unpack

import httpx

from serving.client import http_calls
from serving.requests import Answer, Event, EventFields, EventsAdded, Request, RequestFields


class Client:
    """Client of one service. It keeps connections open and is thread-safe.

    A forked process may use it, too, and opens its own connections.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = http_calls.DEFAULT_TIMEOUT_SECONDS,
        token: str | None = None,
        verify: bool | str = True,
        retry: http_calls.Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Creates a client, without sending anything.

        Args:
            base_url: URL of the service, such as `http://127.0.0.1:8080`.
            timeout_seconds: Timeout of a call with all its attempts. The service gets it as a
                deadline, and ranks fewer candidates or none to meet it.
            token: Bearer token of the service.
            verify: Whether the certificate of an https service is verified, or a PEM file with
                the authorities to trust.
            retry: When a call is retried; None: the defaults.
            transport: Replaces the network, for tests.
            clock: Returns seconds, for timeout_seconds.
            sleep: Waits the given seconds between two attempts.

        Raises:
            TfrecClientError: An argument is not valid.
        """
        self._options = http_calls.options(base_url, token, verify, timeout_seconds)
        self._transport = transport
        self._retry = retry
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._sleep = sleep
        self._connect()

    def _connect(self) -> None:
        self._http = httpx.Client(transport=self._transport, **self._options)
        self._process_calls = http_calls.Calls(
            self._http, self._send, self._pause, self._retry, self._timeout_seconds, self._clock
        )
        self._process_id = os.getpid()

    @property
    def _calls(self) -> http_calls.Calls:
        """The calls over this process's connections.

        Processes that share a connection after a fork would get each other's answers.
        """
        if self._process_id != os.getpid() and not self._http.is_closed:
            self._connect()
        return self._process_calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def recommend(self, request: Request | None = None, **fields: Unpack[RequestFields]) -> Answer:
        """Returns the best ads for one request.

        Args:
            request: Request; None: one with the given fields only.
            **fields: Fields of `serving.requests.Request`, such as `user`, `context`, `user_id`,
                `k`, `weights`, `filters`, `rules`, `seen`, `explain`, `dry_run`; they override
                the fields of `request`. Filters, rules and seen are models or their JSON objects.

        Raises:
            ClientRequestError: The request is refused.
            ClientOverloadedError: The service cannot answer in time.
            ClientServiceError: The service fails.
            ClientTimeoutError: The service does not answer in time.
            ClientConnectionError: The service cannot be reached.
            ClientReplyError: The reply does not come from a tfrec service, or answers another
                request.
        """
        return http_calls.run_at_once(self._calls.recommend(request, **fields))

    def recommend_batch(self, requests: Iterable[Request | RequestFields]) -> list[Answer]:
        """Returns the answers to many requests, in the same order.

        Args:
            requests: Requests, or their JSON objects with the fields of `Request`.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        return http_calls.run_at_once(self._calls.recommend_batch(requests))

    def add_events(self, events: Iterable[Event | EventFields]) -> EventsAdded:
        """Adds events to the histories of users; for a service with a user store.

        Events can be added again: events of a user with the same id count once.

        Args:
            events: Events, or their JSON objects with the fields of `serving.requests.Event`.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        return http_calls.run_at_once(self._calls.add_events(events))

    def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user; for a service with a user store.

        Args:
            user_id: Id of the user.
            profile: Raw query fields that describe the user.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        http_calls.run_at_once(self._calls.set_profile(user_id, profile))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions.

        Args:
            user_id: Id of the user.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        return http_calls.run_at_once(self._calls.get_user(user_id))

    def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user.

        Args:
            user_id: Id of the user.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        return http_calls.run_at_once(self._calls.delete_user(user_id))

    def bundle(self) -> dict[str, Any]:
        """Describes the served release: version, fields, heads, index, metrics, updates.

        Raises:
            TfrecClientError: Same as `recommend`.
        """
        return http_calls.run_at_once(self._calls.bundle())

    def health(self) -> bool:
        """Returns whether the service answers.

        Raises:
            TfrecClientError: The service does not answer.
        """
        return http_calls.run_at_once(self._calls.health())

    def ready(self) -> bool:
        """Returns whether the service expects to give full answers.

        Raises:
            TfrecClientError: The service does not answer.
        """
        return http_calls.run_at_once(self._calls.ready())

    async def _pause(self, seconds: float) -> None:
        self._sleep(seconds)

    async def _send(self, arguments: dict[str, Any]) -> httpx.Response:
        """Sends a request; httpx's timeout is per read, and an answer may arrive in many reads."""
        end = self._clock() + arguments["timeout"]
        request = self._http.build_request(**arguments)
        response = self._http.send(request, stream=True)
        parts = []
        try:
            for part in response.iter_raw():
                parts.append(part)
                if self._clock() > end:
                    raise httpx.ReadTimeout("The answer was incomplete.", request=request)
        finally:
            response.close()
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=b"".join(parts),
            request=request,
        )
