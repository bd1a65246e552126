"""Loads newly published releases into a running service without failing a request.

    router = release_router.ReleaseRouter(connect(load_first(base)))
    asyncio.create_task(ReleaseFollower(base, router, connect).run())

When a release becomes stable or canary, it is loaded next to those being served. Its files, query
tower and index are verified, then its ranker on the model server. Only then does the router send
requests to it. A release that fails verification changes nothing: the current releases remain,
`Health` says why, and it is retried with increasing delays.
"""

import asyncio
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable

from serving import errors, orchestrator, releases
from serving.service import release_router

_logger = logging.getLogger(__name__)
# Time between two checks of the disk.
_POLL_SECONDS = 1.0
# Time that the model server has to start serving a new version.
_RANKER_SECONDS = 60.0
# Delay before a refused release is retried; it doubles with each attempt.
_RETRY_SECONDS = 5.0
_MAX_RETRY_SECONDS = 300.0
_PART = "releases"
Connect = Callable[[releases.Bundle], orchestrator.Orchestrator]


@dataclasses.dataclass(frozen=True)
class _Refusal:
    """Why a release is refused, and when it is retried."""

    reason: str
    retry_at: float
    retry_seconds: float


class ReleaseFollower:
    """Keeps the router in sync with releases.json."""

    def __init__(
        self,
        base: pathlib.Path,
        router: release_router.ReleaseRouter,
        connect: Connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base
        self._router = router
        self._connect = connect
        self._clock = clock
        self._refusals: dict[int, _Refusal] = {}
        # Loaded and verified, but not yet in the router.
        self._opened: dict[int, orchestrator.Orchestrator] = {}
        self._routed: tuple[int, int | None, float] = (router.stable.release.version, None, 0.0)
        # All releases share it.
        self._health = router.stable.health

    async def run(self) -> None:
        """Follows the releases until canceled."""
        try:
            while True:
                try:
                    await self.step()
                except Exception:
                    # Whatever the error, the service continues with the current releases.
                    _logger.exception("Releases cannot be followed; retrying.")
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            for service in self._opened.values():
                await _close(service)

    async def step(self) -> None:
        """Reads releases.json once and applies the changes that can be applied."""
        pointer = await self._wanted()
        if pointer is None:
            return
        targets = [version for version in (pointer.stable, pointer.canary) if version is not None]
        self._refusals = {v: why for v, why in self._refusals.items() if v in targets}
        for version in targets:
            if self._service(version) is None:
                await self._open(version)
        self._report()
        self._route(pointer)
        for version in [version for version in self._opened if version not in targets]:
            await _close(self._opened.pop(version))

    def _report(self, unreadable: Exception | None = None) -> None:
        """Reports why the served releases differ from those on disk."""
        refused = [
            f"release {version} is refused: {refusal.reason}"
            for version, refusal in sorted(self._refusals.items())
        ]
        self._health.set(_PART, unreadable or "; ".join(refused) or None)

    def _service(self, version: int) -> orchestrator.Orchestrator | None:
        return self._router.loaded(version) or self._opened.get(version)

    def _route(self, pointer: releases.Pointer) -> None:
        """Routes requests to the releases of the pointer that are loaded."""
        stable = self._service(pointer.stable) or self._router.stable
        canary = None if pointer.canary is None else self._service(pointer.canary)
        if canary is stable:
            canary = None
        routes = (
            stable.release.version,
            None if canary is None else canary.release.version,
            0.0 if canary is None else pointer.share,
        )
        for version in routes[:2]:
            if version is not None:
                self._opened.pop(version, None)
        if routes == self._routed:
            return
        self._router.route(stable, canary, routes[2])
        self._routed = routes
        share = f", canary {routes[1]} for {routes[2]:.1%}" if canary is not None else ""
        _logger.warning("Requests are answered by release %d%s.", routes[0], share)

    async def _wanted(self) -> releases.Pointer | None:
        """Returns the pointer on disk, or None if it cannot be read."""
        try:
            pointer = await asyncio.to_thread(releases.current_pointer, self._base)
        except (errors.BundleError, OSError) as error:
            self._report(error)
            return None
        return pointer

    async def _open(self, version: int) -> None:
        """Loads and verifies a release, or stores why it is refused."""
        before = self._refusals.get(version)
        if before is not None and self._clock() < before.retry_at:
            return
        try:
            self._opened[version] = await self._verified(version)
        except (errors.ServingError, OSError, MemoryError) as error:
            delay = _RETRY_SECONDS if before is None else 2 * before.retry_seconds
            delay = min(delay, _MAX_RETRY_SECONDS)
            self._refusals[version] = _Refusal(str(error), self._clock() + delay, delay)
        else:
            self._refusals.pop(version, None)

    async def _verified(self, version: int) -> orchestrator.Orchestrator:
        service = await asyncio.to_thread(self._load, version)
        try:
            await self._await_ranker(service)
        except BaseException:
            await _close(service)
            raise
        return service

    def _load(self, version: int) -> orchestrator.Orchestrator:
        release = releases.load(self._base, version)
        try:
            # Prepared in advance, so that no request has to wait for it.
            release.ad_index.prepare_filters()
            return self._connect(release)
        except BaseException:
            release.close()
            raise

    async def _await_ranker(self, service: orchestrator.Orchestrator) -> None:
        """Waits until the model servers serve the version."""
        version = service.release.version
        until = self._clock() + _RANKER_SECONDS
        while True:
            try:
                await service.verify_ranker()
                return
            except errors.RankerMismatchError:
                raise
            except errors.RankerError:
                pointer = await self._wanted()
                is_wanted = pointer is None or version in (pointer.stable, pointer.canary)
                if not is_wanted or self._clock() >= until:
                    raise
            await asyncio.sleep(min(0.2, _POLL_SECONDS))


def load_first(base: pathlib.Path) -> releases.Bundle:
    """Loads the first release of a service: the stable one, or a previous one if it is refused."""
    pointer = releases.current_pointer(base)
    try:
        return releases.load(base, pointer.stable)
    except errors.BundleError as error:
        for version in pointer.previous:
            try:
                release = releases.load(base, version)
            except errors.BundleError:
                continue
            _logger.error(
                "Release %d is refused; serving release %d: %s", pointer.stable, version, error
            )
            return release
        raise


async def _close(service: orchestrator.Orchestrator) -> None:
    await service.close()
    service.release.close()
