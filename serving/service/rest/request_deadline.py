"""The header of a caller's deadline, `x-deadline-ms`: the time that is left when it is sent."""

from collections.abc import Mapping

from serving import errors, requests

HEADER = "x-deadline-ms"
HEADER_BYTES = HEADER.encode()


def parsed(text: str | bytes | None) -> float | None:
    """Returns the milliseconds of a header's value, or None if it is not valid or absent."""
    try:
        number = float(text or 0)
    except ValueError:
        return None
    # The comparison is false for NaN.
    return number if 0 < number <= requests.MAX_DEADLINE_MS else None


def applied(
    request: requests.Request, headers: Mapping[str, str], default_ms: float
) -> requests.Request:
    """Returns a request with the shortest of its own deadline, the header's and the default."""
    text = headers.get(HEADER)
    header_ms = parsed(text)
    if header_ms is None and text is not None:
        raise errors.InvalidRequestError(
            f"header {HEADER}: expected a number in (0, {requests.MAX_DEADLINE_MS:g}], got "
            f"{text[:60]!r}."
        )
    deadline_ms = request.deadline_ms or default_ms
    if header_ms is not None:
        deadline_ms = min(deadline_ms, header_ms)
    return request.model_copy(update={"deadline_ms": deadline_ms})
