"""Calls of the REST service, shared by its clients: how they are sent, retried and read.

`exchange` is a coroutine, and the clients give it the functions that send and pause. Those of the
sync client never suspend, so `run_at_once` runs it without an event loop.
"""

import dataclasses
import math
import random
import ssl
import urllib.parse
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import httpx
import pydantic

from serving import errors, requests
from serving.requests import (
    Answer,
    Event,
    EventBatch,
    EventFields,
    EventsAdded,
    Request,
    UserDeleted,
)

_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=pydantic.BaseModel)

DEFAULT_TIMEOUT_SECONDS = 10.0
# Share of the caller's time-out that the service gets as its deadline, so that an answer in
# retrieval order arrives before the caller gives up.
_DEADLINE_SHARE = 0.9
# Below the 5 s of uvicorn, so that no connection is reused that the service is about to close.
_KEEPALIVE_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a call is retried. All attempts of a call share the client's timeout.

    A refused or broken connection, 429 and 503 are retried: every call of this service reads, or
    can be made again. A call that timed out is not retried.

    Attributes:
        attempts: Maximum number of attempts, including the first; 1 disables retries.
        pause_seconds: Pause before the second attempt. It doubles with each attempt, and half of
            it is random, so that clients that failed together do not retry together.
        max_pause_seconds: Maximum pause between two attempts.
    """

    attempts: int = 3
    pause_seconds: float = 0.05
    max_pause_seconds: float = 2.0


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the service.

    Attributes:
        method: HTTP method.
        path: Path of the route.
        body: JSON object, or None.
        is_retried: Whether a 503 is retried; it is not if it is the answer.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    is_retried: bool = True


def options(
    base_url: str, token: str | None, verify: bool | str, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the arguments of httpx's clients.

    Args:
        base_url: URL of the service, such as `http://127.0.0.1:8080`.
        token: Bearer token of the service, or None.
        verify: Whether the certificate is verified, or a PEM file with the authorities to trust.
        timeout_seconds: Time-out of a call.

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
            f"token: expected printable ASCII characters without spaces, got {len(token)} "
            "characters with others. A file ends with a line break: remove it with strip()."
        )
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise _bad_url(base_url) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _bad_url(base_url)
    context: bool | ssl.SSLContext = verify is not False
    if isinstance(verify, str):
        try:
            context = ssl.create_default_context(cafile=verify)
        except (OSError, ssl.SSLError) as error:
            raise errors.TfrecClientError(
                f"verify: expected a PEM file of certificates, got {verify!r}: {error}."
            ) from error
    return {
        "base_url": url,
        "timeout": timeout_seconds,
        "limits": httpx.Limits(keepalive_expiry=_KEEPALIVE_SECONDS),
        "headers": {"authorization": f"Bearer {token}"} if token else {},
        "verify": context,
    }


def recommend(request: Request) -> Call:
    """Returns the call for one request; it gets an id, so that all attempts have the same."""
    body = request.to_json()
    body.setdefault("request_id", uuid.uuid4().hex)
    return Call("POST", "/v1/recommend", body)


def recommend_batch(batch: Iterable[Request]) -> Call:
    """Returns the call for many requests."""
    body = {"requests": [recommend(request).body for request in batch]}
    return Call("POST", "/v1/recommend/batch", body)


def add_events(events: Iterable[Event | EventFields]) -> Call:
    """Returns the call that adds events.

    Raises:
        ClientRequestError: An event is refused.
    """
    batch = event_batch(events)
    body = {"events": [event.model_dump(exclude_none=True) for event in batch.events]}
    return Call("POST", "/v1/events", body)


def set_profile(user_id: str, profile: Mapping[str, Any]) -> Call:
    """Returns the call that replaces the profile of a user."""
    return Call("PUT", _user_path(user_id), {"profile": dict(profile)})


def delete_user(user_id: str) -> Call:
    """Returns the call that erases a user."""
    return Call("DELETE", _user_path(user_id))


def _user_path(user_id: str) -> str:
    return f"/v1/users/{urllib.parse.quote(user_id, safe='')}"


def event_batch(events: Iterable[Event | EventFields]) -> EventBatch:
    """Returns events as a batch.

    Raises:
        ClientRequestError: An event is refused.
    """
    try:
        return requests.parse(EventBatch, {"events": list(events)})
    except errors.InvalidRequestError as error:
        raise refused(error) from error


def read_added(document: Mapping[str, Any]) -> EventsAdded:
    """Reads what became of events.

    Raises:
        ClientReplyError: The document is not of that kind.
    """
    return _read(EventsAdded, document)


def read_deleted(document: Mapping[str, Any]) -> bool:
    """Reads whether a user was erased.

    Raises:
        ClientReplyError: The document is not of that kind.
    """
    return _read(UserDeleted, document).deleted


def read_answer(document: Mapping[str, Any]) -> Answer:
    """Reads an answer.

    Raises:
        ClientReplyError: The document is not an answer.
    """
    return _read(Answer, document)


def _read(model: type[_Model], document: Mapping[str, Any]) -> _Model:
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        reason = requests.refusal(model, error.errors(include_url=False), "answer")
        raise errors.ClientReplyError(f"Expected the JSON object of an answer; {reason}") from error


def read_batch(body: Mapping[str, Any] | None, document: Mapping[str, Any]) -> list[Answer]:
    """Reads the answers of a batch, given the body of its request.

    Raises:
        ClientReplyError: The number of answers is not that of the requests.
    """
    answers = document.get("responses")
    expected = len((body or {})["requests"])
    if not isinstance(answers, list) or len(answers) != expected:
        raise errors.ClientReplyError(f"Expected {expected} responses, got {str(document)[:200]}.")
    return [read_answer(item) for item in answers]


def request_of(request: Request | None, fields: Mapping[str, Any]) -> Request:
    """Returns a request with the given fields, which override those of `request`.

    Raises:
        ClientRequestError: A field is unknown, or its value is refused.
    """
    try:
        return requests.parse(Request, {**dict(request or {}), **fields})
    except errors.InvalidRequestError as error:
        raise refused(error) from error


def refused(error: errors.InvalidRequestError) -> errors.ClientRequestError:
    """Returns the error that a service's refusal of a request raises."""
    return errors.ClientRequestError(error.status, error.code, str(error))


