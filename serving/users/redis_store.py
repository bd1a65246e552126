"""The user store for several hosts: Redis or Valkey, with the extra `redis`.

    tfrec:{USER}:profile       JSON object
    tfrec:{USER}:actions       sorted set of events, JSON lists, by time
    tfrec:{USER}:impressions   sorted set of impressions, in the same form
    tfrec:{USER}:ids           hash with the ids of these events, to recognize repeated ones
    tfrec:{USER}:erased        latest time of events to leave out, for an hour after an erasure

    tfrec:ttl_seconds          time to live of users and events, as configured for the service

The braces keep the keys of a user on one node of a cluster; keys of a user whose id begins with `}`
begin with `tfrec:escaped:{_USER}`. Reads and writes are one round trip each. The server deletes a
user who was not written to for the time to live.
"""

import contextlib
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import redis.asyncio
from redis import backoff, exceptions
from redis.asyncio import retry

from serving import errors, redis_address
from serving.config import UserStoreConfig
from serving.users.store import (
    ERASED_SECONDS,
    StoredEvent,
    User,
    by_user,
    latest_time,
    note_change,
)
from tfrecords.schema import IMPRESSION

# KEYS: profile, actions, impressions, ids, erased.
# ARGV: time to live in seconds, earliest time, maximum of actions and of impressions, current time;
# then index of the list, time, id and JSON of each event. A list keeps the latest events until now,
# and the latest of those whose time is yet to come.
_APPEND = """
local added = 0
local written = {}
local erased = tonumber(redis.call('GET', KEYS[5]) or '-1')
for i = 6, #ARGV, 4 do
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
  local limit = ARGV[list + 1]
  for _, range in ipairs({{ARGV[5], '-inf'}, {'+inf', '(' .. ARGV[5]}}) do
    drop(KEYS[list], redis.call('ZREVRANGEBYSCORE', KEYS[list], range[1], range[2],
      'LIMIT', limit, -1))
  end
  drop(KEYS[list], redis.call('ZRANGEBYSCORE', KEYS[list], '-inf', '(' .. ARGV[2]))
end
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return added
"""
# KEYS: as above. ARGV: time to live in seconds, and whether an existing profile is kept (1); then
# time and JSON, without braces, of parts of the profile.
_SET_PROFILE = """
if ARGV[2] == '1' and (redis.call('GET', KEYS[1]) or '{}') ~= '{}' then return 0 end
local erased = tonumber(redis.call('GET', KEYS[5]) or '-1')
local values = {}
for i = 3, #ARGV, 2 do
  if tonumber(ARGV[i]) > erased then table.insert(values, ARGV[i + 1]) end
end
if #values == 0 then return 0 end
redis.call('SET', KEYS[1], '{' .. table.concat(values, ',') .. '}')
for i = 1, 4 do redis.call('EXPIRE', KEYS[i], ARGV[1]) end
return 1
"""
# KEYS: as above. ARGV: the time, seconds to keep it, and the latest time that it may become.
# A later event comes from a clock that is ahead; the user may have been erased before, too.
# A full server refuses SET, but not in a script that has already written, such as by DEL.
_ERASE = """
local erased = ARGV[1]
local function raise(time)
  if time and tonumber(time) > tonumber(erased) then erased = time end
end
raise(redis.call('GET', KEYS[5]))
for i = 2, 3 do raise(redis.call('ZRANGE', KEYS[i], -1, -1, 'WITHSCORES')[2]) end
if tonumber(erased) > tonumber(ARGV[3]) then erased = ARGV[3] end
local count = redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[5], erased, 'EX', ARGV[2])
return count
"""
_TTL = "tfrec:ttl_seconds"
_NO_EVICTION = "noeviction"
_KEYS = ("profile", "actions", "impressions", "ids", "erased")


