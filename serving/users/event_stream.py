"""Reads events from a stream of Redis or Valkey, at least once each.

    XADD tfrec.events * event '{"event_id": "e1", "user_id": "u17", "ad_id": "ad-3", …}'

Readers of one group share the stream. An entry is acknowledged once it has been handled. An
unacknowledged entry, whose reader ended or postponed it, is delivered again after `_CLAIM_MS`,
possibly to another reader. Stores and logs recognize a repeated event by its id.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import redis.asyncio
from redis import exceptions

from serving import errors, redis_address
from serving.users import redis_store

FIELD = b"event"
_START = b"0-0"
# Maximum number of entries in a read.
_MAX_ENTRIES = 500
# Entries that were not acknowledged for this long are delivered again.
_CLAIM_MS = 30_000
_SOCKET_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class StreamEntry:
    """An entry of a stream.

    Attributes:
        entry_id: Id in the stream.
        event: JSON text of the event; None: the entry has no field `event`.
    """

    entry_id: bytes
    event: bytes | None

    @property
    def time(self) -> float:
        """When it was added, in seconds since 1970, by the clock of the server."""
        return int(self.entry_id.partition(b"-")[0]) / 1000


class StreamBacklog(NamedTuple):
    """Entries of a stream that wait for a group of readers.

    Attributes:
        unread: Number of entries that no reader has received yet, the lag. None: the server does
            not know it, for example after entries were deleted, or before Redis 7.
        unacknowledged: Number of entries that a reader has received but not handled yet.
    """

    unread: int | None
    unacknowledged: int


class StreamReader:
    """A member of a group of readers. Use it from one event loop.

    Args:
        url: Address of the server, such as `redis://127.0.0.1:6379/0`.
        stream: Name of the stream; created if it does not exist.
        group: Name of the group, which reads each entry once; created if it does not exist.
        member: Name of this reader; unique in the group, and the same after a restart.

    Raises:
        ValueError: The URL is not valid.
    """

    def __init__(self, url: str, stream: str, group: str, member: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            redis_address.client_url(url),
            socket_timeout=_SOCKET_SECONDS,
            socket_connect_timeout=_SOCKET_SECONDS,
            retry=None,
        )
        redis_address.check_options(self._redis.connection_pool, url)
        self._name = f"{redis_address.without_secrets(url)}, stream {stream}"
        self._stream = stream
        self._group = group
        self._member = member
        # A reader first gets the entries that it received but did not acknowledge, after this id.
        # None: all of them were delivered.
        self._pending_after: bytes | None = _START
        # Where to look for entries to claim.
        self._claim_from: bytes = _START

    async def read(self, wait_seconds: float = 1.0) -> list[StreamEntry]:
        """Returns the next entries; none if none arrived in time.

        After an error, read again: unacknowledged entries are delivered again.

        Args:
            wait_seconds: Time to wait for the first entry, in seconds; below 2.

        Raises:
            UserStoreError: The server failed.
        """
        async with self._mapped():
            try:
                entries = await self._read(wait_seconds)
            except exceptions.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                # The stream is new, or the server lost it.
                self._pending_after = _START
                await self._create()
                return []
        return [StreamEntry(entry_id, fields.get(FIELD)) for entry_id, fields in entries]

    async def acknowledge(self, entries: Sequence[StreamEntry]) -> None:
        """Marks entries as handled.

        Raises:
            UserStoreError: The server failed; the entries are delivered again.
        """
        if entries:
            async with self._mapped():
                ids = [entry.entry_id for entry in entries]
                await self._redis.xack(self._stream, self._group, *ids)

    async def backlog(self) -> StreamBacklog:
        """Returns the numbers of entries that wait for the group.

        Raises:
            UserStoreError: The server failed, or has no such stream or group.
        """
        async with self._mapped():
            groups: Any = await self._redis.xinfo_groups(self._stream)
        for group in groups:
            if group["name"] == self._group.encode():
                return StreamBacklog(group.get("lag"), group["pending"])
        raise errors.UserStoreError(f"{self._name} has no group {self._group} yet.")

    def retry(self) -> None:
        """Lets the next read begin with the entries that this reader has not acknowledged."""
        self._pending_after = _START

    async def close(self) -> None:
        """Closes the connection."""
        await self._redis.aclose()

    async def _read(self, wait_seconds: float) -> list[tuple[bytes, dict[bytes, bytes]]]:
        if self._pending_after is not None:
            pending = await self._read_from(self._pending_after, None)
            if pending:
                self._pending_after = pending[-1][0]
                # A deleted entry has no fields left.
                return [(entry_id, fields or {}) for entry_id, fields in pending]
            self._pending_after = None
        self._claim_from, claimed, *_ = await self._redis.xautoclaim(
            self._stream, self._group, self._member, _CLAIM_MS, self._claim_from, _MAX_ENTRIES
        )
        return claimed or await self._read_from(b">", int(wait_seconds * 1000))

    async def _read_from(
        self, start: bytes, block_ms: int | None
    ) -> list[tuple[bytes, dict[bytes, bytes]]]:
        reply: Any = await self._redis.xreadgroup(
            self._group, self._member, {self._stream: start}, _MAX_ENTRIES, block_ms
        )
        return reply[0][1] if reply else []

    async def _create(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, self._group, "0", mkstream=True)
        except exceptions.ResponseError as error:
            # Another reader was faster.
            if not str(error).startswith("BUSYGROUP"):
                raise

    @contextlib.asynccontextmanager
    async def _mapped(self) -> AsyncIterator[None]:
        """Maps errors of the client and of the server to `UserStoreError`; `read` starts over."""
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            self.retry()
            await redis_store.leave_replica(self._redis, error)
            raise errors.UserStoreError(
                f"{self._name} failed: {str(error).rstrip('.')}. {redis_store.remedy(error)}"
            ) from error
