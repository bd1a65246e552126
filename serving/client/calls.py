"""What the HTTP clients share: the calls of the REST service, their retries and their replies."""

import random
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import pydantic

from serving import errors, requests
from serving.requests import (
    MAX_DEADLINE_MS,
    Answer,
    Event,
    EventBatch,
    Request,
    UserId,
    UserProfile,
)

_Model = TypeVar("_Model", bound=pydantic.BaseModel)

# Share of the caller's timeout that the service gets as its deadline, so that an answer in
# retrieval order arrives before the caller gives up.
_DEADLINE_SHARE = 0.9
# Below the 5 s after which many proxies close idle connections, so that none is reused just then.
_KEEPALIVE_SECONDS = 4.0
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 2.0
# Its 503 is an answer.
READY = "/readyz"
_NOT_READY = ("not_ready", "draining")


def options(
    base_url: str, timeout_seconds: float, token: str | None, verify: bool | str
) -> dict[str, Any]:
    """Returns the arguments of httpx's clients; see `client.Client`."""
    if not timeout_seconds > 0:
        raise errors.TfrecClientError(
            f"timeout_seconds: expected a number above 0, got {timeout_seconds!r}."
        )
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        # The token stays secret.
        raise errors.TfrecClientError(
            "token: expected printable ASCII without spaces. If it comes from a file, remove the "
            "line break with strip()."
        )
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise errors.TfrecClientError(f"base_url: {error}; got {base_url!r}.") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise errors.TfrecClientError(
            f"base_url: expected a URL such as http://127.0.0.1:8080, got {url!r}."
        )
    return {
        "base_url": url,
        "limits": httpx.Limits(keepalive_expiry=_KEEPALIVE_SECONDS),
        "headers": {"authorization": f"Bearer {token}"} if token else {},
        "verify": httpx.create_ssl_context(verify) if url.scheme == "https" else False,
        # A proxy (http_proxy) cannot reach the loopback interface of this host.
        "trust_env": url.host not in ("localhost", "127.0.0.1", "::1"),
    }


