"""Runs the retrieval of candidates in threads, so that it does not block the event loop.

Requests that are waiting share a call: the query tower takes 0.4 ms for one request and hardly more
for eight.

Shapes: B requests, D embedding size.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from serving import errors, live, releases, requests
from serving.orchestrator import candidates, micro_batching

_Call = tuple[requests.ValidRequest, int, requests.Deadline]


class RetrievalStage:
    """Finds the candidates of requests. Use it from one event loop."""

    def __init__(
        self,
        release: releases.Bundle,
        live_index: live.LiveIndex,
        fields: requests.QueryFields,
        num_threads: int,
        requests_per_call: int,
    ) -> None:
        """Starts the threads."""
        self._tower = release.query_tower
        self._live = live_index
        self._fields = fields
        self._executor = futures.ThreadPoolExecutor(num_threads, thread_name_prefix="retrieval")
        self._batcher = micro_batching.Batcher(
            self._in_a_thread,
            max_running=num_threads,
            can_share=lambda calls: len(calls) <= requests_per_call,
        )

    async def find(
        self, valid: requests.ValidRequest, k: int, deadline: requests.Deadline
    ) -> candidates.CandidateGroup:
        """Returns up to k candidates of one request."""
        try:
            return await self._batcher.submit(
                k, (valid, k, deadline), deadline.remaining_ms() / 1000
            )
        except TimeoutError as error:
            raise errors.OverloadedError(
                f"The request waited until its deadline of {deadline.milliseconds:g} ms. Send "
                "requests at a lower rate, or add workers or replicas."
            ) from error

    def close(self) -> None:
        """Stops the threads once they have finished their current calls."""
        self._executor.shutdown(wait=False)

    async def _in_a_thread(self, calls: Sequence[_Call]) -> list[candidates.CandidateGroup]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, calls)

    def _run(self, calls: Sequence[_Call]) -> list[candidates.CandidateGroup]:
        """Finds the candidates. Filters may leave a request fewer than k, or none."""
        # A switch to a thread costs 0.1 ms, so everything is done in one.
        self._live.refresh()
        ads = self._live.view()
        valids, numbers, deadlines = zip(*calls, strict=True)
        # Requests with earlier deadlines may be late, and get fewer ranked candidates.
        timeout_seconds = max(deadline.remaining_ms() for deadline in deadlines) / 1000
        started = time.perf_counter()
        columns = self._fields.columns([valid.values for valid in valids])
        weights = np.array([list(valid.weights.values()) for valid in valids], np.float32)
        embeddings = self._tower.embed(columns, weights if weights.size else None)
        embedded = time.perf_counter()
        found = _search(ads, valids, embeddings, numbers[0], timeout_seconds)
        searched = time.perf_counter()
        stage_ms = {
            "query_tower": (embedded - started) * 1000,
            "index": (searched - embedded) * 1000,
            "features": 0.0,
        }
        groups = []
        for position, (scores, rows) in enumerate(found):
            only = slice(position, position + 1)
            own_columns = {name: column[only] for name, column in columns.items()}
            groups.append(
                candidates.CandidateGroup(
                    ads, own_columns, scores[None], rows[None], ads.features(rows[None]), stage_ms
                )
            )
        stage_ms["features"] = (time.perf_counter() - searched) * 1000
        return groups


def _search(
    ads: live.LiveView,
    valids: Sequence[requests.ValidRequest],
    embeddings: np.ndarray,
    k: int,
    timeout_seconds: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns scores and rows of each request. Requests with equal filters share a search."""
    until = time.monotonic() + timeout_seconds
    groups: dict[requests.Filters | None, list[int]] = {}
    for position, valid in enumerate(valids):
        groups.setdefault(valid.filters, []).append(position)
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for filters, positions in groups.items():
        eligible = None if filters is None else ads.eligible(filters)
        left_seconds = until - time.monotonic()
        scores, rows = ads.search(embeddings[positions], k, eligible, left_seconds)
        found.update(zip(positions, zip(scores, rows, strict=True), strict=True))
    return [found[position] for position in range(len(valids))]
