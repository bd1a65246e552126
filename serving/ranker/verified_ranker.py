"""A ranker whose scores are used only after it has reproduced the bundle's probes."""

import asyncio
import logging
import time
from typing import TypeAlias

import numpy as np

from serving import errors, releases, requests
from serving.ranker import local_ranker, ranker_client

_logger = logging.getLogger(__name__)
_PROBE_TIMEOUT_SECONDS = 5.0
# Time before a server that failed its probes is checked again.
_RECHECK_SECONDS = 1.0
# Time in which a call whose server ended may reach another one. It is short, because a call that
# waits keeps others from failing fast.
_RECONNECT_SECONDS = 0.25


# A ranker on a model server, or in this process; both have the same methods.
Scorer: TypeAlias = ranker_client.RankerClient | local_ranker.LocalRanker


class VerifiedRanker:
    """Calls a server after verifying that it serves this bundle's ranker.

    The server is verified again after each reconnect, because another one may have replaced it.
    """

    def __init__(self, release: releases.Bundle, client: Scorer) -> None:
        self._manifest = release.manifest
        self._client = client
        self._columns = releases.query_columns(release.manifest)
        self._features = release.ad_index.features(releases.candidate_rows(release.manifest))
        self._verified_at: int | None = None
        self._ever_verified = False
        self._problem: errors.RankerError | None = None
        self._next_check = 0.0
        self._check: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why the last call returned no scores, or None."""
        return str(self._problem) if self._problem else None

    @property
    def not_ready(self) -> str | None:
        """The reason not to route traffic here (never verified, or another model), or None.

        A ranker that was verified and then became unavailable is not a reason: answers in retrieval
        order are better than none.
        """
        if isinstance(self._problem, errors.RankerMismatchError) or not self._ever_verified:
            return self.problem or "The ranker has not been verified yet."
        return None

    @property
    def is_behind(self) -> bool:
        """Whether the server has answered that it does not serve the version."""
        return isinstance(self._problem, errors.RankerVersionError)

    @property
    def is_verified(self) -> bool:
        """Whether the server behind the current connection has reproduced the probes."""
        return self._verified_at is not None and (self._verified_at == self._client.connection())

    async def verify(
        self, timeout_seconds: float = _PROBE_TIMEOUT_SECONDS, again: bool = False
    ) -> None:
        """Verifies that the server reproduces the probes, once per connection.

        Args:
            timeout_seconds: Time to wait for the check.
            again: Whether to check a server that is verified, to see if it still answers.

        Raises:
            RankerMismatchError: The server serves another model.
            RankerDeadlineError: The check did not finish in time. It continues in the background.
            RankerError: The call failed.
        """
        if self.is_verified and not again:
            return
        if isinstance(self._problem, errors.RankerMismatchError) and (
            time.monotonic() < self._next_check
        ):
            raise errors.RankerMismatchError(self.problem)
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
        task.result()
        if not self.is_verified or (again and self._problem):
            problem = self._problem or errors.RankerUnavailableError(
                f"The connection to the ranker at {self._client.address} broke."
            )
            raise type(problem)(str(problem))

    async def predict(
        self,
        columns: requests.Columns,
        ad_features: np.ndarray,
        timeout_seconds: float,
        wait: bool = True,
    ) -> dict[str, np.ndarray]:
        """Returns the scores of a verified server; see `RankerClient.predict`.

        If the server ends during the call, the next server behind the address is verified and
        called. TensorFlow Serving drops the calls in flight when it ends.

        Args:
            columns: Query field -> [B] or [B, L].
            ad_features: [B, C, F] int32.
            timeout_seconds: Timeout of the call.
            wait: Whether to wait for a server that is busy or restarts. Otherwise the call fails
                at once, so that another replica can take it.

        Raises:
            RankerError: The call failed, or the server is not verified.
        """
        end = time.monotonic() + timeout_seconds
        was_verified = self.is_verified
        try:
            return await self._predict(columns, ad_features, end, wait)
        except errors.RankerUnavailableError:
            # Does not wait for a server that was unreachable before the call.
            if not was_verified or not wait:
                raise
        await self._verify_next(min(end, time.monotonic() + _RECONNECT_SECONDS))
        return await self._predict(columns, ad_features, end, wait)

    async def _verify_next(self, end: float) -> None:
        """Verifies the server behind the next connection."""
        waits = ranker_client.pauses()
        while True:
            pause = next(waits)
            try:
                await self._client.connected(end - time.monotonic())
                await self.verify(end - time.monotonic())
                return
            except errors.RankerUnavailableError:
                if time.monotonic() + pause >= end:
                    raise
            await asyncio.sleep(pause)

    async def _predict(
        self, columns: requests.Columns, ad_features: np.ndarray, end: float, wait: bool
    ) -> dict[str, np.ndarray]:
        try:
            await self.verify(end - time.monotonic())
            # After a reconnect, the call below could reach a server that is not verified.
            verified_at = self._verified_at
            scores = await self._client.predict(columns, ad_features, end - time.monotonic(), wait)
        except errors.RankerError as error:
            self._failed(error)
            raise
        if self._client.connection() != verified_at:
            raise errors.RankerUnavailableError(
                f"The connection to the ranker at {self._client.address} broke during the call."
            )
        self._problem = None
        return scores

    async def _run_probes(self, timeout_seconds: float) -> None:
        connection = self._client.connection()
        try:
            scores = await self._client.predict(self._columns, self._features, timeout_seconds)
            releases.check_scores(self._manifest, scores)
        except errors.RankerError as error:
            self._failed(error)
            return
        # Read before the call, because a reconnect since then invalidates the check.
        self._verified_at = connection
        self._ever_verified = True
        self._problem = None
        _logger.info(
            "Ranker version %d at %s verified.", self._client.version, self._client.address
        )

    def _failed(self, error: errors.RankerError) -> None:
        if isinstance(error, errors.RankerMismatchError):
            self._next_check = time.monotonic() + _RECHECK_SECONDS
        # After any error but a late or rejected call, another model may answer the next one.
        if not isinstance(error, errors.RankerDeadlineError | errors.RankerReplyError):
            self._verified_at = None
        is_new = type(error) is not type(self._problem)
        if is_new and isinstance(error, errors.RankerVersionError) and not self._ever_verified:
            # A model server takes seconds to load a release that was promoted.
            _logger.warning(
                "Waiting for the ranker at %s, which does not serve version %d yet.",
                *(self._client.address, self._client.version),
            )
        elif is_new:
            _logger.warning("The ranker returned no scores: %s", error)
        self._problem = error
