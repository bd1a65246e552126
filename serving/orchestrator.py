"""The online join: embed the query, search the index, gather ad features, rank, choose.

    orchestrator = Orchestrator(bundle.load("bundles"), client)
    answer = await orchestrator.recommend(messages.Request(user={"country": "CH"}, k=10))

Shapes: B requests, C candidates.
"""

import asyncio
import concurrent.futures
import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from serving import (
    answers,
    bundle,
    candidates,
    errors,
    live_index,
    messages,
    ranker_client,
    validation,
    verified_ranker,
)


@dataclasses.dataclass(frozen=True)
class OrchestratorConfig:
    """How requests are answered.

    Attributes:
        num_candidates: Ads that the index gives to the ranker.
        default_k: Ads returned to a request that names no k.
        max_k: The most ads one request may ask for.
        default_deadline_ms: Of a single request that names none.
        batch_deadline_ms: Of the requests of a batch that name none; a batch is for throughput.
        reserve_ms: Kept of each deadline to put the answer together.
        max_batch: The most requests of one batch.
        requests_per_call: Requests of a batch that share one call to tower, index and ranker.
        num_threads: Threads for query tower and index; the event loop itself computes little.
    """

    num_candidates: int = 500
    default_k: int = 10
    max_k: int = 1000
    default_deadline_ms: float = 2_000.0
    batch_deadline_ms: float = 10_000.0
    reserve_ms: float = 5.0
    max_batch: int = 1000
    requests_per_call: int = 16
    num_threads: int = 2