def closed() -> errors.TfrecClientError:
    """Returns the error of a client that is used after it was closed."""
    return errors.TfrecClientError("The client is closed. Create another.")


BUNDLE = Call("GET", "/v1/bundle")
HEALTH = Call("GET", "/healthz")
READY = Call("GET", "/readyz", is_retried=False)
# Codes of a service that is healthy but not ready.
NOT_READY = ("not_ready", "draining")


async def exchange(
    call: Call,
    http: httpx.Client | httpx.AsyncClient,
    send: Callable[[dict[str, Any]], Awaitable[httpx.Response]],
    pause: Callable[[float], Awaitable[None]],
    retry: Retry,
    timeout_seconds: float,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """Runs a call with all its attempts and returns the JSON object of the response.

    Args:
        call: Call to run.
        http: Client of httpx.
        send: Sends a request, given the arguments of httpx's `request`.
        pause: Waits the given seconds.
        retry: When the call is retried.
        timeout_seconds: Time-out of the call.
        clock: Returns seconds.

    Raises:
        TfrecClientError: As `serving.client.Client.recommend` describes.
    """
    if http.is_closed:
        raise closed()
    base_url = http.base_url
    place = f"{call.method} {str(base_url).rstrip('/')}{call.path}"
    end = clock() + timeout_seconds
    pause_seconds = retry.pause_seconds
    for attempt in range(1, retry.attempts + 1):
        remaining = end - clock()
        deadline_ms = max(1.0, min(remaining * 1000 * _DEADLINE_SHARE, requests.MAX_DEADLINE_MS))
        arguments = {
            "method": call.method,
            "url": call.path,
            "json": call.body,
            "timeout": max(remaining, 0.001),
            "headers": {"x-deadline-ms": f"{deadline_ms:.0f}"},
        }
        outcome: httpx.Response | Exception
        try:
            outcome = await send(arguments)
        except (httpx.RequestError, ValueError, TypeError) as error:
            outcome = error
        try:
            return _document(place, outcome, timeout_seconds)
        except errors.TfrecClientError as error:
            wait = _wait(outcome, pause_seconds)
            is_last = attempt == retry.attempts or clock() + wait >= end
            if is_last or not (call.is_retried and _may_pass(error)):
                raise
        await pause(wait)
        pause_seconds = min(2 * pause_seconds, retry.max_pause_seconds)
    raise ValueError(f"attempts: expected at least 1, got {retry.attempts}.")


def run_at_once(coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """Returns the result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("The coroutine suspended, expected one that runs to its end at once.")


def _may_pass(error: errors.TfrecClientError) -> bool:
    if isinstance(error, errors.ClientStatusError):
        return error.status in (429, 503)
    return isinstance(error, errors.ClientConnectionError)


def _wait(outcome: httpx.Response | Exception, pause: float) -> float:
    wait = pause * random.uniform(0.5, 1.0)
    if isinstance(outcome, httpx.Response):
        asked = outcome.headers.get("retry-after", "")
        return max(wait, float(asked)) if asked.isdigit() else wait
    return wait


def _bad_url(base_url: str) -> errors.TfrecClientError:
    return errors.TfrecClientError(
        f"base_url: expected a URL such as http://127.0.0.1:8000, got {base_url!r}."
    )


def _document(
    place: str, outcome: httpx.Response | Exception, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the JSON object of a response.

    Args:
        place: Method and URL of the call, for error messages.
        outcome: Response, or what httpx raised.
        timeout_seconds: Time-out of the call.

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
            f"{place}: the request cannot be sent as JSON: {outcome}."
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
