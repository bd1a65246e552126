"""The Python client of the REST service; it needs no TensorFlow.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.recommend(user={"country": "CH"}, k=10)
        for ad in answer.ads:
            print(ad.rank, ad.ad_id, ad.utility)

`client.AsyncClient` has the same methods to await, and `client.LocalClient` the same
over a bundle in this process, without a service.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from serving import errors
from serving.client import client_replies, http_calls
from serving.requests import Answer, Filters, Request, Rules, Seen

Retry = http_calls.Retry


class Client:
    """A connection to one service; kept open between calls, safe to share among threads."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = http_calls.DEFAULT_TIMEOUT_SECONDS,
        token: str | None = None,
        verify: bool | str = True,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            base_url: Such as `http://127.0.0.1:8080`.
            timeout_seconds: For a call with all its attempts; the service is told, and answers
                with fewer candidates ranked, or none, rather than late.
            token: Bearer token that the service asks for.
            verify: Whether an https service's certificate is verified, or a PEM file with the
                authorities to trust.
            retry: When a call is sent again; None = the defaults.
            transport: Replaces the network.
            clock: Returns seconds; timeout_seconds goes by it.
            sleep: Waits the given seconds before a call is sent again.

        Raises:
            TfrecClientError: base_url is no URL of a service, timeout_seconds no time, token none
                that a header can hold, or verify no PEM file.
        """
        options = http_calls.options(base_url, token, verify, timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._retry = retry or Retry()
        self._clock = clock
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def recommend(
        self,
        *,
        user: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        k: int | None = None,
        weights: Mapping[str, float] | None = None,
        deadline_ms: float | None = None,
        request_id: str | None = None,
        filters: Filters | Mapping[str, Any] | None = None,
        rules: Rules | Mapping[str, Any] | None = None,
        seen: Seen | Mapping[str, Any] | None = None,
        explain: bool = False,
        release: str | None = None,
    ) -> Answer:
        """Asks for the best ads for one request.

        Args:
            user: Raw query fields that describe the user.
            context: Raw query fields that describe the situation.
            k: Ads wanted; None = the service's default.
            weights: Utility weight of each head.
            deadline_ms: Time for the service to answer; None = its default.
            request_id: Comes back in the answer.
            filters: Which ads are eligible, or the JSON object of it; None = all.
            rules: What the answer must keep to, or the JSON object of it; None = the service's.
            seen: How often the user has seen what, or the JSON object of it.
            explain: Whether the answer says why it is as it is.
            release: `stable` or `canary`, to be answered by that release.

        Raises:
            ClientRequestError: The service refuses the request.
            ClientOverloadedError: It has too much in hand.
            ClientServiceError: The service fails.
            ClientTimeoutError: It does not answer in time.
            ClientConnectionError: It cannot be reached.
            ClientReplyError: What answers is no tfrec service.
        """
        request = Request(
            user=user or {},
            context=context or {},
            k=k,
            weights=weights,
            deadline_ms=deadline_ms,
            request_id=request_id,
            filters=filters,
            rules=rules,
            seen=seen,
            explain=explain,
            release=release,
        )
        return client_replies.answer(self._call(http_calls.recommend(request)))

    def recommend_batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Asks for the ads of many requests; the answers come in their order.

        Raises:
            TfrecClientError: As in `recommend`.
        """
        call = http_calls.recommend_batch(requests)
        return client_replies.batch_answers(call.body, self._call(call))

    def bundle(self) -> dict[str, Any]:
        """Returns what is served: version, fields, heads, index, metrics, updates.

        Raises:
            TfrecClientError: As in `recommend`.
        """
        return self._call(http_calls.BUNDLE)

    def health(self) -> bool:
        """Returns whether the service answers.

        Raises:
            TfrecClientError: It does not.
        """
        return self._call(http_calls.HEALTH).get("status") == "ok"

    def ready(self) -> bool:
        """Returns whether the service expects to give full answers.

        Raises:
            TfrecClientError: It cannot be asked.
        """
        try:
            return self._call(http_calls.READY).get("status") == "ready"
        except errors.ClientServiceError as error:
            if error.code in http_calls.NOT_READY:
                return False
            raise

    def _call(self, call: http_calls.Call) -> dict[str, Any]:
        if self._http.is_closed:
            raise http_calls.closed()
        steps = http_calls.exchange(
            call, self._http.base_url, self._retry, self._timeout_seconds, self._clock
        )
        outcome: httpx.Response | Exception | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                return done.value
            if isinstance(step, http_calls.Pause):
                self._sleep(step.seconds)
                outcome = None
                continue
            try:
                outcome = self._send(step.arguments)
            except (httpx.RequestError, ValueError, TypeError) as error:
                outcome = error

    def _send(self, arguments: dict[str, Any]) -> httpx.Response:
        """Sends a request; httpx's own time-out is of each read, and an answer may drip."""
        end = self._clock() + arguments["timeout"]
        request = self._http.build_request(**arguments)
        response = self._http.send(request, stream=True)
        parts = []
        try:
            for part in response.iter_raw():
                parts.append(part)
                if self._clock() > end:
                    raise httpx.ReadTimeout("The answer was still coming.", request=request)
        finally:
            response.close()
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            content=b"".join(parts),
            request=request,
        )
