"""The header of a caller's deadline, `x-deadline-ms`: the time that is left when it is sent."""

import fastapi

from serving import errors, requests

HEADER = "x-deadline-ms"
HEADER_BYTES = HEADER.encode()


def from_headers(headers: fastapi.datastructures.Headers) -> float | None:
    """Returns the milliseconds in the header, or None if there is no such header.

    Raises:
        InvalidRequestError: It must be a number in (0, 60000].
    """
    text = headers.get(HEADER)
    if text is None:
        return None
    number = parsed(text)
    if number is None:
        raise errors.InvalidRequestError(
            f"header {HEADER}: expected a number in (0, "
            f"{requests.MAX_DEADLINE_MS:g}], got {text[:60]!r}."
        )
    return number


def parsed(text: str | bytes | None) -> float | None:
    """Returns the milliseconds of a header's value, or None if it is not valid or absent."""
    try:
        number = float(text or 0)
    except ValueError:
        return None
    # The comparison is false for NaN.
    return number if 0 < number <= requests.MAX_DEADLINE_MS else None


def applied(
    request: requests.Request, milliseconds: float | None, default_ms: float
) -> requests.Request:
    """Returns the request with the shorter of its own deadline and the header's.

    Args:
        request: Request; its `deadline_ms` may be None.
        milliseconds: Deadline in the header; None: no header.
        default_ms: Deadline of a request that names none.
    """
    own = default_ms if request.deadline_ms is None else request.deadline_ms
    if milliseconds is None or not milliseconds < own:
        return request
    return request.model_copy(update={"deadline_ms": milliseconds})