class Orchestrator:
    """Answers requests from one bundle and one ranker server.

    `recommend` and `recommend_batch` may run concurrently in one event loop.
    """

    def __init__(
        self,
        release: bundle.Bundle,
        client: ranker_client.RankerClient,
        config: OrchestratorConfig | None = None,
    ) -> None:
        """Joins them; the ranker is verified before its first scores are used.

        Raises:
            RankerMismatchError: The client pins another version than the bundle's.
            LiveIndexError: The release has updates that cannot be read.
        """
        if client.version != release.version:
            raise errors.RankerMismatchError(
                f"The ranker client pins version {client.version}, the bundle is version "
                f"{release.version}. Make the client with version={release.version}."
            )
        self.config = config or OrchestratorConfig()
        self.release = release
        self.live = live_index.LiveIndex(release)
        self._client = client
        self._ranker = verified_ranker.VerifiedRanker(release, client)
        self._validator = validation.Validator(
            release.manifest, self.config.default_k, self.config.max_k
        )
        self._executor = concurrent.futures.ThreadPoolExecutor(
            self.config.num_threads, thread_name_prefix="retrieval"
        )

    @property
    def not_ready(self) -> str | None:
        """None, or why full answers are not to be expected from here."""
        return self._ranker.not_ready

    @property
    def problem(self) -> str | None:
        """None, or why the last answers were degraded."""
        return self._ranker.problem

    async def verify_ranker(self, timeout_seconds: float = 5.0) -> None:
        """Lets the ranker reproduce the bundle's probes, unless it has done so.

        Raises:
            RankerMismatchError: It serves another model; its scores are not used.
            RankerError: It cannot be reached or asked.
        """
        await self._ranker.verify(timeout_seconds)

    async def recommend(self, request: messages.Request) -> messages.Answer:
        """Returns the ads for one request.

        A ranker that is late, fails or is not verified costs the order, not the answer: the ads
        come as the index ranks them, and `degraded` says why.

        Raises:
            InvalidRequestError: Names the field, what was expected and what came.
        """
        started = time.perf_counter()
        valid = self._validator.check(request)
        deadline_ms = valid.deadline_ms or self.config.default_deadline_ms
        (answer,) = await self._answer([valid], deadline_ms, started)
        return answer

    async def recommend_batch(self, requests: Sequence[messages.Request]) -> list[messages.Answer]:
        """Returns the answers of many requests, in their order, each as if it came alone.

        Requests are computed together where they want as many candidates by the same deadline.

        Raises:
            InvalidRequestError: A request is refused, and with it the batch; it names which.
        """
        started = time.perf_counter()
        if len(requests) > self.config.max_batch:
            raise errors.InvalidRequestError(
                f"requests: expected at most {self.config.max_batch}, got {len(requests)}. "
                "Send several batches."
            )
        groups: dict[tuple[float, int], list[tuple[int, validation.ValidRequest]]] = {}
        for position, request in enumerate(requests):
            try:
                valid = self._validator.check(request)
            except errors.InvalidRequestError as error:
                raise errors.InvalidRequestError(f"requests[{position}].{error}") from error
            key = (valid.deadline_ms or self.config.batch_deadline_ms, self._num_candidates(valid))
            groups.setdefault(key, []).append((position, valid))
        answered: dict[int, messages.Answer] = {}
        # The most urgent first.
        for (deadline_ms, _), members in sorted(groups.items(), key=lambda group: group[0]):
            for start in range(0, len(members), self.config.requests_per_call):
                positions, valids = zip(
                    *members[start : start + self.config.requests_per_call], strict=True
                )
                group = await self._answer(valids, deadline_ms, started)
                answered.update(zip(positions, group, strict=True))
        return [answered[position] for position in range(len(requests))]

    async def close(self) -> None:
        """Closes the connection to the ranker and the threads."""
        await self._client.close()
        self._executor.shutdown(wait=False)

    def _num_candidates(self, valid: validation.ValidRequest) -> int:
        return max(self.config.num_candidates, valid.k)

    async def _answer(
        self, valids: Sequence[validation.ValidRequest], deadline_ms: float, started: float
    ) -> list[messages.Answer]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._executor, self._retrieve, valids
        )
        composed: dict[int, messages.Answer] = {}
        for group in found:
            ranking = time.perf_counter()
            reason, scores = await self._rank(group, deadline_ms, started)
            ranker_ms = (time.perf_counter() - ranking) * 1000
            stage_ms = {**group.stage_ms, "ranker": ranker_ms, "total": 0.0}
            for place, position in enumerate(group.positions):
                composed[position] = self._compose(
                    group, place, valids[position], reason, scores, stage_ms
                )
        total_ms = (time.perf_counter() - started) * 1000
        for answer in composed.values():
            answer.stage_ms["total"] = total_ms
        return [composed[position] for position in range(len(valids))]

    def _compose(
        self,
        group: candidates.Candidates,
        place: int,
        valid: validation.ValidRequest,
        reason: str | None,
        scores: Mapping[str, np.ndarray],
        stage_ms: Mapping[str, float],
    ) -> messages.Answer:
        chosen = answers.RequestCandidates(group.ads, group.rows[place], group.scores[place])
        if reason is not None:
            return answers.degraded(self.release, valid, chosen, reason, stage_ms)
        own = {head: values[place] for head, values in scores.items()}
        return answers.ranked(self.release, valid, chosen, own, stage_ms)

    def _retrieve(self, valids: Sequence[validation.ValidRequest]) -> list[candidates.Candidates]:
        """Query tower, index and gather in one hop to a thread: a hop costs 0.1 ms."""
        self.live.refresh()
        return candidates.retrieve(
            self.release.query_tower,
            self.live.view(),
            self._validator.fields,
            valids,
            self._num_candidates(valids[0]),
        )

    async def _rank(
        self, group: candidates.Candidates, deadline_ms: float, started: float
    ) -> tuple[str | None, Mapping[str, np.ndarray]]:
        """Returns why there are no scores, or None, and head -> [B, C]."""
        heads = self.release.manifest.outputs
        if not group.rows.shape[1]:
            # No ad is eligible, so there is nothing to rank.
            return None, {head: np.empty(group.rows.shape, np.float32) for head in heads}
        elapsed_ms = (time.perf_counter() - started) * 1000
        remaining_ms = deadline_ms - self.config.reserve_ms - elapsed_ms
        if remaining_ms <= 0:
            return f"No time was left to rank: the deadline is {deadline_ms:g} ms.", {}
        try:
            outputs = await self._ranker.predict(
                group.columns, group.ad_features, remaining_ms / 1000
            )
        except errors.RankerError as error:
            return str(error), {}
        return None, {head: outputs[output] for head, output in heads.items()}
