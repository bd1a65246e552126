"""The user store of one host: a file of SQLite that its processes share.

The events of a user are next to each other in one B-tree, in the order of their times, so that a
read visits a page or two. In write-ahead mode it never waits for a write. From memory it takes
0.08 ms, less than a round trip to a thread, which adds 0.2 ms, and 8 ms at the 99th percentile on
a busy machine. So reads run in the event loop as long as recent ones were fast. If the disk is
slow, they run in a thread. Writes have their own thread.
"""

import asyncio
import contextlib
import json
import math
import os
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from serving import errors
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

_Result = TypeVar("_Result")

_VERSION = 1
# `written` is in whole hours, so that most writes do not change its index. `erased` has the users
# who were erased recently.
_SCHEMA = """
CREATE TABLE users (user_id TEXT PRIMARY KEY, profile TEXT, written INTEGER) WITHOUT ROWID;
CREATE INDEX users_written ON users (written);
CREATE TABLE events (
    user_id TEXT, is_impression INTEGER, time REAL, event_id TEXT, kind TEXT, ad_id TEXT,
    amount REAL, PRIMARY KEY (user_id, is_impression, time, event_id)
) WITHOUT ROWID;
CREATE TABLE erased (user_id TEXT PRIMARY KEY, time REAL) WITHOUT ROWID;
CREATE TABLE settings (name TEXT PRIMARY KEY, value REAL) WITHOUT ROWID;
"""
# The tables of all files of this version.
_COLUMNS = {
    "users": {"user_id", "profile", "written"},
    "events": {"user_id", "is_impression", "time", "event_id", "kind", "ad_id", "amount"},
    "erased": {"user_id", "time"},
    "settings": {"name", "value"},
}
_READ_TTL = "SELECT value FROM settings WHERE name = 'ttl_seconds'"
_WRITE_TTL = "REPLACE INTO settings VALUES ('ttl_seconds', ?)"
_LATEST = "SELECT max(time) FROM events WHERE user_id = ?"
# A time that is far ahead comes from a clock that was wrong.
_READ_ERASED = "SELECT time FROM erased WHERE user_id = ?1 AND time > ?2 - ?3 AND time < ?2 + ?3"
_FORGET_ERASED = "DELETE FROM erased WHERE time <= ?1 - ?2 OR time >= ?1 + ?2"
_READ_PROFILE = "SELECT profile FROM users WHERE user_id = ?"
_READ_EVENTS = (
    "SELECT event_id, kind, ad_id, time, amount FROM events "
    "WHERE user_id = ? AND is_impression = ? AND time BETWEEN ? AND ? "
    "ORDER BY time DESC, event_id DESC LIMIT ?"
)
_WRITTEN = (
    "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (user_id) "
    "DO UPDATE SET written = max(written, excluded.written), "
    "profile = coalesce(excluded.profile, profile)"
)
_ADD = (
    "INSERT INTO events SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 "
    "WHERE NOT EXISTS (SELECT 1 FROM events WHERE user_id = ?1 AND event_id = ?4)"
)
# Keeps the latest ?3 of the events after ?4 and until ?5: deletes the next one and all before it.
_TRIM = (
    "DELETE FROM events WHERE user_id = ?1 AND is_impression = ?2 AND time > ?4 "
    "AND (time, event_id) <= ("
    "SELECT time, event_id FROM events WHERE user_id = ?1 AND is_impression = ?2 AND time > ?4 "
    "AND time <= ?5 ORDER BY time DESC, event_id DESC LIMIT 1 OFFSET ?3)"
)
_FORGET = "DELETE FROM events WHERE user_id = ? AND is_impression = ? AND time < ?"
_CORRECT = (
    "UPDATE users SET written = ?1 "
    "WHERE user_id IN (SELECT user_id FROM users WHERE written > ?2 LIMIT ?3)"
)
# Users deleted in one transaction, so that other writers wait for milliseconds only.
_USERS_PER_EXPIRY = 500
_BUSY_SECONDS = 5.0
# Maximum time that emptying the write-ahead log waits for reads, while writes wait, too. Most reads
# take less than a millisecond; a backup's takes longer.
_EMPTYING_SECONDS = 0.1
# Reads that are expected to take longer do not block the event loop.
_MAX_INLINE_SECONDS = 0.001
_PACE_WEIGHT = 0.1


