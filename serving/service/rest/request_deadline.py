"""The header that carries a caller's deadline: `x-deadline-ms`, what is left when it is sent."""

import dataclasses

import fastapi

from serving import errors, requests

HEADER = "x-deadline-ms"


def of(headers: fastapi.datastructures.Headers) -> float | None:
    """Returns the milliseconds of the header, or None where there is none.

    Raises:
        InvalidRequestError: It is no number above 0 and up to 60000.
    """
    text = headers.get(HEADER)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= requests.MAX_DEADLINE_MS:  # NaN too
        raise errors.InvalidRequestError(
            f"header {HEADER}: expected milliseconds above 0 and up to "
            f"{requests.MAX_DEADLINE_MS:g}, got {text[:60]!r}."
        )
    return number


def applied(
    request: requests.Request, milliseconds: float | None, default_ms: float
) -> requests.Request:
    """Returns the request with the shorter of its own deadline and the header's.

    Args:
        request: Its `deadline_ms` may be None.
        milliseconds: Of the header; None = none.
        default_ms: Of a request without deadline.
    """
    own = default_ms if request.deadline_ms is None else request.deadline_ms
    if milliseconds is None or not milliseconds < own:
        return request
    return dataclasses.replace(request, deadline_ms=milliseconds)
