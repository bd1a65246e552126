"""Query tower, index and gather of features, in threads beside the event loop.

single requests     those that wait share a call: the tower takes 0.4 ms for one and hardly
                    more for eight. (The ranker takes eight times as long for eight.)
a batch's groups    a call each
"""

import asyncio
from collections.abc import Sequence
from concurrent import futures

from serving import releases, requests
from serving.live import LiveIndex
from serving.orchestrator import candidates, micro_batching


class RetrievalStage:
    """Finds the candidates of requests. For one event loop at a time."""

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
            release: Has the query tower.
            live: The ads.
            fields: Lay requests out.
            num_threads: Calls at once.
            requests_per_call: The most requests of one.
        """
        self._tower = release.query_tower
        self._live = live
        self._fields = fields
        self._executor = futures.ThreadPoolExecutor(num_threads, thread_name_prefix="retrieval")
        self._batcher = micro_batching.Batcher(
            self._each, self._executor, max_running=num_threads, max_items=requests_per_call
        )

    async def find(self, valid: requests.ValidRequest, k: int) -> candidates.Candidates:
        """Returns the candidates of one request, as many as k."""
        return await self._batcher.submit(k, (valid, k))

    async def find_together(
        self, valids: Sequence[requests.ValidRequest], k: int
    ) -> list[candidates.Candidates]:
        """Returns the candidates of requests, those with equally many together."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._together, valids, k)

    def close(self) -> None:
        """Ends the threads when they have done what they do."""
        self._executor.shutdown(wait=False)

    def _together(
        self, valids: Sequence[requests.ValidRequest], k: int
    ) -> list[candidates.Candidates]:
        # All in one hop to a thread: a hop costs 0.1 ms.
        self._live.refresh()
        return candidates.retrieve(self._tower, self._live.view(), self._fields, valids, k)

    def _each(
        self, asked: Sequence[tuple[requests.ValidRequest, int]]
    ) -> list[candidates.Candidates]:
        found = self._together([valid for valid, _ in asked], asked[0][1])
        if len(asked) == 1:
            return found
        alone = {
            position: group.alone(place)
            for group in found
            for place, position in enumerate(group.positions)
        }
        return [alone[position] for position in range(len(asked))]
