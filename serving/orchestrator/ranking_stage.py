"""The ranking stage: scores as many candidates as the deadline allows.

    time for all candidates          the ranker scores all of them
    time for some                    it scores the best by retrieval; how many follows from the
                                     latency of recent calls and the number of waiting requests
    all calls are taken              waiting requests with similar deadlines share the next call
    the ranker is busy or restarts   gRPC calls the next server of the address
    the ranker rejects the call      it is retried once with half of the candidates; a call for
                                     several requests is made for each of them
    a score is not finite            the candidate counts as worthless, and the answer names it
    late, failing, or breaker open   no scores; the caller keeps retrieval order

Shapes: B requests, C candidates, R ranked candidates.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serving import errors, requests
from serving.config import RankingConfig
from serving.orchestrator import candidates, micro_batching
from serving.ranker import Pace, VerifiedRanker
from tfrecords import terminal

_NOT_FINITE = "The ranker's {} is NaN or infinite; expected a finite number."


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Result of the ranking stage.

    Attributes:
        scores: Scores [B, R] float32 of each head for the first R candidates. None: no scores.
        degraded: Why only some candidates, or none, have scores. None: all have.
        num_ranked: Number of ranked candidates, R.
        is_rejected: Whether there are no scores because the ranker rejected the call, or returned
            unusable ones: the request, or one of several, may be at fault.
        milliseconds: Duration of the stage including the wait for a free call, in milliseconds.
    """

    scores: Mapping[str, np.ndarray] | None
    degraded: str | None
    num_ranked: int = 0
    is_rejected: bool = False
    milliseconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Call:
    """Arguments of `RankingStage.rank`."""

    group: candidates.CandidateGroup
    min_count: int
    deadline: requests.Deadline


