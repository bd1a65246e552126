"""The online join: embed the query, search the index, gather ad features, rank, choose.

    orchestrator = Orchestrator(releases.load("bundles"), client)
    answer = await orchestrator.recommend(Request(user={"country": "CH"}, k=10))

Shapes: B requests, C candidates.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence

from serving import errors, live, ranker, releases
from serving.config import OrchestratorConfig
from serving.impressions import ImpressionLog
from serving.orchestrator import (
    admission,
    answers,
    candidates,
    ranking_stage,
    request_batch,
    retrieval_stage,
    service_metrics,
)
from serving.requests import Answer, Deadline, Request, Validator, ValidRequest


class Orchestrator:
    """Answers requests from one bundle and one ranker server.

    `recommend` and `recommend_batch` may run concurrently in one event loop.
    """

    def __init__(
        self,
        release: releases.Bundle,
        client: ranker.Scorer,
        config: OrchestratorConfig | None = None,
        metrics: service_metrics.ServiceMetrics | None = None,
        impressions: ImpressionLog | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Joins them; the ranker is verified before its first scores are used.

        Args:
            release: Embeds, searches, and says what the ranker is.
            client: Of a server that serves the release's ranker.
            config: None = the defaults.
            metrics: Count the answers; None = some of its own.
            impressions: Takes every answer; whoever made it closes it. None = no log.
            clock: Returns seconds; deadlines, the ranker's pace and its pauses go by it.

        Raises:
            RankerMismatchError: The client pins another version than the bundle's.
            LiveIndexError: The release has updates that cannot be read.
            InvalidRequestError: The rules do not fit the release.
        """
        if client.version != release.version:
            raise errors.RankerMismatchError(
                f"The ranker client pins version {client.version}, the bundle is version "
                f"{release.version}. Make the client with version={release.version}."
            )
        self.config = config or OrchestratorConfig()
        self.release = release
        self._clock = clock
        self.live = live.LiveIndex(release)
        self._client = client
        self.impressions = impressions
        self._ranker = ranker.VerifiedRanker(release, client)
        self._ranking = ranking_stage.RankingStage(
            self._ranker, release.manifest.outputs, self.config.ranker, clock
        )
        self.metrics = metrics or service_metrics.ServiceMetrics()
        self.admission = admission.Admission(self.config.max_in_flight, self.metrics.in_flight)
        self._validator = Validator(
            release.manifest, self.config.default_k, self.config.max_k, self.config.rules
        )
        self._retrieval = retrieval_stage.RetrievalStage(
            release,
            self.live,
            self._validator.fields,
            self.config.num_threads,
            self.config.requests_per_call,
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

    async def recommend(self, request: Request, started: float | None = None) -> Answer:
        """Returns the ads for one request.

        A ranker that is late, fails or is not verified costs candidates or the order, not the
        answer: fewer candidates are ranked, or the ads come as the index ranks them, and
        `degraded` says why.

        Args:
            request: What is asked for.
            started: What the clock said when it arrived; None = now.

        Raises:
            InvalidRequestError: Names the field, what was expected and what came.
            OverloadedError: Too many requests are in hand.
        """
        started = self._clock() if started is None else started
        valid = self._validator.check(request)
        with self.admission.admitted():
            deadline = Deadline(
                valid.deadline_ms or self.config.default_deadline_ms, started, self._clock
            )
            found = await self._retrieval.find(valid, self._num_candidates(valid))
            ranked = await self._rank(found, valid.k, deadline)
            answered = self._compose(valid, found, 0, ranked, deadline)
        self.record([answered])
        return answered.answer

    async def recommend_batch(
        self, requests: Sequence[Request], started: float | None = None
    ) -> list[Answer]:
        """Returns the answers of many requests, in their order, each as if it came alone.

        Requests are computed together where they want as many candidates by the same deadline.

        Args:
            requests: What is asked for.
            started: What the clock said when they arrived; None = now.

        Raises:
            InvalidRequestError: A request is refused, and with it the batch; it names which.
            OverloadedError: Too many requests are in hand.
        """
        started = self._clock() if started is None else started
        batch = self.check_batch(requests)
        with self.admission.admitted(batch.size):
            answered = await self.answer_batch(batch, started)
        self.record(answered)
        return [one.answer for one in answered]

    def check_batch(self, requests: Sequence[Request]) -> request_batch.Batch:
        """Checks the requests of a batch.

        Raises:
            InvalidRequestError: As `recommend_batch`.
        """
        return request_batch.check(
            requests,
            self._validator,
            lambda valid: (
                valid.deadline_ms or self.config.batch_deadline_ms,
                self._num_candidates(valid),
            ),
            self.config.max_batch,
        )

    async def answer_batch(
        self, batch: request_batch.Batch, started: float
    ) -> list[request_batch.Answered]:
        """Answers a checked batch, for which there is room; nothing is recorded.

        Args:
            batch: Of `check_batch`.
            started: What the clock said when its requests arrived.
        """
        answered: dict[int, request_batch.Answered] = {}
        # The most urgent first.
        for (deadline_ms, num_candidates), members in sorted(
            batch.groups.items(), key=lambda group: group[0]
        ):
            for start in range(0, len(members), self.config.requests_per_call):
                positions, valids = zip(
                    *members[start : start + self.config.requests_per_call], strict=True
                )
                deadline = Deadline(deadline_ms, started, self._clock)
                for found in await self._retrieval.find_together(valids, num_candidates):
                    max_k = max(valids[place].k for place in found.positions)
                    ranked = await self._rank(found, max_k, deadline)
                    for row, place in enumerate(found.positions):
                        answered[positions[place]] = self._compose(
                            valids[place], found, row, ranked, deadline
                        )
        return [answered[position] for position in range(batch.size)]

    def record(self, answered: Sequence[request_batch.Answered]) -> None:
        """Counts and logs answers that go out; those of a batch that failed never do."""
        for one in answered:
            if one.valid.dry_run:
                continue
            self.metrics.observe_answer(
                self.release.manifest, one.answer, one.num_found, one.num_ranked
            )
            if self.impressions is not None:
                self.impressions.record(self.release.manifest, one.valid, one.answer)

    async def close(self) -> None:
        """Closes the connection to the ranker and the threads."""
        await self._client.close()
        self._retrieval.close()
        # Nobody is left whose ranker could be left alone.
        self.metrics.observe_breaker(self.release.version, "closed")

    def _num_candidates(self, valid: ValidRequest) -> int:
        return max(self.config.num_candidates, valid.k)

    async def _rank(
        self, found: candidates.Candidates, min_count: int, deadline: Deadline
    ) -> ranking_stage.Ranking:
        started = self._clock()
        ranked = await self._ranking.rank(found, min_count, deadline)
        self.metrics.observe_breaker(self.release.version, self._ranking.breaker_state)
        milliseconds = (self._clock() - started) * 1000
        return dataclasses.replace(ranked, milliseconds=milliseconds)

    def _compose(
        self,
        valid: ValidRequest,
        found: candidates.Candidates,
        row: int,
        ranked: ranking_stage.Ranking,
        deadline: Deadline,
    ) -> request_batch.Answered:
        """Applies the rules to the candidates of one request, and says what came of it."""
        stage_ms = {**found.stage_ms, "ranker": ranked.milliseconds}
        if ranked.scores is None:
            reason = str(ranked.degraded)
            answer = answers.degraded_answer(self.release, valid, found.of(row), reason, stage_ms)
        else:
            answer = answers.ranked_answer(
                self.release,
                valid,
                found.of(row, ranked.num_ranked),
                {head: scores[row] for head, scores in ranked.scores.items()},
                stage_ms,
                reason=ranked.degraded,
            )
        answer.stage_ms["total"] = (self._clock() - deadline.started) * 1000
        return request_batch.Answered(valid, answer, found.rows.shape[1], ranked.num_ranked)
