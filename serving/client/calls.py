"""What the HTTP clients share: the calls of the REST service, their retries and their replies."""

import dataclasses
import json
import random
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import httpx
import pydantic

from serving import errors, requests
from serving.requests import (
    MAX_DEADLINE_MS,
    Answer,
    Event,
    EventBatch,
    EventsAdded,
    Request,
    UserDeleted,
    UserId,
    UserProfile,
)

Result = TypeVar("Result")
_Model = TypeVar("_Model", bound=pydantic.BaseModel)

# Share of the caller's timeout that the service gets as its deadline, so that an answer in
# retrieval order arrives before the caller gives up.
_DEADLINE_SHARE = 0.9
# Below the 5 s after which many proxies close idle connections, so that none is reused just then.
_KEEPALIVE_SECONDS = 4.0
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 2.0
# Codes of a service that is healthy but not ready.
NOT_READY = ("not_ready", "draining")


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


@dataclasses.dataclass(frozen=True)
class Call(Generic[Result]):
    """One call of the service, and how to read the JSON object of its reply."""

    method: str
    path: str
    read: Callable[[dict[str, Any]], Result]
    body: Mapping[str, Any] | None = None
    max_deadline_ms: float = MAX_DEADLINE_MS
    is_retried: bool = True


def recommend(request: Request | None, fields: Mapping[str, Any]) -> Call[Answer]:
    body = _body(request_of(request, fields))

    def read(document: dict[str, Any]) -> Answer:
        return _answer_to(body, document)

    return Call("POST", "/v1/recommend", read, body, body.get("deadline_ms", MAX_DEADLINE_MS))


def recommend_batch(batch: Iterable[Request | Mapping[str, Any]]) -> Call[list[Answer]]:
    bodies = [_body(request) for request in requests_of(batch)]
    longest = max((body.get("deadline_ms", MAX_DEADLINE_MS) for body in bodies), default=1.0)

    def read(document: dict[str, Any]) -> list[Answer]:
        answers = document.get("responses")
        if not isinstance(answers, list) or len(answers) != len(bodies):
            raise errors.ClientReplyError(
                f"Expected {len(bodies)} responses, got {str(document)[:200]}."
            )
        return [_answer_to(body, answer) for body, answer in zip(bodies, answers, strict=True)]

    return Call("POST", "/v1/recommend/batch", read, {"requests": bodies}, longest)


def add_events(events: Iterable[Event | Mapping[str, Any]]) -> Call[EventsAdded]:
    batch = event_batch(events)
    body = {"events": [event.model_dump(exclude_none=True) for event in batch.events]}
    return Call("POST", "/v1/events", lambda document: _read(EventsAdded, document), body)


def set_profile(user_id: str, profile: Mapping[str, Any]) -> Call[None]:
    known = parsed(UserProfile, {"profile": profile})
    return Call("PUT", _user_path(user_id), lambda _: None, {"profile": known.profile})


def get_user(user_id: str) -> Call[dict[str, Any]]:
    return Call("GET", _user_path(user_id), lambda document: document)


def delete_user(user_id: str) -> Call[bool]:
    return Call(
        "DELETE", _user_path(user_id), lambda document: _read(UserDeleted, document).deleted
    )


BUNDLE: Call[dict[str, Any]] = Call("GET", "/v1/bundle", lambda document: document)
HEALTH: Call[bool] = Call("GET", "/healthz", lambda document: document.get("status") == "ok")
# Its 503 is an answer.
READY: Call[bool] = Call(
    "GET", "/readyz", lambda document: document.get("status") == "ready", is_retried=False
)