class RankingStage:
    """Calls a ranker within deadlines. Not thread-safe: use it from one event loop."""

    def __init__(
        self,
        ranker: VerifiedRanker,
        outputs: Mapping[str, str],
        config: RankingConfig,
        requests_per_call: int,
        clock: Callable[[], float],
    ) -> None:
        """Creates the stage."""
        self._ranker = ranker
        self._outputs = dict(outputs)
        self._config = config
        self._clock = clock
        self._pace = Pace()
        self._requests_per_call = requests_per_call
        self._batcher = micro_batching.Batcher(
            self._rank_together, max_running=self._config.max_calls, can_share=self._can_share
        )

    async def rank(
        self, group: candidates.CandidateGroup, min_count: int, deadline: requests.Deadline
    ) -> Ranking:
        """Returns the scores available by the deadline. Ranker errors are not raised."""
        found = group.rows.shape[1]
        if not found:
            # No ad is eligible.
            nothing = np.empty(group.rows.shape, np.float32)
            return Ranking(dict.fromkeys(self._outputs, nothing), None)
        time_ms = self._time_for_ranking(deadline)
        if time_ms <= 0:
            return Ranking(None, _no_time(deadline))
        call = _Call(group, min(found, min_count), deadline)
        # A shared call ends at the earliest deadline: the others are at most twice as long.
        octave = math.frexp(deadline.milliseconds)[1]
        try:
            return await self._batcher.submit((found, octave), call, time_ms / 1000)
        except TimeoutError:
            return Ranking(
                None, f"The ranker was busy until the deadline of {deadline.milliseconds:g} ms."
            )

    def _can_share(self, calls: Sequence[_Call]) -> bool:
        """Returns whether there is time to rank all candidates of several calls in one."""
        num_requests = sum(len(call.group.rows) for call in calls)
        if num_requests > self._requests_per_call:
            return False
        found, deadline = calls[0].group.rows.shape[1], _earliest(calls)
        share_ms = self._share_ms(self._time_for_ranking(deadline), num_requests)
        return self._affordable(num_requests, found, _min_count(calls), share_ms) == found

    async def _rank_together(self, calls: Sequence[_Call]) -> list[Ranking]:
        group = candidates.joined([call.group for call in calls])
        together = await self._with_retry(group, _min_count(calls), _earliest(calls))
        if together.is_rejected and len(calls) > 1:
            # One of them may be at fault.
            rankings = [
                await self._with_retry(call.group, call.min_count, call.deadline) for call in calls
            ]
        else:
            rankings = _split(together, [len(call.group.rows) for call in calls])
        return [_finite(call.group, ranking) for call, ranking in zip(calls, rankings, strict=True)]

    async def _with_retry(
        self, group: candidates.CandidateGroup, min_count: int, deadline: requests.Deadline
    ) -> Ranking:
        num_requests, found = group.rows.shape
        max_count = found
        while True:
            remaining_ms = self._time_for_ranking(deadline)
            if remaining_ms <= 0:
                return Ranking(None, _no_time(deadline))
            share_ms = self._share_ms(remaining_ms, num_requests)
            waiting = self._batcher.num_waiting
            count = self._affordable(num_requests, max_count, min_count, share_ms)
            try:
                outputs = await self._call(group, count, remaining_ms)
            except errors.RankerError as error:
                # The call may have been too large. gRPC has retried what the server refused.
                is_rejected = isinstance(error, errors.RankerReplyError)
                half = max(min_count, found // 2)
                # One of several requests may be at fault, so each is ranked alone.
                can_retry = is_rejected and num_requests == 1
                if max_count < found or half == found or not can_retry:
                    return Ranking(None, str(error), is_rejected=is_rejected)
                max_count = half
                continue
            scores = {head: outputs[output] for head, output in self._outputs.items()}
            reason = _fewer_reason(count, found, max_count, deadline, waiting)
            return Ranking(scores, reason, count)

    def _share_ms(self, remaining_ms: float, num_requests: int) -> float:
        """Returns the part of the time that a call may take.

        Waiting requests must also be ranked before their deadlines.
        """
        together = self._config.max_calls * num_requests
        return remaining_ms * together / (together + self._batcher.num_waiting)

    async def _call(
        self, group: candidates.CandidateGroup, count: int, remaining_ms: float
    ) -> dict[str, np.ndarray]:
        """Calls the ranker and updates the latency estimate."""
        features = group.ad_features[:, :count]
        num_scores = features.shape[0] * count
        started = self._clock()
        try:
            outputs = await self._ranker.predict(
                group.columns, np.ascontiguousarray(features), remaining_ms / 1000
            )
        except errors.RankerDeadlineError:
            self._pace.observe(num_scores, (self._clock() - started) * 1000)
            raise
        self._pace.observe(num_scores, (self._clock() - started) * 1000)
        return outputs

    def _affordable(
        self, num_requests: int, max_count: int, min_count: int, share_ms: float
    ) -> int:
        """Returns how many candidates of each request can be ranked in time.

        It halves the number from `max_count` until the expected latency fits into `share_ms`.
        """
        count = max_count
        floor = min(max_count, max(min_count, self._config.min_candidates))
        while count > floor:
            if self._pace.expected_ms(num_requests * count) * self._config.margin <= share_ms:
                return count
            count = max(floor, count // 2)
        # The minimum is ranked even if it seems too slow: without calls the estimate would never
        # be updated.
        return count

    def _time_for_ranking(self, deadline: requests.Deadline) -> float:
        return deadline.remaining_ms() - self._config.reserve_ms


def _earliest(calls: Sequence[_Call]) -> requests.Deadline:
    return min((call.deadline for call in calls), key=requests.Deadline.remaining_ms)


def _min_count(calls: Sequence[_Call]) -> int:
    return max(call.min_count for call in calls)


def _split(ranking: Ranking, lengths: Sequence[int]) -> list[Ranking]:
    """Returns the parts of a ranking with the given numbers of requests."""
    if ranking.scores is None:
        return [ranking] * len(lengths)
    ends = np.cumsum(lengths)
    return [
        dataclasses.replace(
            ranking,
            scores={head: scores[end - n : end] for head, scores in ranking.scores.items()},
        )
        for end, n in zip(ends, lengths, strict=True)
    ]


def _finite(group: candidates.CandidateGroup, ranking: Ranking) -> Ranking:
    """Returns a ranking whose non-finite scores are 0, which `degraded` says."""
    if ranking.scores is None:
        return ranking
    is_bad = np.any([~np.isfinite(scores) for scores in ranking.scores.values()], axis=0)
    if not is_bad.any():
        return ranking
    if is_bad.all(axis=1).any():
        return Ranking(None, _NOT_FINITE.format("score of every candidate"), is_rejected=True)
    return dataclasses.replace(
        ranking,
        scores={head: np.where(is_bad, 0.0, scores) for head, scores in ranking.scores.items()},
        degraded=" ".join(filter(None, (ranking.degraded, _bad_scores(group, is_bad)))),
    )


def _bad_scores(group: candidates.CandidateGroup, is_bad: np.ndarray) -> str:
    """Returns the reason for answers that contain candidates [B, R] with non-finite scores."""
    rows = group.rows[:, : is_bad.shape[1]][is_bad]
    (ad_id,) = group.ads.ad_ids(rows[:1])
    count = terminal.format_count(len(rows), "score counts as 0", "scores count as 0")
    return f"{_NOT_FINITE.format(f'score of ad {ad_id!r}')} {count}."


def _no_time(deadline: requests.Deadline) -> str:
    return f"No time was left for ranking: the deadline is {deadline.milliseconds:g} ms."


def _fewer_reason(
    count: int, found: int, max_count: int, deadline: requests.Deadline, waiting: int
) -> str | None:
    if count == found:
        return None
    why = "the first ranker call failed"
    if count < max_count:
        queue = f", with {waiting} requests waiting," if waiting else ""
        why = f"the deadline of {deadline.milliseconds:g} ms{queue} left no time for more"
    return f"Ranked the best {count} of {found} retrieved candidates: {why}."
