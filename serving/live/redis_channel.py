"""An update channel in a stream of Redis or Valkey.

The id of an entry is `NUMBER-0`, the number of the record in the journal; its fields are the record
and the checksum of all records up to it. A script appends an entry only if it follows the last one.
If two hosts publish at once, one is refused, reads the other's record, and publishes again.
Entries are never removed; a stream expires a month after the last host has stopped following it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
from redis import backoff, retry

from serving import errors, redis_address
from serving.live import update_channel
from serving.live.update_channel import Found, Position

# Maximum number of records per read. A thousand ads of 256 dimensions take a megabyte.
_MAX_RECORDS = 100
_WAIT_MILLISECONDS = 500
_TIMEOUT_SECONDS = 2.0
# A stream expires this long after the last host has published or followed it.
_KEEP_SECONDS = 30 * 86_400
_APPEND = """
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local id, checksum = '0-0', '0'
if last then
    id = last[1]
    for i = 1, #last[2], 2 do
        if last[2][i] == 'checksum' then checksum = last[2][i + 1] end
    end
end
if id ~= ARGV[1] or checksum ~= ARGV[2] then return 0 end
redis.call('XADD', KEYS[1], ARGV[3], 'record', ARGV[4], 'checksum', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[6])
return 1
"""


def connect(url: str) -> redis.Redis:
    """Returns a client, which connects on its first command.

    Raises:
        ValueError: The URL is not valid.
    """
    client = redis.Redis.from_url(
        redis_address.client_url(url),
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        # A repeated call could find its own record, and mistake it for another host's.
        retry=retry.Retry(backoff.NoBackoff(), 0),
    )
    redis_address.check_options(client.connection_pool, url)
    return client


class RedisChannel:
    """See `UpdateChannel`.

    Raises:
        ValueError: The URL is not valid.
    """

    def __init__(self, url: str, version: int, training_id: str) -> None:
        self._key = f"tfrec:updates:{version}:{training_id}"
        self.name = f"{redis_address.without_secrets(url)}, stream {self._key},"
        self._redis = connect(url)
        self._append = self._redis.register_script(_APPEND)

    def read(self, position: Position) -> Found:
        """See `UpdateChannel`."""
        with self._mapped(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xrevrange(self._key, count=1)
            pipeline.xrange(self._key, min=f"({_id(position)}", count=_MAX_RECORDS)
            last_entries, entries = pipeline.execute()
        end = _end(last_entries)
        if end.number < position.number:
            return Found((), behind=end)
        if end.number == position.number and end != position:
            raise update_channel.diverged(self.name, position.number)
        records = []
        for entry in entries:
            found, record = _end([entry]), entry[1][b"record"]
            if found.number != position.number + 1:
                raise errors.LiveIndexError(
                    f"{self.name} has no update {position.number + 1}; its next one is "
                    f"{found.number}. It was trimmed. Copy live/N/journal from a host that has all "
                    "updates, or export a new release."
                )
            position = position.after(record)
            if position != found:
                raise update_channel.diverged(self.name, found.number)
            records.append(record)
        return Found(records)

    def publish(self, record: bytes, position: Position) -> bool:
        """See `UpdateChannel`."""
        end = position.after(record)
        arguments: list[str | int | bytes] = [
            _id(position),
            position.checksum,
            _id(end),
            record,
            end.checksum,
            _KEEP_SECONDS,
        ]
        with self._mapped():
            return bool(self._append(keys=[self._key], args=arguments))

    def wait(self, position: Position) -> bool:
        """See `UpdateChannel`."""
        with self._mapped():
            if self._redis.xread({self._key: _id(position)}, count=1, block=_WAIT_MILLISECONDS):
                return True
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.xrevrange(self._key, count=1)
                pipeline.expire(self._key, _KEEP_SECONDS)
                last_entries, _ = pipeline.execute()
            # A stream that was lost returns no new records.
            return _end(last_entries) != position

    def close(self) -> None:
        """See `UpdateChannel`."""
        self._redis.close()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            if redis_address.is_of_replica(error):
                # After a failover the address may lead to the new primary, but open connections
                # do not.
                self._redis.connection_pool.disconnect(inuse_connections=False)
            raise errors.LiveIndexError(
                f"{self.name} cannot be used ({error}). Services keep the updates that they have."
            ) from error


def _id(position: Position) -> str:
    return f"{position.number}-0"


def _end(entries: Any) -> Position:
    """Returns the position after the last entry of a stream."""
    if not entries:
        return update_channel.START
    entry_id, fields = entries[-1]
    return Position(int(entry_id.partition(b"-")[0]), int(fields[b"checksum"]))
