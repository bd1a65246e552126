"""Writes live updates from a process that faults can kill or deprive of disk space.

Only updates that the process confirmed count as acknowledged. An update in flight when the process
died may or may not have been applied, so nothing is claimed about its ads.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import pathlib
import resource
from collections.abc import Iterator
from typing import Any

_ANSWER_SECONDS = 120.0


@dataclasses.dataclass(frozen=True)
class Acknowledged:
    """Ids of ads that were added to a release, and of those removed, as the writer confirmed."""

    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


class LiveWriter:
    """Adds and removes ads of one release.

    Args:
        base: Base directory of the bundles.
        version: Release version.

    Attributes:
        acknowledged: Confirmed updates. Replaced, never changed, so that other threads can read
            it without a lock.
        num_acknowledged: Number of confirmed updates.
    """

    def __init__(self, base: pathlib.Path, version: int) -> None:
        self._base = base
        self._version = version
        self._number = 0
        self._process: multiprocessing.context.SpawnProcess | None = None
        self.acknowledged = Acknowledged()
        self.num_acknowledged = 0

    def write(self) -> str | None:
        """Adds three ads and removes an older one; returns the error, or None if confirmed."""
        ads = self._new_ads(3)
        added = {ad["ad_id"] for ad in ads}
        removed = sorted(self.acknowledged.present)[:1] if self._number % 2 else []
        # Until the confirmation, nothing is known about the ad that is being removed.
        known = dataclasses.replace(
            self.acknowledged, present=self.acknowledged.present - set(removed)
        )
        self.acknowledged = known
        error = self._start()
        if error is None:
            self._orders.send((ads, removed))
            error = self._answer()
        if error is None:
            self.acknowledged = Acknowledged(known.present | added, known.absent | set(removed))
            self.num_acknowledged += 1
        return error

    def kill_during_write(self, seconds: float) -> None:
        """Kills the process after this time of an update; the next write starts another one."""
        if self._start() is None:
            self._orders.send((self._new_ads(50), []))
            self._orders.poll(seconds)
        self.kill()

    def kill(self) -> None:
        """Kills the process; the next write starts another one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    @contextlib.contextmanager
    def file_size_limit(self, num_bytes: int) -> Iterator[None]:
        """Limits the size of every file that the process writes, as on a full disk."""
        if error := self._start():
            raise OSError(f"The writer of live updates did not start: {error}")
        assert self._process is not None
        process_id = self._process.pid
        assert process_id is not None
        _, hard = resource.prlimit(process_id, resource.RLIMIT_FSIZE)
        resource.prlimit(process_id, resource.RLIMIT_FSIZE, (num_bytes, hard))
        try:
            yield
        finally:
            resource.prlimit(process_id, resource.RLIMIT_FSIZE, (hard, hard))

    def _new_ads(self, count: int) -> list[dict[str, Any]]:
        numbers = range(self._number, self._number + count)
        self._number += count
        return [{"ad_id": f"chaos-{self._version}-{number}", "fields": {}} for number in numbers]

    def _start(self) -> str | None:
        """Starts the process if none runs; returns why it could not."""
        if self._process is not None:
            return None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["serving.live", "serving.releases"])
        self._orders, child_end = context.Pipe()
        self._process = context.Process(
            target=_run, args=(self._base, self._version, child_end), daemon=True
        )
        self._process.start()
        child_end.close()
        error = self._answer()
        if error is not None:
            self.kill()
        return error

    def _answer(self) -> str | None:
        """Returns the answer of the process: an error, or None."""
        try:
            if not self._orders.poll(_ANSWER_SECONDS):
                raise TimeoutError(f"An update took more than {_ANSWER_SECONDS:g} s.")
            return self._orders.recv()
        except (EOFError, OSError) as gone:
            self.kill()
            return f"The writer ended: {gone!r}"


def _run(base: pathlib.Path, version: int, orders: multiprocessing.connection.Connection) -> None:
    from serving import errors, live, releases

    try:
        index = live.LiveIndex(releases.load(base, version))
    except errors.ServingError as error:
        orders.send(str(error))
        raise SystemExit from error
    orders.send(None)
    while True:
        ads, removed = orders.recv()
        try:
            index.update(ads, removed)
        except (errors.ServingError, OSError) as error:
            orders.send(str(error))
        else:
            orders.send(None)
