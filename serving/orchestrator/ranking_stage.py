"""Gets scores for candidates in the time that is left: all of them, fewer, or none, and says so.

    time for all             the ranker scores all candidates
    time for some            it scores the best by retrieval, as many as its latest calls say and
                             the requests behind leave
    it fails at once         it is asked once more for half of them, where there is time
    late, failing, paused    no scores; the caller keeps retrieval order

Shapes: B requests, C candidates, R of them that are ranked.
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np

from serving import errors, requests
from serving.config import RankingConfig
from serving.orchestrator import candidates
from serving.ranker import CircuitBreaker, Pace, VerifiedRanker


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What the ranker gave.

    Attributes:
        scores: Head -> [B, R] float32, of the first R candidates; None = no scores.
        degraded: None, or why there are scores of fewer candidates, or none.
        num_ranked: R.
        milliseconds: Time that it took, the wait for a turn included.
    """

    scores: Mapping[str, np.ndarray] | None
    degraded: str | None
    num_ranked: int = 0
    milliseconds: float = 0.0


class RankingStage:
    """Calls one verified ranker. For one event loop at a time, no threads."""

    def __init__(
        self,
        ranker: VerifiedRanker,
        outputs: Mapping[str, str],
        config: RankingConfig | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Joins them.

        Args:
            ranker: Gives the scores.
            outputs: Head -> the ranker's output.
            config: None = the defaults.
            clock: Returns seconds; it times the calls and the breaker's pauses.
        """
        self._ranker = ranker
        self._outputs = dict(outputs)
        self._config = config or RankingConfig()
        self._clock = clock
        self._breaker = CircuitBreaker(self._config.pauses, clock)
        self._pace = Pace()
        # Without the calls that were given up: what the ranker can be blamed by.
        self._healthy_pace = Pace()
        self._last_error = ""
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def breaker_state(self) -> str:
        """`closed`, `open` or `half_open`."""
        return self._breaker.state

    async def rank(
        self, group: candidates.Candidates, least: int, until: requests.Deadline
    ) -> Ranking:
        """Returns the scores that there are by the deadline; it raises nothing.

        Args:
            group: The candidates.
            least: Ads that the largest answer shows: as many are ranked, or none.
            until: Of the requests.
        """
        found = group.rows.shape[1]
        if not found:
            # No ad is eligible, so there is nothing to rank.
            nothing = np.empty(group.rows.shape, np.float32)
            return Ranking(dict.fromkeys(self._outputs, nothing), None)
        if self._time_for_ranking(until) <= 0:
            return Ranking(None, _no_time(until))
        places = self._places()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._time_for_ranking(until) / 1000):
                await places.acquire()
        except TimeoutError:
            return Ranking(
                None, f"The ranker was busy until the deadline of {until.milliseconds:g} ms."
            )
        finally:
            self._waiting -= 1
        try:
            return await self._with_retry(group, min(found, least), until)
        finally:
            places.release()

    async def _with_retry(
        self, group: candidates.Candidates, least: int, until: requests.Deadline
    ) -> Ranking:
        found = group.rows.shape[1]
        most = found
        while True:
            remaining_ms = self._time_for_ranking(until)
            if remaining_ms <= 0:
                return Ranking(None, _no_time(until))
            if not self._breaker.admit():
                return Ranking(None, f"{self._last_error} It is asked again in a moment.")
            # Those that wait are to be ranked before their deadlines too, not only this one.
            places, waiting = self._config.max_calls, self._waiting
            share_ms = remaining_ms * places / (places + waiting)
            count = self._affordable(group.rows.shape[0], most, least, share_ms)
            try:
                outputs = await self._call(group, count, remaining_ms)
            except errors.RankerError as error:
                # A call is pure, so a second one does no harm; but one that was late has used
                # the time, and another model stays another model.
                again = isinstance(error, errors.RankerUnavailableError | errors.RankerReplyError)
                if most < found or not again or self._breaker.state != "closed":
                    return Ranking(None, str(error))
                most = max(least, found // 2)
                if most == found:
                    return Ranking(None, str(error))
                continue
            scores = {head: outputs[output] for head, output in self._outputs.items()}
            return Ranking(scores, _fewer(count, found, most, until, waiting), count)

    async def _call(
        self, group: candidates.Candidates, count: int, remaining_ms: float
    ) -> dict[str, np.ndarray]:
        """Calls the ranker and lets breaker and pace know."""
        features = group.ad_features[:, :count]
        num_scores = features.shape[0] * count
        started = self._clock()
        try:
            outputs = await self._ranker.predict(
                group.columns, np.ascontiguousarray(features), remaining_ms / 1000
            )
        except errors.RankerError as error:
            self._last_error = str(error)
            is_late = isinstance(error, errors.RankerDeadlineError)
            if is_late:
                self._pace.observe(num_scores, (self._clock() - started) * 1000)
            # Too little time from the start is not the ranker's fault.
            if is_late and remaining_ms < self._healthy_pace.expected_ms(num_scores):
                self._breaker.abandoned()
            else:
                self._breaker.failed()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        for learning in (self._pace, self._healthy_pace):
            learning.observe(num_scores, (self._clock() - started) * 1000)
        return outputs

    def _affordable(self, num_requests: int, most: int, least: int, share_ms: float) -> int:
        """Returns how many candidates of each request there is time for, halving from `most`."""
        count = most
        floor = min(most, max(least, self._config.min_candidates))
        while count > floor:
            if self._pace.expected_ms(num_requests * count) * self._config.margin <= share_ms:
                return count
            count = max(floor, count // 2)
        # Even where this seems too many: without a call the pace would never be learnt anew.
        return count

    def _time_for_ranking(self, until: requests.Deadline) -> float:
        return until.remaining_ms() - self._config.reserve_ms

    def _places(self) -> asyncio.Semaphore:
        # A semaphore belongs to an event loop, and so does the ranker's channel.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._semaphore = asyncio.Semaphore(self._config.max_calls)
        return self._semaphore


def _no_time(until: requests.Deadline) -> str:
    return f"No time was left to rank: the deadline is {until.milliseconds:g} ms."


def _fewer(count: int, found: int, most: int, until: requests.Deadline, waiting: int) -> str | None:
    if count == found:
        return None
    why = "a first call failed"
    if count < most:
        crowd = f", with {waiting} requests waiting," if waiting else ""
        why = f"the deadline of {until.milliseconds:g} ms{crowd} left no time for more"
    return f"Ranked the best {count} of {found} candidates by retrieval: {why}."
