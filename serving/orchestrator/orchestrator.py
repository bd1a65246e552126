"""Answers requests: embeds the query, searches the index, ranks candidates, applies the rules.

    orchestrator = Orchestrator(releases.load("bundles"), client)
    answer = await orchestrator.recommend(Request(user={"country": "CH"}, k=10))

Shapes: B requests that share a call, C candidates.
"""

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from serving import errors, live, ranker, releases
from serving.config import OrchestratorConfig
from serving.health import Health
from serving.impressions import ImpressionLog
from serving.orchestrator import (
    admission,
    answers,
    candidates,
    ranking_stage,
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

# Answers with more ads, 2 ms of work, are composed in a thread, because the event loop has other
# requests to answer.
_MAX_INLINE_ADS = 100
# Part of `Health`.
_LIVE = "live updates"


class Orchestrator:
    """Answers requests with one release bundle and one ranker.

    Requests may run concurrently in one event loop. Those that wait share calls of the models.
    """

    def __init__(
        self,
        release: releases.Bundle,
        client: ranker.Scorer | None,
        config: OrchestratorConfig | None = None,
        metrics: service_metrics.ServiceMetrics | None = None,
        impressions: ImpressionLog | None = None,
        admitting: admission.Admission | None = None,
        users: user_data.UserData | None = None,
        health: Health | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Creates an orchestrator. The ranker is verified before its first scores are used.

        Args:
            release: Loaded release bundle.
            client: Client of the release's ranker. None: the release has no ranker, and ads are in
                retrieval order.
            config: Options. None: the defaults.
            metrics: Metrics to update. None: new ones.
            impressions: Impression log to record answers in; the caller closes it. None: no log.
            admitting: Admission control, which releases in a process share. None: a new one.
            users: User store, which releases in a process share; the caller closes it. None: only
                the request itself describes the user.
            health: Where problems are reported, which releases in a process share. None: a new one.
            clock: Returns the time in seconds, for deadlines, ranker latency and the circuit
                breaker.

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
        self.live = live.LiveIndex(release)
        self.impressions = impressions
        self.metrics = metrics or service_metrics.ServiceMetrics()
        self.health = health or Health(self.metrics.observe_problem)
        self._ranker = None
        self._ranking = None
        if client is not None:
            count = functools.partial(self.metrics.count_ranker_call, release.version)
            self._ranker = ranker.VerifiedRanker(release, client, self.health, clock, count)
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
        self._observed_live: tuple[str | None, int] | None = None
        self._observe_live()

    @property
    def not_ready(self) -> str | None:
        """Why the service cannot give ranked answers, or None if it is ready."""
        return None if self._ranker is None else self._ranker.not_ready

    async def verify_ranker(self, timeout_seconds: float = 5.0) -> None:
        """Verifies that the ranker, if any, reproduces the bundle's probes.

        Args:
            timeout_seconds: Timeout in seconds.

        Raises:
            RankerMismatchError: The server serves a different model; its scores are not used.
            RankerError: The ranker call failed.
        """
        if self._ranker is not None:
            await self._ranker.verify(timeout_seconds)

    async def observe(self) -> None:
        """Applies new live updates, and calls the ranker if it failed.

        Otherwise a service without requests would report an old state.
        """
        await asyncio.to_thread(self.live.refresh)
        self._observe_live()
        if self._ranker is not None and self._ranker.problem is not None:
            with contextlib.suppress(errors.RankerError):
                await self._ranker.verify()

    def check(self, request: Request) -> ValidRequest:
        """Checks a request against the release.

        Raises:
            InvalidRequestError: Names the first invalid field.
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
        milliseconds = valid.deadline_ms or self.config.default_deadline_ms
        deadline = Deadline(milliseconds, started, self._clock)
        with self.admission.admitted(deadline, self.num_ads(valid)):
            if self._user_stage is not None:
                valid = await self._user_stage.fill(valid, deadline)
            found = await self._retrieval.find(valid, self._num_candidates(valid), deadline)
            ranked = await self._rank(found, valid.k, deadline)
            answer = await self._compose(valid, found, ranked, deadline)
        self._record(valid, answer, found.rows.shape[1], ranked.num_ranked, deadline)
        return answer

    def num_ads(self, request: Request | ValidRequest) -> int:
        """Returns the maximum number of ads that the answer to a request lists."""
        k = request.k or self.config.default_k
        return k + (max(self.config.num_candidates, k) if request.candidates else 0)

    async def close(self) -> None:
        """Closes the connection to the ranker and stops the threads."""
        if self._ranker is not None:
            await self._ranker.close()
        self.health.set(_LIVE, None, self.release.version)
        self._retrieval.close()
        self._composing.shutdown(wait=False)

    def _num_candidates(self, valid: ValidRequest) -> int:
        return max(self.config.num_candidates, valid.k)

    async def _rank(
        self, found: candidates.CandidateGroup, min_count: int, deadline: Deadline
    ) -> ranking_stage.Ranking:
        self._observe_live()
        if self._ranking is None:
            return ranking_stage.Ranking(None, None)
        started = self._clock()
        ranked = await self._ranking.rank(found, min_count, deadline)
        milliseconds = (self._clock() - started) * 1000
        return dataclasses.replace(ranked, milliseconds=milliseconds)

    def _observe_live(self) -> None:
        state = self.live.problem, self.live.num_updates
        if state != self._observed_live:
            self._observed_live = state
            self.health.set(_LIVE, self.live.problem, self.release.version)
            self.metrics.observe_live(self.release.version, self.live.num_updates)

    async def _compose(
        self,
        valid: ValidRequest,
        found: candidates.CandidateGroup,
        ranked: ranking_stage.Ranking,
        deadline: Deadline,
    ) -> Answer:
        """Applies the rules to the candidates and composes the answer."""

        def compose() -> Answer:
            row_candidates, head_scores = found.candidates_of(0), None
            if ranked.scores is not None:
                row_candidates = found.candidates_of(0, ranked.num_ranked)
                head_scores = {head: scores[0] for head, scores in ranked.scores.items()}
            # In the order of the stages.
            users = {} if valid.user_data is None else {"users": valid.user_ms}
            stage_ms = {**users, **found.stage_ms, "ranker": ranked.milliseconds}
            return answers.compose(
                self.release, valid, row_candidates, head_scores, stage_ms, ranked.degraded
            )

        if self.num_ads(valid) <= _MAX_INLINE_ADS:
            answer = compose()
        else:
            answer = await asyncio.get_running_loop().run_in_executor(self._composing, compose)
        answer.stage_ms["total"] = (self._clock() - deadline.started) * 1000
        return answer

    def _record(
        self, valid: ValidRequest, answer: Answer, num_found: int, num_ranked: int, asked: Deadline
    ) -> None:
        """Updates metrics, user store and impression log with an answer that a user will see."""
        if valid.dry_run:
            return
        release = self.release.manifest
        self.metrics.observe_answer(release, answer, num_found, num_ranked)
        now = time.time() if self.users is None else self.users.now()
        asked_at = now - (self._clock() - asked.started)
        if self.users is not None and valid.user_id is not None:
            self.users.record(valid.user_id, answer, asked_at)
        if self.impressions is not None:
            self.impressions.record(release, valid, answer, asked_at)


def describe_release(service: Orchestrator) -> dict[str, Any]:
    """Describes a served release for clients.

    Args:
        service: Orchestrator of the release.

    Returns:
        Fields, heads, index and metrics of the release; the state of its live updates, and of the
        impression log and the user store (None if disabled); request limits; and sample requests,
        which are the raw query fields of the release's probes.
    """
    release, config, impressions = service.release.manifest, service.config, service.impressions
    return {
        "version": release.version,
        "created": release.created,
        "training_id": release.training_id,
        "dataset_fingerprint": release.dataset_fingerprint,
        "query_fields": release.query_fields,
        "ad_fields": release.ad_fields,
        "parts": release.parts,
        "heads": {head.label: head.trained for head in release.heads},
        "weak_heads": release.weak_heads,
        "outputs": {head.label: head.output for head in release.heads},
        "weights": release.utility_weights,
        "weights_source": release.weights_source,
        "index": release.index,
        "metrics": release.metrics,
        "live": service.live.status(),
        "impression_log": None if impressions is None else impressions.status(),
        "user_store": None if service.users is None else service.users.status(),
        "limits": {
            "num_candidates": config.num_candidates,
            "default_k": config.default_k,
            "max_k": config.max_k,
            "max_ads_per_call": config.max_ads_per_call,
            "default_deadline_ms": config.default_deadline_ms,
        },
        "sample_requests": release.probes["requests"],
    }
