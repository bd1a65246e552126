"""Routes each request to a release, while releases change.

    router = ReleaseRouter(orchestrator_of_release_3)
    answer = await router.recommend(request)
    router.route(orchestrator_of_release_4)

A change of releases is one assignment in the event loop. Earlier requests are still answered by the
release that they started with, which is closed after the last of them. `release_follower` follows
the releases on disk.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from serving import errors, manifest, orchestrator, process
from serving.requests import RELEASES, Answer, ReleaseName, Request

STABLE, CANARY = RELEASES
_HASH_VALUES = 2**64


@dataclasses.dataclass(eq=False)
class _Entry:
    """A loaded release and its request counts; answers to dry runs are not counted."""

    service: orchestrator.Orchestrator
    in_flight: int = 0
    answered: int = 0
    degraded: int = 0
    failed: int = 0


@dataclasses.dataclass(frozen=True)
class _Table:
    """The routing table, replaced as a whole."""

    stable: _Entry
    canary: _Entry | None = None
    share: float = 0.0


class ReleaseRouter:
    """The loaded releases of a service. Use it from one event loop."""

    def __init__(self, stable: orchestrator.Orchestrator) -> None:
        entry = _Entry(stable)
        self._entries = {stable.release.version: entry}
        self._table = _Table(entry)
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def stable(self) -> orchestrator.Orchestrator:
        """Orchestrator of the stable release."""
        return self._table.stable.service

    def loaded(self, version: int) -> orchestrator.Orchestrator | None:
        """Returns the orchestrator of a loaded release (possibly draining), or None."""
        entry = self._entries.get(version)
        return None if entry is None else entry.service

    def route(
        self,
        stable: orchestrator.Orchestrator,
        canary: orchestrator.Orchestrator | None = None,
        share: float = 0.0,
    ) -> None:
        """Routes new requests to these releases.

        Other releases are closed after their last request.
        """
        entries = [self._entry(service) for service in (stable, canary) if service is not None]
        self._table = _Table(entries[0], entries[1] if canary is not None else None, share)
        for entry in list(self._entries.values()):
            self._close_unused(entry)

    async def recommend(self, request: Request, started: float | None = None) -> Answer:
        """Answers a request like `Orchestrator.recommend`."""
        chosen = self._choose(request)
        role = CANARY if chosen is self._table.canary else STABLE
        with self._held(chosen) as entry:
            try:
                answer = await entry.service.recommend(request, started)
            except (errors.InvalidRequestError, errors.OverloadedError):
                raise
            except Exception:
                entry.failed += 1
                raise
            if not request.dry_run:
                entry.answered += 1
                entry.degraded += answer.degraded is not None
        if request.release is None:
            return answer
        return answer.model_copy(update={"release": role})

    def serving(self, release: ReleaseName) -> orchestrator.Orchestrator:
        """Returns the orchestrator of requests that name a release, `stable` or `canary`."""
        return self._choose(Request(release=release)).service

    async def verify_ranker(self, timeout_seconds: float) -> None:
        """Verifies the ranker of the stable release; see `Orchestrator.verify_ranker`."""
        with self._held(self._table.stable) as entry:
            await entry.service.verify_ranker(timeout_seconds)

    async def observe(self) -> None:
        """Records the state of the stable and the canary release; see `Orchestrator.observe`."""
        with contextlib.ExitStack() as stack:
            # Both are held first, so that the canary is not closed while the other is observed.
            held = [
                stack.enter_context(self._held(entry))
                for entry in (self._table.stable, self._table.canary)
                if entry is not None
            ]
            for entry in held:
                await entry.service.observe()

    def status(self) -> list[dict[str, Any]]:
        """Returns the role and the counters of each loaded release, in order of version."""
        roles = {self._table.canary: CANARY, self._table.stable: STABLE}
        return [
            {
                "version": version,
                "role": roles.get(entry, "ending"),
                "in_flight": entry.in_flight,
                "answered": entry.answered,
                "degraded": entry.degraded,
                "failed": entry.failed,
            }
            for version, entry in sorted(self._entries.items())
        ]

    async def close(self) -> None:
        """Closes every release. No request may be in flight."""
        for entry in list(self._entries.values()):
            await _close(entry)
        self._entries.clear()
        await asyncio.gather(*self._closing)

    def _entry(self, service: orchestrator.Orchestrator) -> _Entry:
        entry = self._entries.get(service.release.version)
        if entry is None or entry.service is not service:
            entry = self._entries[service.release.version] = _Entry(service)
        return entry

    @contextlib.contextmanager
    def _held(self, entry: _Entry) -> Iterator[_Entry]:
        entry.in_flight += 1
        try:
            yield entry
        finally:
            entry.in_flight -= 1
            self._close_unused(entry)

    def _choose(self, request: Request) -> _Entry:
        release_name = request.release
        table = self._table
        # A request for a canary that has ended or was promoted is answered by the stable release.
        if table.canary is None or release_name == STABLE:
            return table.stable
        if release_name == CANARY:
            return table.canary
        release = table.canary.service.release.manifest
        is_canary = draw(release.version, _key(request, release)) < table.share
        return table.canary if is_canary else table.stable

    def _close_unused(self, entry: _Entry) -> None:
        version = entry.service.release.version
        is_routed = entry in (self._table.stable, self._table.canary)
        if is_routed or entry.in_flight or self._entries.get(version) is not entry:
            return
        del self._entries[version]
        task = asyncio.get_running_loop().create_task(_close_and_free_memory(entry))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(entry: _Entry) -> None:
    service = entry.service
    # References to the entry must not keep the release in memory.
    del entry.service
    await service.close()
    service.release.close()


async def _close_and_free_memory(entry: _Entry) -> None:
    await _close(entry)
    await asyncio.to_thread(process.release_freed_memory)


def draw(canary: int, key: str) -> float:
    """Returns a pseudo-random number in [0, 1) that is fixed for a key and a canary.

    A key is routed to the canary if its number is below the canary's share. Keys stay in the canary
    when the share grows, and each canary, given by its version, gets different keys.
    """
    digest = hashlib.blake2b(f"{canary}/{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") / _HASH_VALUES


def _key(request: Request, release: manifest.Manifest) -> str:
    """Returns the key for the canary: the user if the request names one, else the request id."""
    if request.user_id is not None:
        return f"user {request.user_id}"
    if release.user_field is not None:
        for fields in (request.user, request.context):
            user = fields.get(release.user_field) if isinstance(fields, Mapping) else None
            if user is not None:
                return f"user {user}"
    return f"request {request.request_id or uuid.uuid4().hex}"
