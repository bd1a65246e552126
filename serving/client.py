"""The Python client of the REST service; it needs no TensorFlow.

with Client("http://127.0.0.1:8000") as client:
    answer = client.recommend(user={"country": "CH"}, k=10)
    for ad in answer.ads:
        print(ad.rank, ad.ad_id, ad.utility)
"""

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import httpx

from serving import errors, messages, rule_messages


class Client:
    """A connection to one service; kept open between calls, safe to share among threads."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_seconds: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            base_url: Such as `http://127.0.0.1:8000`.
            timeout_seconds: For connecting, sending and each wait for the answer.
            transport: Replaces the network.

        Raises:
            TfrecClientError: base_url is no URL of a service.
        """
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise _bad_url(base_url) from error
        if url.scheme not in ("http", "https") or not url.host:
            raise _bad_url(base_url)
        # Below the 5 s of uvicorn: a connection that the service is about to close is not reused.
        limits = httpx.Limits(keepalive_expiry=4.0)
        self._http = httpx.Client(
            base_url=url, timeout=timeout_seconds, transport=transport, limits=limits
        )

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
        filters: messages.Filters | Mapping[str, Any] | None = None,
        rules: rule_messages.Rules | Mapping[str, Any] | None = None,
        seen: rule_messages.Seen | Mapping[str, Any] | None = None,
        explain: bool = False,
    ) -> messages.Answer:
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

        Raises:
            ClientRequestError: The service refuses the request.
            ClientServiceError: The service fails.
            ClientTimeoutError: It does not answer in time.
            ClientConnectionError: It cannot be reached.
            ClientReplyError: What answers is no tfrec service.
        """
        request = messages.Request(
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
        )
        return _answer(self._call("POST", "/v1/recommend", request.to_json()))

    def recommend_batch(self, requests: Iterable[messages.Request]) -> list[messages.Answer]:
        """Asks for the ads of many requests; the answers come in their order.

        Raises:
            TfrecClientError: As in `recommend`.
        """
        body = {"requests": [request.to_json() for request in requests]}
        document = self._call("POST", "/v1/recommend/batch", body)
        answers = document.get("responses")
        if not isinstance(answers, list) or len(answers) != len(body["requests"]):
            raise errors.ClientReplyError(
                f"Expected {len(body['requests'])} responses, got {str(document)[:200]}."
            )
        return [_answer(answer) for answer in answers]

    def bundle(self) -> dict[str, Any]:
        """Returns what is served: version, fields, heads, index, metrics, updates.

        Raises:
            TfrecClientError: As in `recommend`.
        """
        return self._call("GET", "/v1/bundle")

    def health(self) -> bool:
        """Returns whether the service answers.

        Raises:
            TfrecClientError: It does not.
        """
        return self._call("GET", "/healthz").get("status") == "ok"

    def ready(self) -> bool:
        """Returns whether the service expects to give full answers.

        Raises:
            TfrecClientError: It cannot be asked.
        """
        try:
            return self._call("GET", "/readyz").get("status") == "ready"
        except errors.ClientServiceError as error:
            if error.code == "not_ready":
                return False
            raise

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        place = f"{method} {str(self._http.base_url).rstrip('/')}{path}"
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise errors.ClientTimeoutError(
                f"{place}: no answer within {self._http.timeout.read} s. "
                "Give the client a longer timeout_seconds, or the request a deadline_ms."
            ) from error
        except httpx.RequestError as error:
            raise errors.ClientConnectionError(
                f"{place}: {error}. Is the service running at this address?"
            ) from error
        except (ValueError, TypeError) as error:
            raise errors.TfrecClientError(
                f"{place}: the request cannot be sent as JSON: {error}."
            ) from error
        try:
            document = reply.json()
        except ValueError as error:
            raise errors.ClientReplyError(_no_service(place, reply)) from error
        if not isinstance(document, dict):
            raise errors.ClientReplyError(_no_service(place, reply))
        if not reply.is_success:
            raise _status_error(place, reply, document)
        return document


def _bad_url(base_url: str) -> errors.TfrecClientError:
    return errors.TfrecClientError(
        f"base_url: expected a URL such as http://127.0.0.1:8000, got {base_url!r}."
    )


def _status_error(
    place: str, reply: httpx.Response, document: Mapping[str, Any]
) -> errors.TfrecClientError:
    match document:
        case {"error": {"code": str(code), "message": str(message)}}:
            is_service = reply.status_code >= 500
            kind = errors.ClientServiceError if is_service else errors.ClientRequestError
            return kind(reply.status_code, code, message)
    return errors.ClientReplyError(_no_service(place, reply))


def _no_service(place: str, reply: httpx.Response) -> str:
    return (
        f"{place}: expected a JSON object of a tfrec service, got HTTP {reply.status_code} "
        f"{reply.text[:200]!r}. Is this its address?"
    )


def _answer(document: Mapping[str, Any]) -> messages.Answer:
    try:
        return messages.Answer.from_json(document)
    except ValueError as error:
        raise errors.ClientReplyError(str(error)) from error
