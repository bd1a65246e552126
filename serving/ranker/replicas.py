"""Calls one of several rankers that serve the same release, and another one if it fails or is late.

    choice          the healthy replica with the lowest (calls in flight + 1) × recent slowness
    failed call     the next replica is called at once; each replica once
    busy replica    the next replica is called; if all are busy, they are called again after a pause
    late call       a second replica is called, and the first answer counts
    unhealthy       a replica whose last call failed, or was late while another could be called, or
                    that is not verified, is called only if no healthy one is left; meanwhile its
                    probes are run in the background until they pass
    bad reply       a rejected call or a score that is NaN may be the request's fault, so the
                    replica is unhealthy only if its probes fail, too

With a single replica, calls wait for it, see `VerifiedRanker.predict`.

References: Finagle's Peak EWMA balancer (Twitter, 2015) for the slowness; J. Dean and L. Barroso,
The Tail at Scale, CACM 2013, for second calls; gRFC A6 for their budget.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from serving import errors, releases, requests
from serving.ranker import endpoints, pace, ranker_client, verified_ranker
from serving.ranker.replica import Replica

# A call is late after this multiple of the expected latency.
_LATE_FACTOR = 4.0
_MIN_LATE_SECONDS = 0.02
# Second calls in a row, and second calls per call in the long run: when all replicas are slow,
# second calls would only add load.
_MAX_SECOND_CALLS, _SECOND_CALLS_PER_CALL = 10.0, 0.05
# Minimum time between two background checks of a replica.
_CHECK_SECONDS = 0.5


class Replicas:
    """The verified rankers of a release. Not thread-safe: use it from one event loop.

    Args:
        release: Loaded release.
        client: Client of one server, or the endpoints of several.
        clock: Returns the time in seconds, for the latency of calls.
        observe_call: Called after each call with the address of the replica and the outcome: `ok`,
            `late`, `busy` or `failed`.
        observe_check: Called after each background check of a replica.
    """

    def __init__(
        self,
        release: releases.Bundle,
        client: verified_ranker.Scorer | endpoints.Endpoints,
        clock: Callable[[], float],
        observe_call: Callable[[str, str], None],
        observe_check: Callable[[], None],
    ) -> None:
        self._release = release
        self._clock = clock
        self._observe_call = observe_call
        self._observe_check = observe_check
        self._endpoints = client if isinstance(client, endpoints.Endpoints) else None
        self._client = client
        self._replicas: dict[str, Replica] = {}
        self._update()
        # Excludes calls that ran into their deadline: the latency of healthy replicas.
        self._healthy_pace = pace.Pace()
        self._last_error = "The ranker has failed."
        self._second_calls = _MAX_SECOND_CALLS
        self._turn = 0

    @property
    def is_paused(self) -> bool:
        """Whether no replica is called until its probes pass."""
        return all(replica.is_paused for replica in self._replicas.values())

    @property
    def num_healthy(self) -> int:
        """Number of replicas that calls are spread over, at least 1."""
        if len(self._replicas) < 2:
            return 1
        return max(1, sum(replica.is_healthy for replica in self._replicas.values()))

    @property
    def problem(self) -> str | None:
        """Why some replicas cannot be used, or None."""
        problems = [replica.problem for replica in self._replicas.values()]
        if self._endpoints is not None:
            problems.append(self._endpoints.problem)
        return " ".join(filter(None, problems)) or None

    @property
    def not_ready(self) -> str | None:
        """The reason not to route traffic here, or None if a replica has been verified."""
        if self._endpoints is not None and not self._replicas:
            return str(endpoints.unresolved(self._endpoints))
        reasons = [replica.ranker.not_ready for replica in self._replicas.values()]
        return None if None in reasons else " ".join(filter(None, reasons))

    def states(self) -> dict[str, bool]:
        """Returns address -> whether the replica is called. Call it in the event loop."""
        single = len(self._replicas) == 1
        return {
            # A single replica is called regardless of its last call.
            address: not replica.is_paused if single else replica.is_healthy
            for address, replica in self._replicas.items()
        }

    async def verify(self, timeout_seconds: float) -> None:
        """Verifies the replicas that are not verified, if they can be reached.

        Args:
            timeout_seconds: Time to wait for the checks.

        Raises:
            RankerError: No replica is verified; the error comes from the first one.
        """
        end = time.monotonic() + timeout_seconds
        await self._refresh(timeout_seconds)
        if not self._replicas:
            raise endpoints.unresolved(self._endpoints)  # type: ignore[arg-type]
        remaining = end - time.monotonic()
        found = await asyncio.gather(
            *(
                self._verify(replica, timeout_seconds=remaining)
                for replica in self._replicas.values()
            ),
            return_exceptions=True,
        )
        if None not in found:
            raise found[0]  # type: ignore[misc]

    @property
    def behind(self) -> str | None:
        """Why a replica that can be reached does not serve the release yet, or None."""
        return next(
            (replica.problem for replica in self._replicas.values() if replica.ranker.is_behind),
            None,
        )

    def check_unhealthy(self) -> None:
        """Runs the probes of the unhealthy replicas in the background, until they pass."""
        for replica in self._replicas.values():
            if not replica.is_healthy:
                self._check(replica)

    async def predict(
        self, columns: requests.Columns, ad_features: np.ndarray, timeout_seconds: float
    ) -> dict[str, np.ndarray]:
        """Scores candidates; see `RankerClient.predict`.

        Args:
            columns: Query field -> [B] or [B, L].
            ad_features: [B, C, F] int32.
            timeout_seconds: Time for all calls together.

        Raises:
            RankerUnavailableError: All replicas are paused, or no server can be reached.
            RankerError: The calls failed.
        """
        end = time.monotonic() + timeout_seconds
        await self._refresh(timeout_seconds)
        if len(self._replicas) == 1:
            (replica,) = self._replicas.values()
            if replica.is_paused:
                self._check(replica)
                raise self._paused()
            return await self._call(replica, columns, ad_features, end, wait=True)
        if not self._replicas:
            raise endpoints.unresolved(self._endpoints)  # type: ignore[arg-type]
        self.check_unhealthy()
        busy: errors.RankerBusyError | None = None
        waits = ranker_client.pauses()
        while True:
            pause = next(waits)
            try:
                return await self._call_in_turn(columns, ad_features, end)
            except errors.RankerBusyError as error:
                # Later errors name only the time that was left.
                busy = busy or error
            except errors.RankerDeadlineError:
                if busy is None:
                    raise
            if time.monotonic() + pause >= end:
                raise busy
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Closes the connections."""
        for replica in self._replicas.values():
            replica.end_check()
        await self._client.close()

    async def _call_in_turn(
        self, columns: requests.Columns, ad_features: np.ndarray, end: float
    ) -> dict[str, np.ndarray]:
        """Calls each replica at most once, until one answers."""
        tried: list[Replica] = []
        running: dict[asyncio.Task[dict[str, np.ndarray]], Replica] = {}
        error: errors.RankerError | None = None
        is_late = False
        try:
            while True:
                has_time = not tried or time.monotonic() < end
                replica = self._next(tried, only_healthy=bool(running)) if has_time else None
                if replica is not None:
                    # If no other can be called, all may be late, so none should be avoided.
                    if is_late:
                        self._avoid(running)
                    tried.append(replica)
                    # The last healthy one is waited for, if it reconnects or is busy.
                    wait = replica.is_healthy and self.num_healthy == 1
                    call = self._call(replica, columns, ad_features, end, wait)
                    running[asyncio.get_running_loop().create_task(call)] = replica
                elif not running:
                    raise error or self._paused()
                late = self._late_seconds(ad_features.shape, end) if replica else None
                done, _ = await asyncio.wait(
                    running, timeout=late, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del running[task]
                failed = [failure for task in done if (failure := task.exception()) is not None]
                if len(failed) < len(done):
                    return next(task.result() for task in done if task.exception() is None)
                for failure in failed:
                    if not isinstance(failure, errors.RankerError):
                        raise failure
                    # If all are busy, or one is busy and others are down, the busy one is waited
                    # for.
                    if not isinstance(error, errors.RankerBusyError):
                        error = failure
                is_late = not done
        finally:
            for task in running:
                task.cancel()

    def _next(self, tried: Iterable[Replica], only_healthy: bool) -> Replica | None:
        """Returns the replica to call next, or None."""
        now = self._clock()
        left = [
            replica
            for replica in self._replicas.values()
            if replica not in tried and not replica.is_paused
        ]
        # Among equals, the one that has been idle longest is first.
        chosen = min(
            left,
            key=lambda replica: (not replica.is_healthy, replica.load(now), replica.turn),
            default=None,
        )
        if chosen is None:
            return None
        if only_healthy:
            if not chosen.is_healthy or self._second_calls < 1:
                return None
            self._second_calls -= 1
        self._turn += 1
        chosen.turn = self._turn
        return chosen

    def _late_seconds(self, shape: tuple[int, ...], end: float) -> float:
        """Returns the time after which a call for [B, C] scores is late."""
        remaining = end - time.monotonic()
        expected = self._healthy_pace.expected_ms(shape[0] * shape[1]) / 1000
        if not expected:
            return remaining / 2
        return min(max(_LATE_FACTOR * expected, _MIN_LATE_SECONDS), remaining / 2)

    def _avoid(self, running: dict[asyncio.Task[dict[str, np.ndarray]], Replica]) -> None:
        """Makes other calls avoid late replicas until they answer their probes."""
        for replica in running.values():
            if not replica.suspect:
                replica.suspect = True
                self._observe_call(replica.client.address, "late")
        self.check_unhealthy()

    async def _call(
        self,
        replica: Replica,
        columns: requests.Columns,
        ad_features: np.ndarray,
        end: float,
        wait: bool,
    ) -> dict[str, np.ndarray]:
        """Calls a replica and records the outcome."""
        num_scores = ad_features.shape[0] * ad_features.shape[1]
        timeout_seconds = end - time.monotonic()
        started = self._clock()
        replica.in_flight += 1
        try:
            outputs = await replica.ranker.predict(columns, ad_features, timeout_seconds, wait)
        except errors.RankerError as error:
            self._failed(replica, error, num_scores, timeout_seconds)
            raise
        finally:
            replica.in_flight -= 1
            now = self._clock()
            expected = self._healthy_pace.expected_ms(num_scores)
            if expected:
                replica.observe((now - started) * 1000 / expected, now)
        replica.failures = 0
        replica.suspect = False
        self._healthy_pace.observe(num_scores, (now - started) * 1000)
        self._second_calls = min(_MAX_SECOND_CALLS, self._second_calls + _SECOND_CALLS_PER_CALL)
        self._observe_call(replica.client.address, "ok")
        return outputs

    def _failed(
        self, replica: Replica, error: errors.RankerError, num_scores: int, seconds: float
    ) -> None:
        is_busy = isinstance(error, errors.RankerBusyError)
        is_late = isinstance(error, errors.RankerDeadlineError)
        self._observe_call(
            replica.client.address, "busy" if is_busy else "late" if is_late else "failed"
        )
        self._last_error = str(error)
        # A replica that is busy is healthy, and it is not at fault if the time was too short from
        # the start.
        too_short = seconds * 1000 < self._healthy_pace.expected_ms(num_scores)
        if is_busy or (is_late and too_short):
            return
        if not isinstance(error, errors.RankerReplyError):
            replica.failures += 1
            replica.suspect = True
        self._check(replica)

    def _check(self, replica: Replica) -> None:
        """Runs the probes of a replica in the background, until they pass."""
        if replica not in self._replicas.values():
            return  # The server of the failed call has left DNS.
        loop = asyncio.get_running_loop()
        task = replica.check
        if task is not None and not task.done() and task.get_loop() is loop:
            return
        if not replica.is_healthy or time.monotonic() >= replica.next_check:
            replica.check = loop.create_task(self._run_checks(replica))

    async def _run_checks(self, replica: Replica) -> None:
        while True:
            replica.next_check = time.monotonic() + _CHECK_SECONDS
            try:
                await self._verify(replica, again=True)
            except errors.RankerError:
                # Only failed calls pause it: no request waits for a server that is back.
                replica.suspect = True
            self._observe_check()
            # It may have answered a call meanwhile.
            if replica.is_healthy:
                return
            await asyncio.sleep(_CHECK_SECONDS)

    async def _verify(self, replica: Replica, again: bool = False, **options: Any) -> None:
        """Runs the probes of a replica; if they pass, calls are sent to it again."""
        is_run = again or not replica.ranker.is_verified
        await replica.ranker.verify(again=again, **options)
        if is_run:
            replica.failures = 0
            replica.suspect = False

    async def _refresh(self, timeout_seconds: float) -> None:
        if self._endpoints is not None:
            suspect = any(replica.suspect for replica in self._replicas.values())
            await self._endpoints.refresh(timeout_seconds, failed=suspect)
            self._update()

    def _update(self) -> None:
        """Updates the replicas to the known servers."""
        clients: dict[str, verified_ranker.Scorer] = {}
        if self._endpoints is None:
            clients[self._client.address] = self._client  # type: ignore[assignment]
        else:
            clients.update(self._endpoints.clients)
        known = {replica.client: replica for replica in self._replicas.values()}
        # By client: the client of a server that left DNS and came back is closed.
        used = set(clients.values())
        if used != known.keys():
            for client in known.keys() - used:
                known[client].end_check()
            self._replicas = {
                address: known.get(client) or Replica(client, self._release)
                for address, client in clients.items()
            }

    def _paused(self) -> errors.RankerUnavailableError:
        return errors.RankerUnavailableError(
            f"{self._last_error} The ranker will be retried shortly."
        )
