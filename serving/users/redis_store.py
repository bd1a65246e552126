"""The user store for several hosts: Redis or Valkey, with the extra `redis`.

    tfrec:{USER}:profile       JSON object
    tfrec:{USER}:actions       sorted set of events, JSON lists, by time
    tfrec:{USER}:impressions   sorted set of impressions, in the same form
    tfrec:{USER}:ids           hash with the ids of these events, to recognize repeated ones
    tfrec:{USER}:erased        time of an erasure, for an hour; earlier events are left out

The braces keep the keys of a user on one node of a cluster; keys of a user whose id begins with `}`
begin with `tfrec:escaped:{_USER}`. Reads and writes are one round trip each. The server deletes a
user who was not written to for the time to live. It must not evict keys (`maxmemory-policy
noeviction`).
"""

import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import redis.asyncio
from redis import backoff, exceptions
from redis.asyncio import retry

from serving import errors
from serving.config import UserStoreConfig
from serving.users.store import ERASED_SECONDS, StoredEvent, User, by_user
from tfrecords.schema import IMPRESSION

# KEYS: profile, actions, impressions, ids, erased.
# ARGV: time to live in seconds, earliest time, maximum of actions and of impressions; then index of
# the list, time, id and JSON of each event.
_APPEND = """
local added = 0
local written = {}
local erased = tonumber(redis.call('GET', KEYS[5]) or '-1')
for i = 5, #ARGV, 4 do
  if tonumber(ARGV[i + 1]) > erased then
    local list = tonumber(ARGV[i])
    written[list] = true
    if redis.call('HSETNX', KEYS[4], ARGV[i + 2], '') == 1 then
      redis.call('ZADD', KEYS[list], ARGV[i + 1], ARGV[i + 3])
      added = added + 1
    end
  end
end
local function drop(key, events)
  for _, event in ipairs(events) do
    redis.call('ZREM', key, event)
    redis.call('HDEL', KEYS[4], cjson.decode(event)[1])
  end
end
for list in pairs(written) do
  drop(KEYS[list], redis.call('ZREVRANGE', KEYS[list], ARGV[list + 1], -1))
  drop(KEYS[list], redis.call('ZRANGEBYSCORE', KEYS[list], '-inf', '(' .. ARGV[2]))
end
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return added
"""
# A full server refuses SET, but not in a script that has already written.
_ERASE = """
local count = redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[5], ARGV[1], 'EX', ARGV[2])
return count
"""
_KEYS = ("profile", "actions", "impressions", "ids", "erased")


class RedisUserStore:
    """A user store in Redis or Valkey."""

    def __init__(self, url: str, config: UserStoreConfig) -> None:
        self._config = config
        # Without user, password and options.
        self._name = url.partition("?")[0].rpartition("@")[2]
        self._redis = redis.asyncio.Redis.from_url(
            self._client_url(url),
            # A read that misses its request's timeout continues until then, so that a connection
            # that takes longer to open is ready for the next request.
            socket_timeout=config.write_timeout_seconds,
            socket_connect_timeout=config.write_timeout_seconds,
            # The server may have closed a connection of the pool, as at its restart.
            retry=retry.Retry(backoff.NoBackoff(), 1, (exceptions.ConnectionError,)),
        )
        try:
            # redis-py finds wrong options only here.
            self._redis.connection_pool.make_connection()
        except Exception as error:
            raise ValueError(
                f"The address of the user store {self._name!r} has an option that redis-py does "
                f"not accept ({error})."
            ) from error

    async def read(self, user_id: str, now: float, impressions: bool = False) -> User:
        limits = (self._config.max_actions, self._config.max_impressions)[: 1 + impressions]
        profile, *keys = _keys(user_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.get(profile)
        for key, limit in zip(keys, limits, strict=False):
            since = now - self._config.ttl_seconds
            pipeline.zrevrangebyscore(key, now, since, start=0, num=limit)
        text, *lists = await self._replies(pipeline)
        return User(json.loads(text or b"{}"), *map(_events, lists))

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        config = self._config
        since = now - config.ttl_seconds
        limits = (int(config.ttl_seconds), since, config.max_actions, config.max_impressions)
        pipeline = self._redis.pipeline(transaction=False)
        for user_id, user_events in by_user(events, config, since).items():
            arguments = list(map(repr, limits))
            for event in user_events:
                list_index = "3" if event.kind == IMPRESSION else "2"
                arguments += [list_index, repr(event.time), event.event_id, event.to_text()]
            # Calling the script by its digest would take a second round trip.
            pipeline.eval(_APPEND, len(_KEYS), *_keys(user_id), *arguments)
        return sum(await self._replies(pipeline))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any], now: float) -> None:
        key, *others = _keys(user_id)[:4]
        pipeline = self._redis.pipeline(transaction=False)
        ttl = int(self._config.ttl_seconds)
        pipeline.set(key, json.dumps(profile), ex=ttl)
        for other in others:
            pipeline.expire(other, ttl)
        await self._replies(pipeline)

    async def delete(self, user_id: str, now: float) -> bool:
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.eval(_ERASE, len(_KEYS), *_keys(user_id), repr(now), int(ERASED_SECONDS))
        return bool((await self._replies(pipeline))[0])

    async def expire(self, now: float) -> int:
        return 0

    async def close(self) -> None:
        async with self._mapped():
            await self._redis.aclose()

    def _client_url(self, url: str) -> str:
        """Returns the URL for redis-py, which has no valkey:// and takes "x" as database 0."""
        try:
            parts = urllib.parse.urlsplit(url)
            database = parts.path.strip("/") or "0"
            is_valid = parts.scheme == "unix" or (parts.port != 0 and database.isdecimal())
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ValueError(
                f"The address of the user store is {self._name!r}; expected "
                "redis://HOST:PORT/DATABASE with numbers, such as redis://127.0.0.1:6379/0. Escape "
                "special characters of a password, such as %2F for a slash."
            )
        return url.replace("valkey", "redis", 1) if url.startswith("valkey") else url

    async def _replies(self, pipeline: Any) -> list[Any]:
        async with self._mapped():
            # The client's own error for a pipeline quotes the command, which has user data.
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    @contextlib.asynccontextmanager
    async def _mapped(self) -> AsyncIterator[None]:
        """Maps errors of the client and of the server to `UserStoreError`, without user data."""
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            # For an unknown command, the server also returns its arguments.
            reason = str(error).partition(", with args beginning with")[0].rstrip(".")
            raise errors.UserStoreError(
                f"The user store {self._name} failed: {reason}. Check its address and the server."
            ) from error


def _keys(user_id: str) -> list[str]:
    # Empty braces would not keep the keys on one node.
    prefix = "tfrec:escaped:{_" if user_id.startswith("}") else "tfrec:{"
    return [f"{prefix}{user_id}}}:{name}" for name in _KEYS]


def _events(latest_first: Sequence[bytes]) -> list[StoredEvent]:
    # One call for all of them is several times faster.
    texts = b",".join(reversed(latest_first))
    return list(map(StoredEvent._make, json.loads(b"[" + texts + b"]")))
