"""Calls of the REST service, shared by its clients: how they are sent, retried and read.

`Calls` has coroutines, and the clients give it the functions that send and pause. The calls of the
sync client never suspend, so `run_at_once` runs them without an event loop.
"""

import dataclasses
import ipaddress
import math
import random
import ssl
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

import httpx
import pydantic

from serving import errors, redis_address, requests
from serving.requests import (
    Answer,
    Event,
    EventBatch,
    EventFields,
    EventsAdded,
    Request,
    RequestFields,
    UserDeleted,
    UserId,
    UserProfile,
)

_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=pydantic.BaseModel)

DEFAULT_TIMEOUT_SECONDS = 10.0
# Share of the caller's timeout that the service gets as its deadline, so that an answer in
# retrieval order arrives before the caller gives up.
_DEADLINE_SHARE = 0.9
# Below the 5 s after which many proxies close idle connections, so that none is reused just then.
_KEEPALIVE_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a call is retried. All attempts of a call share the client's timeout.

    A refused or broken connection, 429 and 503 are retried: all calls of this service are
    idempotent. A call that timed out is not retried.

    Attributes:
        attempts: Maximum number of attempts, including the first; 1 disables retries.
        pause_seconds: Pause before the second attempt. It doubles with each attempt, and half of
            it is random, so that clients that failed together do not retry together.
        max_pause_seconds: Maximum pause between two attempts.

    Raises:
        TfrecClientError: attempts is not valid.
    """

    attempts: int = 3
    pause_seconds: float = 0.05
    max_pause_seconds: float = 2.0

    def __post_init__(self) -> None:
        # A bool is an int, too.
        if type(self.attempts) is not int or self.attempts < 1:
            raise errors.TfrecClientError(
                f"attempts: expected an integer of at least 1, got {self.attempts!r}."
            )


def options(
    base_url: str, token: str | None, verify: bool | str, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the arguments of httpx's clients.

    Args:
        base_url: URL of the service, such as `http://127.0.0.1:8080`.
        token: Bearer token of the service, or None.
        verify: Whether the certificate is verified, or a PEM file with the authorities to trust.
        timeout_seconds: Timeout of a call.

    Raises:
        TfrecClientError: base_url, token, timeout_seconds or the PEM file is not valid.
    """
    if not isinstance(timeout_seconds, int | float) or not 0 < timeout_seconds < math.inf:
        raise errors.TfrecClientError(
            f"timeout_seconds: expected a number of seconds above 0, got {timeout_seconds!r}."
        )
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        # The token stays secret.
        raise errors.TfrecClientError(
            f"token: expected printable ASCII characters without spaces; one of its {len(token)} "
            "characters is different. If it comes from a file, remove the line break with strip()."
        )
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise _bad_url(base_url) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _bad_url(base_url)
    context: bool | ssl.SSLContext = False
    if isinstance(verify, str):
        try:
            context = ssl.create_default_context(cafile=verify)
        except (OSError, ssl.SSLError) as error:
            raise errors.TfrecClientError(
                f"Expected a PEM file of certificates to trust, got {verify!r} ({error}). "
                "Name another file."
            ) from error
    elif verify is not False:
        # With the certificates of SSL_CERT_FILE, which trust_env=False would ignore.
        context = httpx.create_ssl_context()
    return {
        "base_url": url,
        "timeout": timeout_seconds,
        "limits": httpx.Limits(keepalive_expiry=_KEEPALIVE_SECONDS),
        "headers": {"authorization": f"Bearer {token}"} if token else {},
        "verify": context,
        # A proxy (http_proxy) cannot reach the loopback interface of this host.
        "trust_env": not _is_loopback(url.host),
    }


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def event_batch(events: Iterable[Event | EventFields]) -> EventBatch:
    """Returns events as a batch.

    Raises:
        ClientRequestError: An event is refused.
    """
    return _parsed(EventBatch, {"events": list(events)})


def request_of(request: Request | None, fields: Mapping[str, Any]) -> Request:
    """Returns a request with the given fields, which override the fields of `request`.

    Raises:
        ClientRequestError: A field is unknown, or its value is refused.
    """
    return _parsed(Request, {**dict(request or {}), **fields})


def requests_of(batch: Iterable[Request | RequestFields]) -> list[Request]:
    """Returns requests, some of which may be given as JSON objects.

    Raises:
        ClientRequestError: A request is refused.
    """
    return [_parsed(Request, value, f"requests[{number}]") for number, value in enumerate(batch)]


def _parsed(model: type[_Model], value: Any, place: str = "") -> _Model:
    """Parses a value like `requests.parse`; raises the error of a refusal by a service."""
    try:
        return requests.parse(model, value, place)
    except errors.InvalidRequestError as error:
        raise refused(error) from error


def refused(error: errors.InvalidRequestError) -> errors.ClientRequestError:
    """Returns the error that clients raise if a service refuses the request."""
    return errors.ClientRequestError(error.status, error.code, str(error))


