"""The header of a caller's deadline, `x-deadline-ms`: the time that is left when it is sent."""

from collections.abc import Mapping, Sequence

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
    given: Sequence[requests.Request], headers: Mapping[str, str], default_ms: float
) -> list[requests.Request]:
    """Returns requests, each with the shorter of its own deadline and the header's.

    Args:
        given: Requests; their `deadline_ms` may be None.
        headers: Headers of the call.
        default_ms: Deadline of a request that names none.

    Raises:
        InvalidRequestError: The header is not a number in (0, 60000].
    """
    text = headers.get(HEADER)
    milliseconds = parsed(text)
    if milliseconds is None:
        if text is not None:
            raise errors.InvalidRequestError(
                f"header {HEADER}: expected a number in (0, "
                f"{requests.MAX_DEADLINE_MS:g}], got {text[:60]!r}."
            )
        return list(given)
    return [
        request.model_copy(update={"deadline_ms": milliseconds})
        if milliseconds < (request.deadline_ms or default_ms)
        else request
        for request in given
    ]
