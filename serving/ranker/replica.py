"""One of several rankers that serve the same release: its health and how slow it is.

After several failed calls in a row a replica is paused: a circuit breaker (M. Nygard, Release It!,
2nd edition, 2018), which its probes close instead of a trial call, so that no request waits for it.
"""

import asyncio
import math

from serving import releases
from serving.ranker import verified_ranker

# A slow call raises the slowness of a replica at once; it decays with this time constant, so that a
# replica that was ten times slower than others is retried after 2.3 of them.
_SLOWNESS_SECONDS = 5.0
# Calls of a healthy replica vary by up to this factor.
_MIN_SLOWNESS = 2.0
# Failed calls in a row after which a replica is not called until its probes pass.
_FAILURES_TO_PAUSE = 4


class Replica:
    """A replica, its failures and the statistics of its calls.

    Args:
        client: Client of its server.
        release: Loaded release.

    Attributes:
        client: Client of its server.
        ranker: The client, used only after the replica has reproduced the probes.
        failures: Number of calls in a row that failed because of the server.
        in_flight: Number of calls in flight.
        turn: Number of the last choice of this replica, counted over all replicas.
        suspect: Whether its last call failed or was late.
        next_check: Monotonic time before which the probes of a healthy replica are not run again.
        check: Background run of its probes.
    """

    def __init__(self, client: verified_ranker.Scorer, release: releases.Bundle) -> None:
        self.client = client
        self.ranker = verified_ranker.VerifiedRanker(release, client)
        self.failures = 0
        self.in_flight = 0
        self.turn = 0
        self.suspect = False
        self.next_check = 0.0
        self.check: asyncio.Task[None] | None = None
        self._slowness = 1.0
        self._observed_at = -math.inf

    @property
    def is_paused(self) -> bool:
        """Whether the replica is not called until its probes pass."""
        return self.failures >= _FAILURES_TO_PAUSE

    @property
    def is_healthy(self) -> bool:
        """Whether calls are sent to the replica. Call it in the event loop."""
        return not self.suspect and not self.is_paused and self.ranker.is_verified

    @property
    def problem(self) -> str | None:
        """Why the replica is not healthy, or None."""
        if self.ranker.problem is None and self.suspect:
            return f"The ranker at {self.client.address} is late."
        return self.ranker.problem

    def end_check(self) -> None:
        """Stops the background run of its probes, if there is one."""
        if self.check is not None and self.check.get_loop() is asyncio.get_running_loop():
            self.check.cancel()

    def load(self, now: float) -> float:
        """Returns the expected slowness of another call."""
        slowness = self._slowness * self._weight(now)
        return (self.in_flight + 1) * (slowness if slowness > _MIN_SLOWNESS else 1.0)

    def observe(self, slowness: float, now: float) -> None:
        """Records the latency of a call as a multiple of the expected one."""
        weight = self._weight(now)
        decayed = weight * self._slowness + (1 - weight) * slowness
        self._slowness, self._observed_at = max(slowness, decayed), now

    def _weight(self, now: float) -> float:
        return math.exp((self._observed_at - now) / _SLOWNESS_SECONDS)