class SqliteUserStore:
    """A user store in a file, which is created if it does not exist, in an existing directory."""

    def __init__(self, path: str | pathlib.Path, config: UserStoreConfig | None = None) -> None:
        self._path = pathlib.Path(path)
        self._config = config or UserStoreConfig()
        # None: the file's time to live.
        self._config_ttl = None if config is None else config.ttl_seconds
        with self._mapped():
            # Not touched if it exists: another program's file must not change.
            if not self._path.exists():
                # SQLite gives the same permissions to the two files next to it.
                self._path.touch(0o600)
            self._file = _identity(self._path)
            with contextlib.closing(self._connected()) as connection:
                self._check_is_ours(connection)
            self._writer = self._connected()
            self._prepare()
            self._inline = self._connected()
            self._reader = self._connected()
        # Moving average of the time to read a user, in seconds.
        self._pace = 0.0
        self._reading = futures.ThreadPoolExecutor(1, thread_name_prefix="user-reads")
        self._writing = futures.ThreadPoolExecutor(1, thread_name_prefix="user-writes")

    async def read(
        self, user_ids: Sequence[str], now: float, impressions: bool = False
    ) -> list[User]:
        started = time.perf_counter()
        if self._pace * len(user_ids) < _MAX_INLINE_SECONDS:
            with self._mapped():
                found = self._users(self._inline, user_ids, now, impressions)
        else:
            found = await self._run(
                self._reading, lambda: self._users(self._reader, user_ids, now, impressions)
            )
        pace = (time.perf_counter() - started) / max(len(user_ids), 1)
        self._pace += _PACE_WEIGHT * (pace - self._pace)
        return found

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        return await self._run(self._writing, lambda: self._append(events, now))

    async def set_profile(
        self,
        user_id: str,
        profile: Mapping[str, Any],
        now: float,
        times: Mapping[str, float] | None = None,
    ) -> bool:
        return await self._run(
            self._writing, lambda: self._set_profile(user_id, profile, now, times)
        )

    async def delete(self, user_id: str, now: float) -> bool:
        return await self._run(self._writing, lambda: self._delete(user_id, now))

    async def expire(self, now: float) -> int:
        # In steps, too, so that other writers wait for milliseconds only.
        while await self._run(self._writing, lambda: self._correct_times(now)):
            pass
        count = 0
        while True:
            deleted = await self._run(self._writing, lambda: self._expire(now))
            count += deleted
            if not deleted:
                await self._run(self._writing, self._overwrite)
                return count

    async def check_settings(self) -> str | None:
        return None

    async def close(self) -> None:
        self._inline.close()
        for executor, connection in ((self._reading, self._reader), (self._writing, self._writer)):
            await self._run(executor, connection.close)
            executor.shutdown()

    def _connected(self) -> sqlite3.Connection:
        # Each connection is used in one thread, perhaps not in this one.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        # Overwrites erased data in the file; `_overwrite` does so in the write-ahead log.
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def _check_is_ours(self, connection: sqlite3.Connection) -> None:
        """Raises `UserStoreError` if the file is another program's. Writes nothing."""
        # In one transaction: another process may be creating the tables.
        connection.execute("BEGIN")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if _is_empty(connection) and not version:
            return
        if version != _VERSION or not _has_our_tables(connection):
            raise errors.UserStoreError(
                f"{self._path} is not a user store of version {_VERSION}; got a database of "
                f"version {version} of another program or release. Its content is unchanged. Name "
                "another file, or delete this one if you no longer need it."
            )

    def _prepare(self) -> None:
        self._write_ahead()
        if self._is_prepared():
            # A full disk refuses any write, but not a service that reads.
            return
        with self._transaction():
            if _is_empty(self._writer):
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._writer.execute(statement)
                self._writer.execute(f"PRAGMA user_version = {_VERSION}")
            if self._config_ttl is not None:
                found = self._writer.execute(_READ_TTL).fetchone()
                note_change(str(self._path), found and found[0], self._config_ttl)
                self._writer.execute(_WRITE_TTL, (self._config_ttl,))

    def _is_prepared(self) -> bool:
        """Returns whether the file has all tables and the configured time to live."""
        found = self._writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not {*_COLUMNS} <= {name for (name,) in found}:
            return False
        ttl = self._writer.execute(_READ_TTL).fetchone()
        return self._config_ttl is None or ttl == (self._config_ttl,)

    def _write_ahead(self) -> None:
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # If several processes switch a new file at once, SQLite lets only one of them wait.
                is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not is_busy or time.monotonic() >= until:
                    raise
            time.sleep(0.01)

    def _since(self, connection: sqlite3.Connection, now: float) -> float:
        """Returns the time of the earliest events to keep."""
        if self._config_ttl is not None:
            return now - self._config_ttl
        found = connection.execute(_READ_TTL).fetchone()
        return now - (found[0] if found else math.inf)

    def _users(
        self, connection: sqlite3.Connection, user_ids: Sequence[str], now: float, impressions: bool
    ) -> list[User]:
        self._check_file()
        since = self._since(connection, now)
        found = []
        for user_id in user_ids:
            row = connection.execute(_READ_PROFILE, (user_id,)).fetchone()
            lists = []
            for is_impression in range(1 + impressions) if row else ():
                limits = (since, now, self._limit(is_impression))
                events = connection.execute(_READ_EVENTS, (user_id, is_impression, *limits))
                lists.append(list(map(StoredEvent._make, reversed(events.fetchall()))))
            found.append(User(_profile(row), *lists))
        return found

    def _limit(self, is_impression: int) -> int:
        return self._config.max_impressions if is_impression else self._config.max_actions

    def _append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        count = 0
        with self._transaction():
            since = self._since(self._writer, now)
            for user_id, user_events in by_user(events, self._config, since, now).items():
                erased = self._erased(user_id, now)
                rows = [
                    (user_id, e.kind == IMPRESSION, e.time, e.event_id, e.kind, e.ad_id, e.amount)
                    for e in user_events
                    if e.time > erased
                ]
                if not rows:
                    continue
                count += self._writer.executemany(_ADD, rows).rowcount
                for is_impression in {row[1] for row in rows}:
                    limit = self._limit(is_impression)
                    for period in ((-math.inf, now), (now, math.inf)):
                        self._writer.execute(_TRIM, (user_id, is_impression, limit, *period))
                    self._writer.execute(_FORGET, (user_id, is_impression, since))
                self._writer.execute(_WRITTEN, (user_id, None, _hours(now)))
        return count

    def _set_profile(
        self,
        user_id: str,
        profile: Mapping[str, Any],
        now: float,
        times: Mapping[str, float] | None,
    ) -> bool:
        with self._transaction():
            if times is not None:
                row = self._writer.execute(_READ_PROFILE, (user_id,)).fetchone()
                if _profile(row):
                    return False
                erased = self._erased(user_id, now)
                profile = {name: value for name, value in profile.items() if times[name] > erased}
                if not profile:
                    return False
            self._writer.execute(_WRITTEN, (user_id, json.dumps(profile), _hours(now)))
        return True

    def _erased(self, user_id: str, now: float) -> float:
        """Returns the time up to which a user's data was erased; -1: not erased lately."""
        found = self._writer.execute(_READ_ERASED, (user_id, now, ERASED_SECONDS)).fetchone()
        return float(found[0]) if found else -1.0

    def _correct_times(self, now: float) -> int:
        """Sets write times of a clock that was far ahead to now, and returns their number.

        If no user has an earlier time, our own clock is wrong, and nothing is changed.
        """
        with self._transaction():
            since = max(self._since(self._writer, now), 0.0)
            (first,) = self._writer.execute("SELECT min(written) FROM users").fetchone()
            if first is None or first > _hours(now):
                return 0
            values = (_hours(now), _hours(now + (now - since)), _USERS_PER_EXPIRY)
            return self._writer.execute(_CORRECT, values).rowcount

    def _expire(self, now: float) -> int:
        with self._transaction():
            before = _hours(max(self._since(self._writer, now), 0.0))
            self._writer.execute(_FORGET_ERASED, (now, ERASED_SECONDS))
            # In the transaction: another process may write to a user meanwhile.
            found = self._writer.execute(
                "SELECT user_id FROM users WHERE written < ? LIMIT ?", (before, _USERS_PER_EXPIRY)
            )
            return self._remove(found.fetchall())

    def _delete(self, user_id: str, now: float) -> bool:
        with self._transaction():
            # An event of a clock that is ahead; the user may have been erased before, too.
            latest = self._writer.execute(_LATEST, (user_id,)).fetchone()[0] or now
            until = max(now, latest, self._erased(user_id, now))
            until = min(until, latest_time(now))
            self._writer.execute("REPLACE INTO erased VALUES (?, ?)", (user_id, until))
            count = self._remove([(user_id,)])
        self._overwrite()
        return count > 0

    def _remove(self, ids: Sequence[tuple[str]]) -> int:
        """Deletes users, in a transaction, and returns how many there were."""
        self._writer.executemany("DELETE FROM events WHERE user_id = ?", ids)
        return self._writer.executemany("DELETE FROM users WHERE user_id = ?", ids).rowcount

    def _overwrite(self) -> None:
        """Empties the write-ahead log, which still has erased data, unless others use it.

        The next `expire` tries again.
        """
        with contextlib.suppress(sqlite3.Error):
            self._wait_at_most(_EMPTYING_SECONDS)
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._wait_at_most(_BUSY_SECONDS)

    def _wait_at_most(self, seconds: float) -> None:
        """Sets how long a write waits for other connections."""
        self._writer.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check_file()
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            # Some errors have rolled back already.
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def _check_file(self) -> None:
        """Raises `UserStoreError` if the path does not lead to the open file."""
        if _identity(self._path) != self._file:
            raise errors.UserStoreError(
                f"The user store cannot be used: its file {self._path} was removed or replaced "
                "after it was opened, and events would be lost. Restart the service, and other "
                "processes that use the store."
            )

    async def _run(self, executor: futures.Executor, call: Callable[[], _Result]) -> _Result:
        with self._mapped():
            return await asyncio.get_running_loop().run_in_executor(executor, call)

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Maps errors of SQLite and of the file system to `UserStoreError`."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            remedy = "Check the file, its directory and the space on its disk."
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
                remedy = (
                    "The file is damaged. Stop the processes that use it, move it away with "
                    f"{self._path.name}-wal and {self._path.name}-shm, and restore a backup."
                )
            raise errors.UserStoreError(
                f"The user store {self._path} failed: {error}. {remedy}"
            ) from error


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns the identity of a file; None: it does not exist."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _has_our_tables(connection: sqlite3.Connection) -> bool:
    def columns(table: str) -> set[str]:
        return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}

    return all(columns(table) == names for table, names in _COLUMNS.items())


def _profile(row: tuple[str | None] | None) -> dict[str, Any]:
    """Returns the profile of a row of users, empty if there is none."""
    text = row[0] if row else None
    # A profile may have been stored as null.
    return (json.loads(text) if text else None) or {}


def _hours(seconds: float) -> int:
    return int(seconds // 3600)