class Attempts(Generic[Result]):
    """The attempts of a call, which share the client's timeout.

    A broken connection, 429 and 503 are retried: all calls of the service are idempotent. A call
    that timed out is not.
    """

    def __init__(self, call: Call[Result], url: httpx.URL, timeout: float, attempts: int) -> None:
        self._call = call
        self._place = f"{call.method} {url.copy_with(userinfo=b'', path=call.path)}"
        self._timeout = timeout
        self._left = attempts if call.is_retried else 1
        self._pause = _FIRST_PAUSE_SECONDS
        self._end = time.monotonic() + timeout
        try:
            self._content = json.dumps(call.body, allow_nan=False) if call.body else None
        except (TypeError, ValueError) as error:
            raise errors.TfrecClientError(
                f"The request cannot be sent as JSON: {error}. Send strings, finite numbers, lists "
                "of them, or None for a missing value."
            ) from error

    def request(self) -> dict[str, Any]:
        """Returns httpx's arguments for the next attempt."""
        remaining = max(self._end - time.monotonic(), 0.001)
        deadline_ms = min(remaining * 1000 * _DEADLINE_SHARE, self._call.max_deadline_ms)
        headers = {"x-deadline-ms": f"{max(1.0, deadline_ms):.0f}"}
        if self._content is not None:
            headers["content-type"] = "application/json"
        return {
            "method": self._call.method,
            "url": self._call.path,
            "content": self._content,
            "headers": headers,
            "timeout": remaining,
        }

    def pause_seconds(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Returns the pause before the next attempt, or None if the outcome is final."""
        self._left -= 1
        # Half of it is random, so that clients that failed together do not retry together.
        seconds = self._pause * random.uniform(0.5, 1.0)
        self._pause = min(2 * self._pause, _MAX_PAUSE_SECONDS)
        if isinstance(outcome, httpx.Response):
            is_transient = outcome.status_code in (429, 503)
            retry_after = outcome.headers.get("retry-after", "")
            if retry_after.isdecimal():
                seconds = max(seconds, float(retry_after))
        else:
            is_transient = not isinstance(outcome, httpx.TimeoutException)
        has_time = time.monotonic() + seconds < self._end
        return seconds if is_transient and self._left > 0 and has_time else None

    def result(self, outcome: httpx.Response | httpx.RequestError) -> Result:
        """Returns the result of the call, or raises its error."""
        if isinstance(outcome, httpx.TimeoutException):
            raise errors.ClientTimeoutError(
                f"{self._place}: no answer within {self._timeout} s. Give the client a longer "
                "timeout_seconds, or the request a deadline_ms."
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
            case {"error": {"code": str(code), "message": str(message)}}:
                raise _error_of(outcome.status_code)(outcome.status_code, code, message)
            case dict() if outcome.is_success:
                return self._call.read(document)
        raise errors.ClientReplyError(
            f"{self._place}: expected a JSON object of a tfrec service, got HTTP "
            f"{outcome.status_code} {outcome.text[:200]!r}. Is this its address?"
        )


def _error_of(status: int) -> type[errors.ClientStatusError]:
    if status == 429:
        return errors.ClientOverloadedError
    return errors.ClientServiceError if status >= 500 else errors.ClientRequestError


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
        raise refused(error) from error


def refused(error: errors.InvalidRequestError) -> errors.ClientRequestError:
    return errors.ClientRequestError(error.status, error.code, str(error))


def _body(request: Request) -> dict[str, Any]:
    """Returns the JSON object of a request with an id, so that all attempts have the same."""
    return {"request_id": uuid.uuid4().hex, **request.to_json()}


def _user_path(user_id: str) -> str:
    known = parsed(UserId, {"user_id": user_id}).user_id
    # A path would lose "." and "..".
    return "/v1/users/" + urllib.parse.quote(known, safe="").replace(".", "%2E")


def _read(model: type[_Model], document: Mapping[str, Any]) -> _Model:
    try:
        return model.model_validate(document)
    except pydantic.ValidationError as error:
        raise errors.ClientReplyError(f"The answer is not valid: {error}") from error


def _answer_to(body: Mapping[str, Any], document: Mapping[str, Any]) -> Answer:
    answer = _read(Answer, document)
    if answer.request_id != body["request_id"]:
        raise errors.ClientReplyError(
            f"Expected the answer to request {body['request_id']!r}, got the answer to "
            f"{answer.request_id!r}. Does a proxy mix up or cache the replies?"
        )
    return answer
