"""A batch of requests, which is answered or refused as a whole, and the answers to record."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from serving import errors
from serving.requests import Answer, Request, Validator, ValidRequest


@dataclasses.dataclass(frozen=True)
class RequestBatch:
    """A batch of validated requests.

    Attributes:
        size: Number of requests.
        groups: Requests that are computed together, each with its position in the batch. The key
            is the deadline in milliseconds and the number of candidates.
    """

    size: int
    groups: Mapping[tuple[float, int], Sequence[tuple[int, ValidRequest]]]


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer with what metrics and impression log record about it.

    Attributes:
        valid: Validated request.
        answer: Answer to the request.
        num_found: Number of candidates that the index found.
        num_ranked: Number of candidates that the ranker scored.
    """

    valid: ValidRequest
    answer: Answer
    num_found: int
    num_ranked: int


def check(
    requests: Sequence[Request],
    validator: Validator,
    group_of: Callable[[ValidRequest], tuple[float, int]],
    max_size: int,
) -> RequestBatch:
    """Validates the requests of a batch.

    Args:
        requests: Requests of the batch.
        validator: Validator of the release.
        group_of: Returns the deadline in milliseconds and the number of candidates of a request.
        max_size: Maximum number of requests in a batch.

    Raises:
        InvalidRequestError: A request is not valid, so the whole batch is refused; the message
            names the request.
    """
    if len(requests) > max_size:
        raise errors.InvalidRequestError(
            f"requests: expected at most {max_size} values, got {len(requests)}. Send several "
            "batches."
        )
    groups: dict[tuple[float, int], list[tuple[int, ValidRequest]]] = {}
    for position, request in enumerate(requests):
        try:
            valid = validator.check(request)
        except errors.InvalidRequestError as error:
            raise errors.InvalidRequestError(f"requests[{position}].{error}") from error
        groups.setdefault(group_of(valid), []).append((position, valid))
    return RequestBatch(len(requests), groups)
