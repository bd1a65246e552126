"""Runs the retrieval of candidates in threads, so that it does not block the event loop.

Single requests that are waiting share a call: the query tower takes 0.4 ms for one request and
hardly more for eight, whereas the ranker takes eight times as long. Each group of a batch is one
call.
"""

import asyncio
from collections.abc import Sequence
from concurrent import futures

from serving import errors, releases, requests
from serving.live import LiveIndex
from serving.orchestrator import candidates, micro_batching


class RetrievalStage:
    """Finds the candidates of requests. Use it from one event loop."""

    def __init__(
        self,
        release: releases.Bundle,
        live: LiveIndex,
        fields: requests.QueryFields,
        num_threads: int,
        requests_per_call: int,
    ) -> None:
        """Starts the threads.

        Args:
            release: Release bundle with the query tower.
            live: Live index of the ads.
            fields: Converts requests to model inputs.
            num_threads: Number of threads, one call each.
            requests_per_call: Maximum number of single requests that share a call.
        """
        self._tower = release.query_tower
        self._live = live
        self._fields = fields
        self._executor = futures.ThreadPoolExecutor(num_threads, thread_name_prefix="retrieval")
        self._batcher = micro_batching.Batcher(
            self._each, self._executor, max_running=num_threads, max_items=requests_per_call
        )

    async def find(
        self, valid: requests.ValidRequest, k: int, deadline: requests.Deadline
    ) -> candidates.CandidateGroup:
        """Returns up to k candidates of one request.

        Raises:
            OverloadedError: The request had to wait for a thread until its deadline.
            IndexUnavailableError: The index is in Milvus, which does not answer in time.
        """
        try:
            return await self._batcher.submit(
                k, (valid, k, deadline), lambda: deadline.remaining_ms() <= 0
            )
        except TimeoutError as error:
            raise errors.OverloadedError(
                f"The request waited until its deadline of {deadline.milliseconds:g} ms. Send "
                "requests at a lower rate, or add workers or replicas."
            ) from error

    async def find_together(
        self, valids: Sequence[requests.ValidRequest], k: int, deadline: requests.Deadline
    ) -> list[candidates.CandidateGroup]:
        """Returns up to k candidates of each request, grouped by their number.

        Raises:
            IndexUnavailableError: The index is in Milvus, which does not answer in time.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._together, valids, k, [deadline])

    def close(self) -> None:
        """Stops the threads once they have finished their current calls."""
        self._executor.shutdown(wait=False)

    def _together(
        self,
        valids: Sequence[requests.ValidRequest],
        k: int,
        deadlines: Sequence[requests.Deadline],
    ) -> list[candidates.CandidateGroup]:
        # A switch to a thread costs 0.1 ms, so everything is done in one.
        self._live.refresh()
        # A request of a call that is too late itself gets fewer ranked candidates.
        latest_ms = max(deadline.remaining_ms() for deadline in deadlines)
        return candidates.retrieve(
            self._tower, self._live.view(), self._fields, valids, k, latest_ms / 1000
        )

    def _each(
        self, asked: Sequence[tuple[requests.ValidRequest, int, requests.Deadline]]
    ) -> list[candidates.CandidateGroup]:
        valids, numbers, deadlines = zip(*asked, strict=True)
        found = self._together(valids, numbers[0], deadlines)
        if len(asked) == 1:
            return found
        by_position = {
            position: group.single(row)
            for group in found
            for row, position in enumerate(group.positions)
        }
        return [by_position[position] for position in range(len(asked))]
