"""A ranker whose scores are used only after it has reproduced the bundle's probes."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from serving import errors, releases, requests
from serving.circuit_breaker import CircuitBreaker
from serving.health import Health
from serving.ranker import local_ranker, ranker_client

PART = "ranker"
_PROBE_TIMEOUT_SECONDS = 5.0
# Time in which a ranker that failed its probes is not asked again.
_RECHECK_SECONDS = 1.0

# A ranker on model servers, or in this process; both have the same methods.
Scorer: TypeAlias = ranker_client.RankerClient | local_ranker.LocalRanker


def connect(release: releases.Bundle, address: str) -> ranker_client.RankerClient | None:
    """Returns a client for the ranker of a release, or None if it has none.

    Args:
        release: Loaded release.
        address: Address of the model servers; see `target`.

    Raises:
        ValueError: The address is not valid.
    """
    if not release.manifest.has_ranker:
        return None
    outputs = release.manifest.outputs.values()
    return ranker_client.RankerClient(address, version=release.version, outputs=outputs)


class VerifiedRanker:
    """Calls a ranker once it has reproduced the probes, unless it fails repeatedly.

    Not thread-safe: use it from one event loop.

    Args:
        release: Loaded release.
        client: Client of its ranker.
        health: Where problems of the ranker are reported.
        clock: Returns the time in seconds, for the circuit breaker.
        count: Called after each call with its outcome: `ok`, `late`, `busy` or `failed`.
    """

    def __init__(
        self,
        release: releases.Bundle,
        client: Scorer,
        health: Health,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._manifest = release.manifest
        self._client = client
        self._health = health
        self._count = count
        self._columns = releases.query_columns(release.manifest)
        self._features = release.ad_index.features(releases.candidate_rows(release.manifest))
        self._breaker = CircuitBreaker(clock)
        self._is_verified = False
        self._problem: errors.RankerError | None = None
        self._recheck_at = 0.0
        self._check: asyncio.Task[errors.RankerError | None] | None = None

    @property
    def problem(self) -> str | None:
        """Why the last call returned no scores, or None."""
        return None if self._problem is None else str(self._problem)

    @property
    def is_paused(self) -> bool:
        """Whether the ranker is not called, because it failed repeatedly."""
        return self._breaker.is_open

    @property
    def not_ready(self) -> str | None:
        """Why the service should get no traffic: the ranker was never verified. None: it was.

        A verified ranker that became unavailable is no reason: answers in retrieval order are
        better than none.
        """
        if self._is_verified:
            return None
        return self.problem or "The ranker has not been verified yet."

    async def verify(self, timeout_seconds: float = _PROBE_TIMEOUT_SECONDS) -> None:
        """Runs the probes. If they pass, the ranker is called from now on.

        Args:
            timeout_seconds: Time to wait for the probes.

        Raises:
            RankerMismatchError: The ranker is another model.
            RankerDeadlineError: The probes took longer. They continue in the background.
            RankerError: The call failed.
        """
        if isinstance(self._problem, errors.RankerMismatchError) and (
            time.monotonic() < self._recheck_at
        ):
            raise errors.RankerMismatchError(str(self._problem))
        # Requests that arrive together share one check, and it outlives their deadlines.
        task = self._check
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            running = self._run_probes(max(timeout_seconds, _PROBE_TIMEOUT_SECONDS))
            task = self._check = asyncio.get_running_loop().create_task(running)
        await asyncio.wait({task}, timeout=timeout_seconds)
        if not task.done():
            raise errors.RankerDeadlineError(
                f"The ranker at {self._client.address} was not verified within "
                f"{requests.milliseconds_text(timeout_seconds * 1000)}."
            )
        if (error := task.result()) is not None:
            raise type(error)(str(error))

    async def predict(
        self, columns: requests.Columns, ad_features: np.ndarray, timeout_seconds: float
    ) -> dict[str, np.ndarray]:
        """Returns the scores of a verified ranker; see `RankerClient.predict`.

        Raises:
            RankerError: The call failed, the ranker is not verified, or it failed repeatedly and
                is not called for a while.
        """
        end = time.monotonic() + timeout_seconds
        if not self._is_verified:
            await self.verify(timeout_seconds)
        if not self._breaker.admit():
            raise errors.RankerError(
                f"{self._problem or 'The ranker has failed.'} It is called again shortly."
            )
        try:
            scores = await self._client.predict(columns, ad_features, end - time.monotonic())
        except errors.RankerError as error:
            self._failed(error)
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._succeeded()
        self._count("ok")
        return scores

    async def close(self) -> None:
        """Closes the connections, and forgets the problem."""
        if self._check is not None and self._check.get_loop() is asyncio.get_running_loop():
            self._check.cancel()
        await self._client.close()
        self._health.set(PART, None, self._manifest.version)

    async def _run_probes(self, timeout_seconds: float) -> errors.RankerError | None:
        try:
            scores = await self._client.predict(self._columns, self._features, timeout_seconds)
            releases.check_scores(self._manifest, scores)
        except errors.RankerError as error:
            if isinstance(error, errors.RankerMismatchError):
                self._is_verified = False
                self._recheck_at = time.monotonic() + _RECHECK_SECONDS
            self._note(error)
            return error
        self._is_verified = True
        self._succeeded()
        return None

    def _succeeded(self) -> None:
        self._breaker.succeeded()
        self._note(None)

    def _failed(self, error: errors.RankerError) -> None:
        if isinstance(error, errors.RankerBusyError):
            self._count("busy")
        else:
            self._count("late" if isinstance(error, errors.RankerDeadlineError) else "failed")
        if isinstance(error, errors.RankerBusyError | errors.RankerReplyError):
            # A busy server works, and a rejected call may be the request's fault.
            self._breaker.abandoned()
        else:
            self._breaker.failed()
        if isinstance(error, errors.RankerMismatchError):
            self._is_verified = False
        self._note(error)

    def _note(self, error: errors.RankerError | None) -> None:
        self._problem = error
        self._health.set(PART, error, self._manifest.version)
