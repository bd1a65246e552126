"""A batch of requests, which is answered or refused as a whole, and the answers to record."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping, Sequence

from serving import errors
from serving.requests import Answer, ValidRequest

# Ads of answers that are recorded or encoded in one turn of the event loop; about 5 ms.
_ADS_PER_TURN = 500


@dataclasses.dataclass(frozen=True)
class RequestBatch:
    """A batch of validated requests.

    Attributes:
        size: Number of requests.
        num_ads: Number of ads that they need.
        groups: Requests that are computed together, each with its position in the batch. The key
            is the deadline in milliseconds and the number of candidates.
        longest_ms: Longest deadline in milliseconds, of the larger batch if this is a part of one.
    """

    size: int
    num_ads: int
    groups: Mapping[tuple[float, int], Sequence[tuple[int, ValidRequest]]]
    longest_ms: float


@dataclasses.dataclass(frozen=True)
class Answered:
    """An answer with its data for metrics and impression log.

    Attributes:
        valid: Validated request.
        answer: Answer to the request.
        num_found: Number of candidates that the index found.
        num_ranked: Number of candidates that the ranker scored.
        asked_at: Time of the request, in seconds since 1970.
    """

    valid: ValidRequest
    answer: Answer
    num_found: int
    num_ranked: int
    asked_at: float


def check_num_ads(num_requests: int, num_ads: int, max_ads: int) -> None:
    """Checks the number of ads that a call requests.

    Args:
        num_requests: Number of requests of the call.
        num_ads: Number of ads that their answers list.
        max_ads: Maximum number of ads.

    Raises:
        RequestTooLargeError: `num_ads` exceeds `max_ads`.
    """
    if num_ads > max_ads:
        raise errors.RequestTooLargeError(
            f"requests: expected at most {max_ads} ads in a call, the sum of k and of requested "
            f"candidates; got {num_ads} in {num_requests} requests. Send several batches, or a "
            "smaller k."
        )


async def in_turns(answers: Sequence[Answer]) -> AsyncIterator[int]:
    """Yields the position of each answer, and lets other requests run in between.

    Args:
        answers: Answers to iterate over.
    """
    num_ads = 0
    for position, answer in enumerate(answers):
        count = len(answer.ads) + len(answer.candidates or ())
        num_ads += count
        if num_ads > _ADS_PER_TURN and position:
            num_ads = count
            await asyncio.sleep(0)
        yield position
