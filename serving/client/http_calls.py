"""What both clients of the REST service share: how a call is sent, tried again, and read.

`exchange` is a generator that says what to do next (send this, wait so long) and is told what
came of it, so that the sync and the async client differ in nothing but how they wait.
"""

import dataclasses
import math
import random
import ssl
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, TypedDict

import httpx

from serving import errors
from serving.client import client_replies
from serving.requests import Filters, Request, Rules, Seen

DEFAULT_TIMEOUT_SECONDS = 10.0
# Of the time that a caller waits, the share that the service is given as its deadline: its
# answer in retrieval order is to come before the caller gives up.
_DEADLINE_SHARE = 0.9
_MOST_DEADLINE_MS = 60_000.0
# Below the 5 s of uvicorn: a connection that the service is about to close is not used again.
_KEEPALIVE_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """When a call is sent again. All of a call's attempts share the client's time-out.

    A refused or broken connection, 429 and 503 are tried again: every call of this service only
    reads. A call that was late is not: its time is over.

    Attributes:
        attempts: The first included; 1 is no retry.
        pause_seconds: Before the second; doubles with each, and half of each is drawn at random,
            so that clients that failed together do not come together again.
        most_pause_seconds: The longest.
    """

    attempts: int = 3
    pause_seconds: float = 0.05
    most_pause_seconds: float = 2.0


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the service.

    Attributes:
        method: HTTP method.
        path: Of the route.
        body: JSON object, or None.
        is_tried_again: Whether a 503 may pass: not where it is the answer.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    is_tried_again: bool = True


@dataclasses.dataclass(frozen=True)
class Attempt:
    """Send this: arguments of httpx's `request`."""

    arguments: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Pause:
    """Wait so long."""

    seconds: float


def options(
    base_url: str, token: str | None, verify: bool | str, timeout_seconds: float
) -> dict[str, Any]:
    """Returns the arguments of httpx's clients.

    Args:
        base_url: Such as `http://127.0.0.1:8080`.
        token: Bearer token that the service asks for, or None.
        verify: Whether the certificate is verified, or a PEM file with the authorities to trust.
        timeout_seconds: Of a call.

    Raises:
        TfrecClientError: base_url is no URL of a service, the token cannot go into a header,
            timeout_seconds is no time, or the PEM file cannot be used.
    """
    if not isinstance(timeout_seconds, int | float) or not 0 < timeout_seconds < math.inf:
        raise errors.TfrecClientError(
            f"timeout_seconds: expected a number of seconds above 0, got {timeout_seconds!r}."
        )
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        # What it is stays secret.
        raise errors.TfrecClientError(
            f"token: expected printable ASCII characters without spaces, got {len(token)} "
            "characters with others. A file ends with a line break: strip() takes it off."
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
    """Returns the call for one request; it gets an id, so that a second attempt has the same."""
    body = request.to_json()
    body.setdefault("request_id", uuid.uuid4().hex)
    return Call("POST", "/v1/recommend", body)


def recommend_batch(requests: Iterable[Request]) -> Call:
    """Returns the call for many requests."""
    body = {"requests": [recommend(request).body for request in requests]}
    return Call("POST", "/v1/recommend/batch", body)


class RequestFields(TypedDict, total=False):
    """The arguments of `recommend`, as `client.Client.recommend` describes them."""

    user: Mapping[str, Any] | None
    context: Mapping[str, Any] | None
    k: int | None
    weights: Mapping[str, float] | None
    deadline_ms: float | None
    request_id: str | None
    filters: Filters | Mapping[str, Any] | None
    rules: Rules | Mapping[str, Any] | None
    seen: Seen | Mapping[str, Any] | None
    explain: bool
    release: str | None


def request_of(fields: RequestFields) -> Request:
    """Returns the request of such arguments."""
    values: dict[str, Any] = dict(fields)
    for group in ("user", "context"):
        values[group] = values.get(group) or {}
    return Request(**values)


def closed() -> errors.TfrecClientError:
    """Returns the error of a client that is used after its end."""
    return errors.TfrecClientError("The client is closed; make another.")


BUNDLE = Call("GET", "/v1/bundle")
HEALTH = Call("GET", "/healthz")
READY = Call("GET", "/readyz", is_tried_again=False)
# Codes of a service that is well and yet not ready.
NOT_READY = ("not_ready", "draining")


def exchange(
    call: Call,
    base_url: httpx.URL,
    retry: Retry,
    timeout_seconds: float,
    clock: Callable[[], float],
) -> Generator[Attempt | Pause, httpx.Response | Exception | None, dict[str, Any]]:
    """Runs a call: yields what to do, is sent a response or what httpx raised, returns the JSON.

    Raises:
        TfrecClientError: As `serving.client.Client.recommend` describes.
    """
    place = f"{call.method} {str(base_url).rstrip('/')}{call.path}"
    end = clock() + timeout_seconds
    pause = retry.pause_seconds
    for attempt in range(1, retry.attempts + 1):
        remaining = end - clock()
        deadline_ms = max(1.0, min(remaining * 1000 * _DEADLINE_SHARE, _MOST_DEADLINE_MS))
        arguments = {
            "method": call.method,
            "url": call.path,
            "json": call.body,
            "timeout": max(remaining, 0.001),
            "headers": {"x-deadline-ms": f"{deadline_ms:.0f}"},
        }
        outcome = yield Attempt(arguments)
        try:
            return client_replies.document(place, outcome, timeout_seconds)
        except errors.TfrecClientError as error:
            wait = _wait(outcome, pause)
            is_last = attempt == retry.attempts or clock() + wait >= end
            if is_last or not (call.is_tried_again and _may_pass(error)):
                raise
        yield Pause(wait)
        pause = min(2 * pause, retry.most_pause_seconds)
    raise ValueError(f"attempts: expected at least 1, got {retry.attempts}.")


def _may_pass(error: errors.TfrecClientError) -> bool:
    if isinstance(error, errors.ClientStatusError):
        return error.status in (429, 503)
    return isinstance(error, errors.ClientConnectionError)


def _wait(outcome: httpx.Response | Exception | None, pause: float) -> float:
    wait = pause * random.uniform(0.5, 1.0)
    if isinstance(outcome, httpx.Response):
        asked = outcome.headers.get("retry-after", "")
        return max(wait, float(asked)) if asked.isdigit() else wait
    return wait


def _bad_url(base_url: str) -> errors.TfrecClientError:
    return errors.TfrecClientError(
        f"base_url: expected a URL such as http://127.0.0.1:8000, got {base_url!r}."
    )
