"""Requests that are answered together or not at all, and what is recorded of their answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from serving import errors
from serving.requests import Answer, Request, Validator, ValidRequest


@dataclasses.dataclass(frozen=True)
class Batch:
    """Requests that were checked.

    Attributes:
        size: Their number.
        groups: Requests that are computed together, each with its place in the batch: by deadline
            in milliseconds and number of candidates.
    """

    size: int
    groups: Mapping[tuple[float, int], Sequence[tuple[int, ValidRequest]]]


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer, and what is recorded of it when it goes out.

    Attributes:
        valid: The request.
        answer: The answer.
        num_found: Candidates of the index.
        num_ranked: Of them, those with scores.
    """

    valid: ValidRequest
    answer: Answer
    num_found: int
    num_ranked: int


def check(
    requests: Sequence[Request],
    validator: Validator,
    group_of: Callable[[ValidRequest], tuple[float, int]],
    most: int,
) -> Batch:
    """Checks the requests of a batch.

    Args:
        requests: What is asked for.
        validator: Of the release.
        group_of: Deadline and number of candidates of a request.
        most: Requests that a batch may have.

    Raises:
        InvalidRequestError: A request is refused, and with it the batch; it names which.
    """
    if len(requests) > most:
        raise errors.InvalidRequestError(
            f"requests: expected at most {most} values, got {len(requests)}. Send several batches."
        )
    groups: dict[tuple[float, int], list[tuple[int, ValidRequest]]] = {}
    for position, request in enumerate(requests):
        try:
            valid = validator.check(request)
        except errors.InvalidRequestError as error:
            raise errors.InvalidRequestError(f"requests[{position}].{error}") from error
        groups.setdefault(group_of(valid), []).append((position, valid))
    return Batch(len(requests), groups)