class Attempts:
    """The attempts of a call, which share the client's timeout.

    A broken connection, 429 and 503 are retried: all calls of the service are idempotent. A call
    that timed out is not.
    """

    def __init__(
        self,
        url: httpx.URL,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_seconds: float,
        attempts: int,
    ) -> None:
        self._method = method
        self._path = path
        self._place = f"{method} {url.copy_with(userinfo=b'')}{path}"
        self._body = body
        self._timeout_seconds = timeout_seconds
        self._left = 1 if path == READY else attempts
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._end = time.monotonic() + timeout_seconds
        bodies = (body or {}).get("requests", [body or {}])
        deadlines = [one.get("deadline_ms", MAX_DEADLINE_MS) for one in bodies]
        self._longest_deadline_ms = max(deadlines, default=MAX_DEADLINE_MS)

    def request(self) -> dict[str, Any]:
        """Returns httpx's arguments for the next attempt."""
        remaining = max(self._end - time.monotonic(), 0.001)
        deadline_ms = min(remaining * 1000 * _DEADLINE_SHARE, self._longest_deadline_ms)
        return {
            "method": self._method,
            "url": self._path,
            "json": self._body,
            "headers": {"x-deadline-ms": f"{max(1.0, deadline_ms):.0f}"},
            "timeout": remaining,
        }

    def pause_seconds(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Returns the pause before the next attempt, or None if the outcome is final."""
        self._left -= 1
        # Half of it is random, so that clients that failed together do not retry together.
        seconds = self._pause_seconds * random.uniform(0.5, 1.0)
        self._pause_seconds = min(2 * self._pause_seconds, _MAX_PAUSE_SECONDS)
        if isinstance(outcome, httpx.Response):
            is_transient = outcome.status_code in (429, 503)
            retry_after = outcome.headers.get("retry-after", "")
            if retry_after.isdecimal():
                seconds = max(seconds, float(retry_after))
        else:
            is_transient = not isinstance(outcome, httpx.TimeoutException)
        has_time = time.monotonic() + seconds < self._end
        return seconds if is_transient and self._left > 0 and has_time else None

    def document(self, outcome: httpx.Response | httpx.RequestError) -> dict[str, Any]:
        """Returns the JSON object of the reply, or raises the error of the call."""
        if isinstance(outcome, httpx.TimeoutException):
            raise errors.ClientTimeoutError(
                f"{self._place}: no answer within {self._timeout_seconds} s. Give the client a "
                "longer timeout_seconds, or the request a deadline_ms."
            ) from outcome
        if isinstance(outcome, httpx.RequestError):
            raise errors.ClientConnectionError(
                f"{self._place}: {outcome}. Is the service running at this address?"
            ) from outcome
        try:
            document = outcome.json()
        except ValueError:
            document = None
        match document:
            case {"error": {"code": code}} if self._path == READY and code in _NOT_READY:
                return document
            case {"error": {"code": str(code), "message": str(message)}}:
                raise _class_of(outcome.status_code)(outcome.status_code, code, message)
            case dict() if outcome.is_success:
                return document
        raise errors.ClientReplyError(
            f"{self._place}: expected a JSON object of a tfrec service, got HTTP "
            f"{outcome.status_code} {outcome.text[:200]!r}. Is this its address?"
        )


def _class_of(status: int) -> type[errors.ClientStatusError]:
    if status == 429:
        return errors.ClientOverloadedError
    return errors.ClientServiceError if status >= 500 else errors.ClientRequestError


def body_of(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request with an id, so that all attempts have the same."""
    return {"request_id": uuid.uuid4().hex, **request.to_json()}


def events_body(events: Iterable[Event | Mapping[str, Any]]) -> dict[str, Any]:
    batch = event_batch(events)
    return {"events": [event.model_dump(exclude_none=True) for event in batch.events]}


def profile_body(profile: Mapping[str, Any]) -> dict[str, Any]:
    return {"profile": parsed(UserProfile, {"profile": profile}).profile}


def user_path(user_id: str) -> str:
    known = parsed(UserId, {"user_id": user_id}).user_id
    # A path would lose "." and "..".
    return "/v1/users/" + urllib.parse.quote(known, safe="").replace(".", "%2E")


def read(model: type[_Model], document: Mapping[str, Any]) -> _Model:
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        raise errors.ClientReplyError(f"The answer is not valid: {error}") from error


def answer_to(body: Mapping[str, Any], document: Mapping[str, Any]) -> Answer:
    answer = read(Answer, document)
    if answer.request_id != body["request_id"]:
        raise errors.ClientReplyError(
            f"Expected the answer to request {body['request_id']!r}, got the answer to "
            f"{answer.request_id!r}. Does a proxy mix up or cache the replies?"
        )
    return answer


def outcomes_of(
    bodies: Sequence[Mapping[str, Any]], document: Mapping[str, Any]
) -> list[Answer | errors.ClientStatusError]:
    """Returns the answer to each request of a batch, or the error that refused it."""
    outcomes = document.get("responses")
    if not isinstance(outcomes, list) or len(outcomes) != len(bodies):
        raise errors.ClientReplyError(
            f"Expected {len(bodies)} responses, got {str(document)[:200]}."
        )
    return [_outcome_of(body, outcome) for body, outcome in zip(bodies, outcomes, strict=True)]


def _outcome_of(
    body: Mapping[str, Any], outcome: Mapping[str, Any]
) -> Answer | errors.ClientStatusError:
    match outcome:
        case {"error": {"code": str(code), "message": str(message)}}:
            return error_of(code, message)
    return answer_to(body, outcome)


def error_of(code: str, message: str) -> errors.ClientStatusError:
    """Returns the error of a request that a service refuses or cannot answer."""
    status = {"invalid_request": 422, "overloaded": 429}.get(code, 503)
    return _class_of(status)(status, code, message)


def request_of(request: Request | None, fields: Mapping[str, Any]) -> Request:
    """Returns a request with the given fields, which override the fields of `request`."""
    return parsed(Request, {**dict(request or {}), **fields})


def requests_of(batch: Iterable[Request | Mapping[str, Any]]) -> list[Request]:
    return [parsed(Request, value, f"requests[{number}]") for number, value in enumerate(batch)]


def event_batch(events: Iterable[Event | Mapping[str, Any]]) -> EventBatch:
    return parsed(EventBatch, {"events": list(events)})


def parsed(model: type[_Model], value: Any, place: str = "") -> _Model:
    """Parses a value; raises the `ClientRequestError` of a refusal by a service."""
    try:
        return requests.parse(model, value, place)
    except errors.InvalidRequestError as error:
        raise error_of(error.code, str(error)) from error
