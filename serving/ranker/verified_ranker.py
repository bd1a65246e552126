"""The ranker behind its client, used only after it has reproduced the bundle's probes."""

import asyncio
import logging
import time
from typing import Protocol

import numpy as np

from serving import errors, releases, requests

_PROBE_TIMEOUT_SECONDS = 5.0
# A server that failed its probes is asked again after this, not with every request.
_RECHECK_SECONDS = 1.0


class Scorer(Protocol):
    """What gives a ranker's scores: `ranker_client.RankerClient`, `local_ranker.LocalRanker`.

    Attributes:
        address: For messages.
        version: Of the ranker.
    """

    address: str
    version: int

    def connection(self) -> int:
        """Returns a number that changes when another server may answer."""

    async def predict(
        self, columns: requests.Columns, ad_features: np.ndarray, timeout_seconds: float
    ) -> dict[str, np.ndarray]:
        """Returns output -> [B, C] float32; as `RankerClient.predict`."""

    async def close(self) -> None:
        """Ends the connection."""


class VerifiedRanker:
    """Gives scores of a server that has proven to serve this bundle's ranker.

    The proof holds as long as the connection: behind a new one may be another server.
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
        """Why there are no scores now, as far as is known."""
        return str(self._problem) if self._problem else None

    @property
    def not_ready(self) -> str | None:
        """Why this server should get no traffic: unproven so far, or another model.

        A ranker that has been verified and then went away does not count: answers in
        retrieval order are better than none.
        """
        if isinstance(self._problem, errors.RankerMismatchError) or not self._ever_verified:
            return self.problem or "The ranker has not been verified yet."
        return None

    async def verify(self, timeout_seconds: float = _PROBE_TIMEOUT_SECONDS) -> None:
        """Makes sure that the server has reproduced the probes; at once where it has.

        Raises:
            RankerMismatchError: It serves another model.
            RankerDeadlineError: The check is not done in time; it goes on.
            RankerError: It cannot be reached or asked.
        """
        if self._is_verified():
            return
        if isinstance(self._problem, errors.RankerMismatchError) and (
            time.monotonic() < self._next_check
        ):
            raise errors.RankerMismatchError(self.problem)
        # Requests that arrive together share one check, and it outlives their deadlines.
        task = self._check
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._check = asyncio.get_running_loop().create_task(self._run_probes())
        await asyncio.wait({task}, timeout=timeout_seconds)
        if not task.done():
            raise errors.RankerDeadlineError(
                f"The ranker at {self._client.address} was not verified within "
                f"{timeout_seconds * 1000:.0f} ms."
            )
        task.result()
        if not self._is_verified():
            problem = self._problem or errors.RankerUnavailableError(
                f"The connection to the ranker at {self._client.address} broke."
            )
            raise type(problem)(str(problem))

    async def predict(
        self, columns: requests.Columns, ad_features: np.ndarray, timeout_seconds: float
    ) -> dict[str, np.ndarray]:
        """Returns the scores of a verified server; as `RankerClient.predict`.

        Raises:
            RankerError: There are none, or they may not be used.
        """
        started = time.monotonic()
        try:
            await self.verify(timeout_seconds)
            # A new connection since: the call below could reach a server without proof.
            verified_at = self._verified_at
            remaining = timeout_seconds - (time.monotonic() - started)
            scores = await self._client.predict(columns, ad_features, remaining)
        except errors.RankerError as error:
            self._failed(error)
            raise
        if self._client.connection() != verified_at:
            raise errors.RankerUnavailableError(
                f"The connection to the ranker at {self._client.address} broke during the call."
            )
        self._problem = None
        return scores

    def _is_verified(self) -> bool:
        return self._verified_at is not None and (self._verified_at == self._client.connection())

    async def _run_probes(self) -> None:
        connection = self._client.connection()
        try:
            scores = await self._client.predict(
                self._columns, self._features, _PROBE_TIMEOUT_SECONDS
            )
            releases.check_scores(self._manifest, scores)
        except errors.RankerError as error:
            self._failed(error)
            return
        # Read before the call: a connection that broke since then proves nothing.
        self._verified_at = connection
        self._ever_verified = True
        self._problem = None
        logging.info(
            "Ranker version %d at %s verified.", self._client.version, self._client.address
        )

    def _failed(self, error: errors.RankerError) -> None:
        if isinstance(error, errors.RankerMismatchError):
            self._next_check = time.monotonic() + _RECHECK_SECONDS
        # All but a late or refused call may mean that another model is served next time.
        if not isinstance(error, errors.RankerDeadlineError | errors.RankerReplyError):
            self._verified_at = None
        if type(error) is not type(self._problem):
            logging.warning("No scores: %s", error)
        self._problem = error
