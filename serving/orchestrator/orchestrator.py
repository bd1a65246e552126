"""Answers requests: embeds the query, searches the index, ranks candidates, applies the rules.

    orchestrator = Orchestrator(releases.load("bundles"), client)
    answer = await orchestrator.recommend(Request(user={"country": "CH"}, k=10))

Shapes: B requests, C candidates.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

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
    user_data,
    user_stage,
)
from serving.requests import (
    Answer,
    Deadline,
    Request,
    UserId,
    UserProfile,
    Validator,
    ValidRequest,
    parse,
)

# Answers with more ads, 2 ms of work, and answers of batches are composed in a thread, because the
# event loop has other requests to answer.
_MAX_INLINE_ADS = 100


class Orchestrator:
    """Answers requests with one release bundle and one ranker.

    `recommend` and `recommend_batch` may run concurrently in one event loop.
    """

    def __init__(
        self,
        release: releases.Bundle,
        client: ranker.Scorer | ranker.Endpoints | None,
        config: OrchestratorConfig | None = None,
        metrics: service_metrics.ServiceMetrics | None = None,
        impressions: ImpressionLog | None = None,
        admitting: admission.Admission | None = None,
        users: user_data.UserData | None = None,
        clock: Callable[[], float] = time.perf_counter,
        updates: live.UpdateChannel | None = None,
    ) -> None:
        """Creates an orchestrator. The ranker is verified before its first scores are used.

        Args:
            release: Loaded release bundle.
            client: Client of a server that serves the release's ranker, or the endpoints of
                several. None: the release has no ranker, and ads are in retrieval order.
            config: Options. None: the defaults.
            metrics: Metrics to update. None: new ones.
            impressions: Impression log to record answers in; the caller closes it. None: no log.
            admitting: Admission control, which releases in a process share. None: a new one.
            users: User store, which releases in a process share; the caller closes it. None: only
                the request itself describes the user.
            clock: Returns the time in seconds, for deadlines, ranker latency and the circuit
                breaker.
            updates: Channel of live updates of other hosts, which the orchestrator closes. None:
                there are none.

        Raises:
            RankerMismatchError: The client requests a different version than the bundle's, or
                there is a client and no ranker, or a ranker and no client.
            LiveIndexError: The live updates of the release cannot be read.
            InvalidRequestError: The default rules are not valid for the release.
        """
        if (client is not None) != release.manifest.has_ranker:
            raise errors.RankerMismatchError(
                f"Release {release.version} has {'a' if client is None else 'no'} ranker; expected "
                f"{'a' if client is None else 'no'} ranker client. Use ranker.connect."
            )
        if client is not None and client.version != release.version:
            raise errors.RankerMismatchError(
                f"The ranker client requests version {client.version}; expected the bundle's "
                f"version {release.version}. Create the client with version={release.version}."
            )
        self.config = config or OrchestratorConfig()
        self.release = release
        self._clock = clock
        self.live = live.LiveIndex(release, channel=updates)
        self._client = client
        self.impressions = impressions
        self.metrics = metrics or service_metrics.ServiceMetrics()
        self._ranker = None
        self._ranking = None
        if client is not None:
            self._ranker = ranker.Replicas(
                release,
                client,
                clock,
                self.metrics.ranker_calls(release.version),
                self._observe_ranker,
            )
            self._ranking = ranking_stage.RankingStage(
                self._ranker,
                release.manifest.outputs,
                self.config.ranker,
                self.config.requests_per_call,
                clock,
            )
        self.admission = admitting or admission.Admission(
            self.config.max_in_flight,
            self.config.max_ads_in_flight,
            self.metrics.in_flight,
            clock,
        )
        self._validator = Validator(
            release.manifest,
            self.config.default_k,
            self.config.max_k,
            self.config.rules,
            limits=None if users is None else users.config.limits,
        )
        self.users = users
        self._user_stage = None
        if users is not None:
            self._user_stage = user_stage.UserStage(
                users, release.manifest, self.live, self._validator
            )
        self._retrieval = retrieval_stage.RetrievalStage(
            release,
            self.live,
            self._validator.fields,
            self.config.num_threads,
            self.config.requests_per_call,
        )
        self._composing = futures.ThreadPoolExecutor(1, thread_name_prefix="composing")
        self._observed_live: tuple[bool, int, int] | None = None
        self._observed_replicas: dict[str, bool] = {}
        self.metrics.begin(release.version)
        self._observe_live()
        self.live.follow()

    @property
    def not_ready(self) -> str | None:
        """Why the service cannot give ranked answers, or None if it is ready."""
        return None if self._ranker is None else self._ranker.not_ready

    @property
    def problem(self) -> str | None:
        """Why recent answers were degraded, lack live updates or users, or are not logged."""
        problems = [
            None if self._ranker is None else self._ranker.problem,
            self.live.problem,
            None if self.users is None else self.users.problem,
            None if self.impressions is None else self.impressions.problem,
        ]
        return " ".join(filter(None, problems)) or None

    async def verify_ranker(self, timeout_seconds: float = 5.0) -> None:
        """Verifies that the ranker, if any, reproduces the bundle's probes, if not done yet.

        Of several replicas, one is enough.

        Args:
            timeout_seconds: Timeout in seconds.

        Raises:
            RankerMismatchError: The server serves a different model; its scores are not used.
            RankerError: The ranker call failed.
        """
        if self._ranker is not None:
            await self._ranker.verify(timeout_seconds)

    @property
    def ranker_behind(self) -> str | None:
        """Why a replica of the ranker does not serve the release yet, or None."""
        return None if self._ranker is None else self._ranker.behind

    async def observe(self) -> None:
        """Applies new live updates and records the state of both stages, as each request does.

        Otherwise a service without requests would report an old state.
        """
        await asyncio.to_thread(self.live.refresh)
        self._observe_live()
        if self._ranker is not None:
            self._ranker.check_unhealthy()
            self._observe_ranker()

    def check(self, request: Request) -> ValidRequest:
        """Checks a request against the release.

        Raises:
            InvalidRequestError: Each line names a field, the expected and the actual value.
        """
        return self._validator.check(request)

    def check_profile(self, user_id: str, profile: Mapping[str, Any]) -> None:
        """Checks that the release can use the stored profile of a user.

        Raises:
            InvalidRequestError: The id or a field is not valid, or is a history.
        """
        parse(UserId, {"user_id": user_id})
        parse(UserProfile, {"profile": profile})
        self._validator.fields.merge(profile, {}, "profile")
        if self._user_stage is not None:
            self._user_stage.check_profile(profile)

    async def recommend(self, request: Request, started: float | None = None) -> Answer:
        """Returns ranked ads for one request.

        If the ranker is late, fails or is not verified, the request is still answered: with fewer
        ranked candidates, or with the ads in retrieval order. `Answer.degraded` says why.

        Args:
            request: Request to answer.
            started: Clock time at which the request arrived, in seconds. None: now.

        Raises:
            InvalidRequestError: A field is not valid; the message names it.
            OverloadedError: The request cannot be answered in time.
            IndexUnavailableError: The index is in Milvus, which does not answer in time.
        """
        started = self._clock() if started is None else started
        valid = self._validator.check(request)
        deadline = Deadline(
            valid.deadline_ms or self.config.default_deadline_ms, started, self._clock
        )
        with self.admission.admitted(deadline, 1, self._num_ads(valid)):
            (valid,) = await self._with_users([valid], deadline)
            found = await self._retrieval.find(valid, self._num_candidates(valid), deadline)
            ranked = await self._rank(found, valid.k, deadline)
            (answered,) = await self._compose([valid], found, ranked, deadline)
        self._record(answered)
        return answered.answer

    async def recommend_batch(
        self, requests: Sequence[Request], started: float | None = None
    ) -> list[Answer]:
        """Returns the answers to many requests, in their order.

        Requests with the same deadline and number of candidates are computed together; each answer
        is the same as for a single request.

        Args:
            requests: Requests to answer.
            started: Clock time at which the requests arrived, in seconds. None: now.

        Raises:
            InvalidRequestError: A request is not valid, so the whole batch is refused; the message
                names the request.
            RequestTooLargeError: The requests need too many ads.
            OverloadedError: The batch cannot be answered in time.
        """
        started = self._clock() if started is None else started
        batch = self.check_batch(requests)
        request_batch.check_num_ads(batch.size, batch.num_ads, self.config.max_ads_per_call)
        with self.admitted_batch(batch, started):
            answered = await self.answer_batch(batch, started)
        await self.record(answered)
        return [result.answer for result in answered]

    def check_batch(
        self, requests: Sequence[Request], positions: Sequence[int] | None = None
    ) -> request_batch.RequestBatch:
        """Validates the requests of a batch.

        Args:
            requests: Requests of the batch.
            positions: Their positions in a larger batch, for messages. None: they are all of it.

        Raises:
            InvalidRequestError: A request is not valid, so that the whole batch is refused and the
                message names the request, or the batch is too long.
        """
        if len(requests) > self.config.max_batch:
            raise errors.InvalidRequestError(
                f"requests: expected at most {self.config.max_batch} values, got {len(requests)}. "
                "Send several batches."
            )
        num_ads = 0
        groups: dict[tuple[float, int], list[tuple[int, ValidRequest]]] = {}
        for position, request in enumerate(requests):
            try:
                valid = self._validator.check(request)
            except errors.InvalidRequestError as error:
                place = f"requests[{position if positions is None else positions[position]}]"
                raise errors.InvalidRequestError(f"{place}.{error}") from error
            num_ads += self._num_ads(valid)
            deadline_ms = valid.deadline_ms or self.config.batch_deadline_ms
            group = groups.setdefault((deadline_ms, self._num_candidates(valid)), [])
            group.append((position, valid))
        longest_ms = max((key[0] for key in groups), default=self.config.batch_deadline_ms)
        return request_batch.RequestBatch(len(requests), num_ads, groups, longest_ms)

    def admitted_batch(
        self, batch: request_batch.RequestBatch, started: float
    ) -> contextlib.AbstractContextManager[None]:
        """Returns the context in which a batch is answered.

        Args:
            batch: Batch returned by `check_batch`.
            started: Clock time at which the requests arrived, in seconds.

        Raises:
            OverloadedError: On entry: the batch cannot be answered in time.
        """
        return self.admission.admitted(
            Deadline(batch.longest_ms, started, self._clock),
            batch.size,
            batch.num_ads,
            min(batch.size, self.config.requests_per_call),
        )

    async def answer_batch(
        self, batch: request_batch.RequestBatch, started: float
    ) -> list[request_batch.Answered]:
        """Answers a validated and admitted batch, without recording the answers.

        Args:
            batch: Batch returned by `check_batch`.
            started: Clock time at which the requests arrived, in seconds.

        Raises:
            OverloadedError: The longest deadline passed before all requests were answered.
        """
        longest = Deadline(batch.longest_ms, started, self._clock)
        answered: dict[int, request_batch.Answered] = {}
        # The earliest deadline comes first.
        for (deadline_ms, num_candidates), members in sorted(
            batch.groups.items(), key=lambda group: group[0]
        ):
            for start in range(0, len(members), self.config.requests_per_call):
                positions, valids = zip(
                    *members[start : start + self.config.requests_per_call], strict=True
                )
                deadline = Deadline(deadline_ms, started, self._clock)
                if start and longest.remaining_ms() <= 0:
                    raise errors.OverloadedError(
                        f"{len(answered)} of {batch.size} requests were answered by the deadline "
                        f"of {longest.milliseconds:g} ms. Send smaller batches, or a longer "
                        "deadline."
                    )
                known = await self._with_users(valids, deadline)
                # Requests that are too late themselves are answered in retrieval order.
                for found in await self._retrieval.find_together(known, num_candidates, longest):
                    max_k = max(known[index].k for index in found.positions)
                    for part, ranked in await self._rank_together(found, max_k, deadline):
                        part_valids = [known[index] for index in part.positions]
                        composed = await self._compose(part_valids, part, ranked, deadline)
                        for index, result in zip(part.positions, composed, strict=True):
                            answered[positions[index]] = result
        return [answered[position] for position in range(batch.size)]

    async def record(self, answered: Sequence[request_batch.Answered]) -> None:
        """Updates metrics and impression log with answers that are sent, except dry runs."""
        async for position in request_batch.in_turns([result.answer for result in answered]):
            self._record(answered[position])

    async def close(self) -> None:
        """Closes the connection to the ranker and stops the threads."""
        if self._ranker is not None:
            await self._ranker.close()
        self.live.close()
        self._retrieval.close()
        self._composing.shutdown(wait=False)
        self.metrics.end(self.release.version)

    async def _with_users(
        self, valids: Sequence[ValidRequest], deadline: Deadline
    ) -> Sequence[ValidRequest]:
        """Returns the requests completed with the stored data of their users."""
        if self._user_stage is None:
            return valids
        return await self._user_stage.fill(valids, deadline)

    def _num_candidates(self, valid: ValidRequest) -> int:
        return max(self.config.num_candidates, valid.k)

    def _num_ads(self, valid: ValidRequest) -> int:
        """Returns the maximum number of ads that an answer lists."""
        return valid.k + (self._num_candidates(valid) if valid.candidates else 0)

    async def _rank_together(
        self, found: candidates.CandidateGroup, min_count: int, deadline: Deadline
    ) -> list[tuple[candidates.CandidateGroup, ranking_stage.Ranking]]:
        """Ranks a group; each of its requests alone if one may be at fault for a failed call."""
        ranked = await self._rank(found, min_count, deadline)
        if not ranked.is_rejected or len(found.positions) == 1:
            return [(found, ranked)]
        single = [
            dataclasses.replace(found.single(row), positions=[position])
            for row, position in enumerate(found.positions)
        ]
        return [(group, await self._rank(group, min_count, deadline)) for group in single]

    async def _rank(
        self, found: candidates.CandidateGroup, min_count: int, deadline: Deadline
    ) -> ranking_stage.Ranking:
        self._observe_live()
        if self._ranking is None:
            return ranking_stage.Ranking(None, None)
        started = self._clock()
        ranked = await self._ranking.rank(found, min_count, deadline)
        self._observe_ranker()
        milliseconds = (self._clock() - started) * 1000
        return dataclasses.replace(ranked, milliseconds=milliseconds)

    def _observe_ranker(self) -> None:
        if self._ranker is None:
            return
        self.metrics.observe_breaker(self.release.version, self._ranker.is_paused)
        states = self._ranker.states()
        if states != self._observed_replicas:
            self._observed_replicas = states
            self.metrics.observe_replicas(self.release.version, states)

    def _observe_live(self) -> None:
        state = (self.live.problem is not None, self.live.cut_bytes, self.live.num_updates)
        if state != self._observed_live:
            self._observed_live = state
            self.metrics.observe_live(self.release.version, *state)

    def _record(self, result: request_batch.Answered) -> None:
        valid, answer, release = result.valid, result.answer, self.release.manifest
        if valid.dry_run:
            return
        self.metrics.observe_answer(release, answer, result.num_found, result.num_ranked)
        if self.users is not None and valid.user_id is not None:
            self.users.record(valid.user_id, answer, result.asked_at)
        if self.impressions is not None:
            self.impressions.record(release, valid, answer, result.asked_at)

    async def _compose(
        self,
        valids: Sequence[ValidRequest],
        found: candidates.CandidateGroup,
        ranked: ranking_stage.Ranking,
        deadline: Deadline,
    ) -> list[request_batch.Answered]:
        """Composes the answers to the requests of a group."""

        def compose() -> list[request_batch.Answered]:
            return [
                self._compose_one(valid, found, row, ranked, deadline)
                for row, valid in enumerate(valids)
            ]

        if sum(map(self._num_ads, valids)) <= _MAX_INLINE_ADS:
            return compose()
        return await asyncio.get_running_loop().run_in_executor(self._composing, compose)

    def _compose_one(
        self,
        valid: ValidRequest,
        found: candidates.CandidateGroup,
        row: int,
        ranked: ranking_stage.Ranking,
        deadline: Deadline,
    ) -> request_batch.Answered:
        """Applies the rules to the candidates of one request and composes its answer."""
        # In the order of the stages.
        users = {} if valid.user_data is None else {"users": valid.user_ms}
        stage_ms = {**users, **found.stage_ms, "ranker": ranked.milliseconds}
        row_candidates, head_scores = found.candidates_of(row), None
        if ranked.scores is not None:
            row_candidates = found.candidates_of(row, ranked.num_ranked)
            head_scores = {head: scores[row] for head, scores in ranked.scores.items()}
        answer = answers.compose(
            self.release, valid, row_candidates, head_scores, stage_ms, ranked.degraded
        )
        seconds = self._clock() - deadline.started
        answer.stage_ms["total"] = seconds * 1000
        now = time.time() if self.users is None else self.users.now()
        return request_batch.Answered(
            valid, answer, found.rows.shape[1], ranked.num_ranked, now - seconds
        )
