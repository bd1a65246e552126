"""Python client of the REST service; it does not need TensorFlow.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.recommend(user={"country": "CH"}, k=10)
        for ad in answer.ads:
            print(ad.rank, ad.ad_id, ad.utility)

`client.AsyncClient` has the same methods for asyncio. `client.LocalClient` has them over a bundle
in this process, without a service.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Self

import httpx

from serving.client import calls
from serving.errors import ClientStatusError
from serving.requests import Answer, Event, EventsAdded, Request, UserDeleted


class Client:
    """Client of one service. It keeps connections open and is thread-safe.

    Processes must not share a client: create one in each.
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
        """Creates a client, without sending anything.

        Args:
            base_url: URL of the service, such as `http://127.0.0.1:8080`.
            timeout_seconds: Timeout of a call with all its attempts. The service gets it as a
                deadline, and ranks fewer candidates or none to meet it.
            token: Bearer token of the service.
            verify: Whether the certificate of an https service is verified, or a PEM file with
                the authorities to trust.
            attempts: Maximum number of attempts of a call. A broken connection, 429 and 503 are
                retried, after the pause that the service asks for.

        Raises:
            TfrecClientError: An argument is not valid.
        """
        self._http = httpx.Client(**calls.options(base_url, timeout_seconds, token, verify))
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def recommend(self, request: Request | None = None, **fields: Any) -> Answer:
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
        body = calls.body_of(calls.request_of(request, fields))
        return calls.answer_to(body, self._call("POST", "/v1/recommend", body))

    def recommend_batch(
        self, requests: Iterable[Request | Mapping[str, Any]]
    ) -> list[Answer | ClientStatusError]:
        """Returns the outcome of each request, or of its JSON object, in the same order.

        It is the answer, or the error that `recommend` would raise for this request: one that is
        refused does not affect the others.
        """
        bodies = [calls.body_of(request) for request in calls.requests_of(requests)]
        path = "/v1/recommend/batch"
        return calls.outcomes_of(bodies, self._call("POST", path, {"requests": bodies}))

    def add_events(self, events: Iterable[Event | Mapping[str, Any]]) -> EventsAdded:
        """Adds events, or their JSON objects, to the histories of users in the user store.

        Events can be added again: events of a user with the same id count once.
        """
        body = calls.events_body(events)
        return calls.read(EventsAdded, self._call("POST", "/v1/events", body))

    def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user, raw query fields, in the user store."""
        self._call("PUT", calls.user_path(user_id), calls.profile_body(profile))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return self._call("GET", calls.user_path(user_id))

    def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        document = self._call("DELETE", calls.user_path(user_id))
        return calls.read(UserDeleted, document).deleted

    def bundle(self) -> dict[str, Any]:
        """Describes the served release: version, fields, heads, index, metrics, updates."""
        return self._call("GET", "/v1/bundle")

    def health(self) -> bool:
        """Returns whether the service is alive; raises `TfrecClientError` without an answer."""
        return self._call("GET", "/healthz").get("status") == "ok"

    def ready(self) -> bool:
        """Returns whether the service expects to give full answers."""
        return self._call("GET", calls.READY).get("status") == "ready"

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        url, timeout = self._http.base_url, self._timeout_seconds
        attempts = calls.Attempts(url, method, path, body, timeout, self._attempts)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.request(**attempts.request())
            except httpx.RequestError as error:
                outcome = error
            pause_seconds = attempts.pause_seconds(outcome)
            if pause_seconds is None:
                return attempts.document(outcome)
            time.sleep(pause_seconds)