def closed() -> errors.TfrecClientError:
    """Returns the error of a client that is used after it was closed."""
    return errors.TfrecClientError("The client is closed. Create another.")


# Codes of a service that is healthy but not ready.
_NOT_READY = ("not_ready", "draining")


class Calls:
    """The calls of one service as coroutines; `client.Client` has their arguments and errors.

    Args:
        http: Client of httpx.
        send: Sends a request, given the arguments of httpx's `request`.
        pause: Waits the given seconds.
        retry: When a call is retried. None: the defaults.
        timeout_seconds: Timeout of a call with all its attempts.
        clock: Returns seconds.
    """

    def __init__(
        self,
        http: httpx.Client | httpx.AsyncClient,
        send: Callable[[dict[str, Any]], Awaitable[httpx.Response]],
        pause: Callable[[float], Awaitable[None]],
        retry: Retry | None,
        timeout_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        self._http = http
        self._send = send
        self._pause = pause
        self._retry = retry or Retry()
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    async def recommend(
        self, request: Request | None = None, **fields: Unpack[RequestFields]
    ) -> Answer:
        """Returns the best ads for one request."""
        body = _body(request_of(request, fields))
        document = await self._call("POST", "/v1/recommend", body, _deadline_ms([body]))
        return _answer_to(body, document)

    async def recommend_batch(self, batch: Iterable[Request | RequestFields]) -> list[Answer]:
        """Returns the answers to many requests, in the same order."""
        bodies = [_body(request) for request in requests_of(batch)]
        document = await self._call(
            "POST", "/v1/recommend/batch", {"requests": bodies}, _deadline_ms(bodies)
        )
        answers = document.get("responses")
        if not isinstance(answers, list) or len(answers) != len(bodies):
            raise errors.ClientReplyError(
                f"Expected {len(bodies)} responses, got {str(document)[:200]}."
            )
        return [_answer_to(body, item) for body, item in zip(bodies, answers, strict=True)]

    async def add_events(self, events: Iterable[Event | EventFields]) -> EventsAdded:
        """Adds events to the histories of users."""
        batch = event_batch(events)
        body = {"events": [event.model_dump(exclude_none=True) for event in batch.events]}
        return _read(EventsAdded, await self._call("POST", "/v1/events", body))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Replaces the profile of a user."""
        known = _parsed(UserProfile, {"profile": profile})
        await self._call("PUT", _user_path(user_id), {"profile": known.profile})

    async def get_user(self, user_id: str) -> dict[str, Any]:
        """Returns the stored data of a user: profile, actions and impressions."""
        return await self._call("GET", _user_path(user_id))

    async def delete_user(self, user_id: str) -> bool:
        """Erases a user from the user store; returns whether it had anything of the user."""
        return _read(UserDeleted, await self._call("DELETE", _user_path(user_id))).deleted

    async def bundle(self) -> dict[str, Any]:
        """Describes the served release."""
        return await self._call("GET", "/v1/bundle")

    async def health(self) -> bool:
        """Returns whether the service answers."""
        return (await self._call("GET", "/healthz")).get("status") == "ok"

    async def ready(self) -> bool:
        """Returns whether the service expects to give full answers."""
        try:
            reply = await self._call("GET", "/readyz", is_retried=False)
        except errors.ClientServiceError as error:
            if error.code in _NOT_READY:
                return False
            raise
        return reply.get("status") == "ready"

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        max_deadline_ms: float = requests.MAX_DEADLINE_MS,
        is_retried: bool = True,
    ) -> dict[str, Any]:
        """Runs a call with all its attempts and returns the JSON object of the response.

        Args:
            method: HTTP method.
            path: Path of the route.
            body: JSON object, or None.
            max_deadline_ms: Longest deadline of the requests in the body, in milliseconds.
            is_retried: Whether to retry after a failure. False: a 503 is an answer.
        """
        if self._http.is_closed:
            raise closed()
        base_url = redis_address.without_secrets(str(self._http.base_url))
        place = f"{method} {base_url.rstrip('/')}{path}"
        end = self._clock() + self._timeout_seconds
        pause_seconds = self._retry.pause_seconds
        for attempt in range(1, self._retry.attempts + 1):
            remaining = end - self._clock()
            deadline_ms = max(1.0, min(remaining * 1000 * _DEADLINE_SHARE, max_deadline_ms))
            arguments = {
                "method": method,
                "url": path,
                "json": body,
                "timeout": max(remaining, 0.001),
                "headers": {"x-deadline-ms": f"{deadline_ms:.0f}"},
            }
            outcome: httpx.Response | Exception
            try:
                outcome = await self._send(arguments)
            except (httpx.RequestError, ValueError, TypeError) as error:
                outcome = error
            try:
                return _document(place, outcome, self._timeout_seconds)
            except errors.TfrecClientError as error:
                wait_seconds = _wait_seconds(outcome, pause_seconds)
                is_last = attempt == self._retry.attempts or self._clock() + wait_seconds >= end
                if is_last or not (is_retried and _is_transient(error)):
                    raise
            await self._pause(wait_seconds)
            pause_seconds = min(2 * pause_seconds, self._retry.max_pause_seconds)
        raise AssertionError("The last attempt returns or raises.")


def run_at_once(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Returns the result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("The coroutine suspended; expected one that never does.")


def _body(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request with an id, so that all attempts have the same."""
    return {"request_id": uuid.uuid4().hex, **request.to_json()}


def _deadline_ms(bodies: Sequence[Mapping[str, Any]]) -> float:
    """Returns the longest deadline of requests; the maximum if one has the service's default."""
    longest = requests.MAX_DEADLINE_MS
    return max((body.get("deadline_ms", longest) for body in bodies), default=longest)


def _user_path(user_id: str) -> str:
    known = _parsed(UserId, {"user_id": user_id}).user_id
    # A path would lose "." and "..".
    quoted = urllib.parse.quote(known, safe="").replace(".", "%2E")
    return f"/v1/users/{quoted}"


def _read(model: type[_Model], document: Mapping[str, Any]) -> _Model:
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        reason = requests.refusal(model, error.errors(include_url=False), "answer")
        raise errors.ClientReplyError(f"Expected the JSON object of an answer; {reason}") from error


def _answer_to(body: Mapping[str, Any], document: Mapping[str, Any]) -> Answer:
    answer = _read(Answer, document)
    if answer.request_id != body["request_id"]:
        raise errors.ClientReplyError(
            f"Expected the answer to request {body['request_id']!r}, got the answer to "
            f"{answer.request_id!r}. Does a proxy mix up or cache the replies?"
        )
    return answer


def _is_transient(error: errors.TfrecClientError) -> bool:
    if isinstance(error, errors.ClientStatusError):
        return error.status in (429, 503)
    return isinstance(error, errors.ClientConnectionError)


def _wait_seconds(outcome: httpx.Response | Exception, pause_seconds: float) -> float:
    wait_seconds = pause_seconds * random.uniform(0.5, 1.0)
    if isinstance(outcome, httpx.Response):
        retry_after = outcome.headers.get("retry-after", "")
        if retry_after.isdecimal():
            return max(wait_seconds, float(retry_after))
    return wait_seconds


def _bad_url(base_url: str) -> errors.TfrecClientError:
    shown = redis_address.without_secrets(base_url) if isinstance(base_url, str) else base_url
    return errors.TfrecClientError(
        f"Expected the URL of the service, such as http://127.0.0.1:8080, got {shown!r}. Correct "
        "the address."
    )


def _document(
    place: str, outcome: httpx.Response | Exception, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the JSON object of a response.

    Args:
        place: Method and URL of the call, for error messages.
        outcome: Response, or the error of httpx.
        timeout_seconds: Timeout of the call.

    Raises:
        TfrecClientError: As `serving.client.Client.recommend` describes.
    """
    if isinstance(outcome, httpx.TimeoutException):
        raise errors.ClientTimeoutError(
            f"{place}: no answer within {timeout_seconds} s. "
            "Give the client a longer timeout_seconds, or the request a deadline_ms."
        ) from outcome
    if isinstance(outcome, httpx.RequestError):
        raise errors.ClientConnectionError(
            f"{place}: {str(outcome).rstrip('.')}. Is the service running at this address?"
        ) from outcome
    if not isinstance(outcome, httpx.Response):
        raise errors.TfrecClientError(
            f"{place}: the request cannot be sent as JSON: {outcome}. Send strings, finite "
            "numbers, lists of them, or None for a missing value."
        ) from outcome
    try:
        found = outcome.json()
    except ValueError as error:
        raise errors.ClientReplyError(_not_a_service(place, outcome)) from error
    if not isinstance(found, dict):
        raise errors.ClientReplyError(_not_a_service(place, outcome))
    if not outcome.is_success:
        raise _status_error(place, outcome, found)
    return found


def _status_error(
    place: str, reply: httpx.Response, document: Mapping[str, Any]
) -> errors.TfrecClientError:
    match document:
        case {"error": {"code": str(code), "message": str(message)}}:
            kind: type[errors.ClientStatusError] = errors.ClientRequestError
            if reply.status_code == 429:
                kind = errors.ClientOverloadedError
            elif reply.status_code >= 500:
                kind = errors.ClientServiceError
            return kind(reply.status_code, code, message)
    return errors.ClientReplyError(_not_a_service(place, reply))


def _not_a_service(place: str, reply: httpx.Response) -> str:
    return (
        f"{place}: expected a JSON object of a tfrec service, got HTTP {reply.status_code} "
        f"{reply.text[:200]!r}. Is this its address?"
    )