class RedisUserStore:
    """A user store in Redis or Valkey."""

    def __init__(self, url: str, config: UserStoreConfig | None = None) -> None:
        self._config = config or UserStoreConfig()
        # None: the server's time to live.
        self._config_ttl = None if config is None else config.ttl_seconds
        self._is_ttl_set = False
        self._redis = redis.asyncio.Redis.from_url(
            redis_address.client_url(url),
            # A read that misses its request's timeout continues until then, so that a connection
            # that takes longer to open is ready for the next request.
            socket_timeout=self._config.write_timeout_seconds,
            socket_connect_timeout=self._config.write_timeout_seconds,
            # The server may have closed a connection of the pool, as at its restart.
            retry=retry.Retry(backoff.NoBackoff(), 1, (exceptions.ConnectionError,)),
        )
        redis_address.check_options(self._redis.connection_pool, url)
        # Without the password.
        self._name = redis_address.without_secrets(url)

    async def read(
        self, user_ids: Sequence[str], now: float, impressions: bool = False
    ) -> list[User]:
        since = now - await self._ttl_seconds()
        limits = (self._config.max_actions, self._config.max_impressions)[: 1 + impressions]
        pipeline = self._redis.pipeline(transaction=False)
        for user_id in user_ids:
            profile, *keys = _keys(user_id)
            pipeline.get(profile)
            for key, limit in zip(keys, limits, strict=False):
                pipeline.zrevrangebyscore(key, now, since, start=0, num=limit)
        replies = await self._replies(pipeline)
        size = 1 + len(limits)
        return [_user(*replies[at : at + size]) for at in range(0, len(replies), size)]

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        ttl = await self._ttl_seconds()
        since = now - ttl
        pipeline = self._redis.pipeline(transaction=False)
        for user_id, user_events in by_user(events, self._config, since, now).items():
            # Calling the script by its digest would take a second round trip.
            arguments = self._arguments(user_events, ttl, since, now)
            pipeline.eval(_APPEND, len(_KEYS), *_keys(user_id), *arguments)
        return sum(await self._replies(pipeline))

    async def set_profile(
        self,
        user_id: str,
        profile: Mapping[str, Any],
        now: float,
        times: Mapping[str, float] | None = None,
    ) -> bool:
        # Without times, the profile is later than any erasure.
        parts: list[tuple[float, Mapping[str, Any]]] = [(math.inf, profile)]
        if times is not None:
            parts = [(times[name], {name: value}) for name, value in profile.items()]
        keeps_existing = "0" if times is None else "1"
        arguments = [repr(self._expiry(await self._ttl_seconds())), keeps_existing]
        for time, part in parts:
            arguments += [repr(time), json.dumps(part)[1:-1]]
        return bool(await self._evaluated(_SET_PROFILE, user_id, arguments))

    async def delete(self, user_id: str, now: float) -> bool:
        times = [repr(now), repr(int(ERASED_SECONDS)), repr(latest_time(now))]
        return bool(await self._evaluated(_ERASE, user_id, times))

    async def expire(self, now: float) -> int:
        return 0

    async def check_settings(self) -> str | None:
        if self._config_ttl is not None:
            async with self._mapped():
                # After the first time, it is set only if the server has lost it, because another
                # service may have changed it.
                before = await self._redis.get(_TTL)
                if before is None or not self._is_ttl_set:
                    await self._redis.set(_TTL, repr(self._config_ttl))
            if not self._is_ttl_set:
                note_change(self._name, None if before is None else float(before), self._config_ttl)
            self._is_ttl_set = True
        policy = await self._eviction_policy()
        if policy in (None, _NO_EVICTION):
            return None
        return (
            f"The user store {self._name} has the maxmemory-policy {policy}; expected "
            f"{_NO_EVICTION}. When its memory is full, the server deletes parts of users, and "
            "records of erasures. Start it with --maxmemory-policy noeviction."
        )

    async def close(self) -> None:
        async with self._mapped():
            await self._redis.aclose()

    async def _ttl_seconds(self) -> float:
        """Returns the time to live of events; infinite if neither options nor server have one."""
        if self._config_ttl is not None:
            return self._config_ttl
        async with self._mapped():
            return float(await self._redis.get(_TTL) or math.inf)

    async def _eviction_policy(self) -> str | None:
        """Returns the server's maxmemory-policy; None: reading it is forbidden."""
        async with self._mapped():
            try:
                # Managed servers often forbid CONFIG, but not INFO.
                found = await self._redis.info("memory")
            except exceptions.ResponseError:
                return None
        return found.get("maxmemory_policy")

    def _expiry(self, ttl: float) -> int:
        """Returns the seconds after which the server deletes a user who is not written to."""
        return int(ttl if math.isfinite(ttl) else self._config.ttl_seconds)

    async def _evaluated(self, script: str, user_id: str, arguments: Sequence[str]) -> Any:
        """Returns the result of a script on the keys of a user."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.eval(script, len(_KEYS), *_keys(user_id), *arguments)
        (reply,) = await self._replies(pipeline)
        return reply

    def _arguments(
        self, events: Sequence[StoredEvent], ttl: float, since: float, now: float
    ) -> list[str]:
        config = self._config
        limits = (self._expiry(ttl), since, config.max_actions, config.max_impressions, now)
        arguments = list(map(repr, limits))
        for event in events:
            list_index = "3" if event.kind == IMPRESSION else "2"
            arguments += [list_index, repr(event.time), event.event_id, event.to_text()]
        return arguments

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
            await leave_replica(self._redis, error)
            # For an unknown command, the server also returns its arguments.
            reason = str(error).partition(", with args beginning with")[0].rstrip(".")
            raise errors.UserStoreError(
                f"The user store {self._name} failed: {reason}. {remedy(error)}"
            ) from error


async def leave_replica(client: redis.asyncio.Redis, error: Exception) -> None:
    """Closes the idle connections of a client if an error shows that its server is a replica.

    After a failover the address may lead to the new primary, but open connections do not.
    """
    if redis_address.is_of_replica(error):
        with contextlib.suppress(exceptions.RedisError, OSError):
            await client.connection_pool.disconnect(inuse_connections=False)


def remedy(error: Exception) -> str:
    """Returns what to do about an error of the client or of the server."""
    if isinstance(error, exceptions.AuthenticationError):
        return "Check the user and the password in the address."
    if "maxmemory" in str(error):
        return "Give the server more memory, or keep users for fewer days (--user_ttl_days)."
    if redis_address.is_of_replica(error):
        return "Name the primary server, not a replica."
    if isinstance(error, exceptions.BusyLoadingError):
        return "It can be used once its data is loaded."
    if isinstance(error, exceptions.ResponseError):
        return "Check the settings and the log of the server."
    return "Is the server running at this address?"


def _keys(user_id: str) -> list[str]:
    # Empty braces would not keep the keys on one node.
    prefix = "tfrec:escaped:{_" if user_id.startswith("}") else "tfrec:{"
    return [f"{prefix}{user_id}}}:{name}" for name in _KEYS]


def _user(
    profile: bytes | None, actions: Sequence[bytes], impressions: Sequence[bytes] = ()
) -> User:
    return User(json.loads(profile or b"{}"), _events(actions), _events(impressions))


def _events(latest_first: Sequence[bytes]) -> list[StoredEvent]:
    # One call for all of them is several times faster.
    texts = b",".join(reversed(latest_first))
    return list(map(StoredEvent._make, json.loads(b"[" + texts + b"]")))
