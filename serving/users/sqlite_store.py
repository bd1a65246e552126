"""The user store of one host: a file of SQLite that its processes share.

The events of a user are next to each other in one B-tree, in the order of their times, so that a
read visits a page or two. In write-ahead mode it never waits for a write. From memory it takes
0.08 ms, less than a round trip to a thread, which adds 0.2 ms, and 8 ms at the 99th percentile on
a busy machine. So reads run in the event loop. Writes have their own thread.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from serving import errors
from serving.config import UserStoreConfig
from serving.users.store import ERASED_SECONDS, StoredEvent, User, by_user
from tfrecords.schema import IMPRESSION

_Result = TypeVar("_Result")

_VERSION = 2
# `written` is in whole hours, so that most writes do not change its index. `erased` has the users
# who were erased recently.
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS users (
    user_id TEXT PRIMARY KEY, profile TEXT, written INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS users_written ON users (written);
CREATE TABLE IF NOT EXISTS events (
    user_id TEXT, is_impression INTEGER, time REAL, event_id TEXT, kind TEXT, ad_id TEXT,
    amount REAL, PRIMARY KEY (user_id, is_impression, time, event_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erased (user_id TEXT PRIMARY KEY, time REAL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_READ_ERASED = "SELECT time FROM erased WHERE user_id = ? AND time > ?"
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
# Keeps the latest ?3 events: deletes the next one and all before it.
_TRIM = (
    "DELETE FROM events WHERE user_id = ?1 AND is_impression = ?2 AND (time, event_id) <= ("
    "SELECT time, event_id FROM events WHERE user_id = ?1 AND is_impression = ?2 "
    "ORDER BY time DESC, event_id DESC LIMIT 1 OFFSET ?3)"
)
_FORGET = "DELETE FROM events WHERE user_id = ? AND is_impression = ? AND time < ?"
# Users deleted in one transaction, so that other writers wait for milliseconds only.
_USERS_PER_EXPIRY = 500
_BUSY_SECONDS = 5.0


class SqliteUserStore:
    """A user store in a file, which is created if it does not exist, in an existing directory."""

    def __init__(self, path: str | pathlib.Path, config: UserStoreConfig) -> None:
        self._path = pathlib.Path(path)
        self._config = config
        with self._mapped():
            if not self._path.exists():
                # SQLite gives the same permissions to the two files next to it.
                self._path.touch(0o600)
            self._file = _identity(self._path)
            self._writer = self._connected()
            self._prepare()
            self._reader = self._connected()
        self._writing = futures.ThreadPoolExecutor(1, thread_name_prefix="user-writes")

    async def read(self, user_id: str, now: float, impressions: bool = False) -> User:
        with self._mapped():
            return self._user(user_id, now, impressions)

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        return await self._run(lambda: self._append(events, now))

    async def set_profile(self, user_id: str, profile: Mapping[str, Any], now: float) -> None:
        def write() -> None:
            with self._transaction():
                self._writer.execute(_WRITTEN, (user_id, json.dumps(profile), _hours(now)))

        await self._run(write)

    async def delete(self, user_id: str, now: float) -> bool:
        def write() -> bool:
            with self._transaction():
                self._writer.execute("REPLACE INTO erased VALUES (?, ?)", (user_id, now))
                return self._remove([(user_id,)]) > 0

        return await self._run(write)

    async def expire(self, now: float) -> int:
        count = 0
        while deleted := await self._run(lambda: self._expire(now)):
            count += deleted
        return count

    async def close(self) -> None:
        self._reader.close()
        await self._run(self._writer.close)
        self._writing.shutdown()

    def _connected(self) -> sqlite3.Connection:
        # Each connection is used in one thread, perhaps not in this one.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        # Overwrites erased data in the file.
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    def _prepare(self) -> None:
        """Creates the tables of a new file, and checks the version of another."""
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        (tables,) = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in (0, _VERSION) or (tables and not version):
            raise errors.UserStoreError(
                f"{self._path} is not a user store of version {_VERSION}; got a database of "
                f"version {version} of another program or release. Its content is unchanged. Name "
                "another file, or delete this one if you no longer need it."
            )
        if not version:
            self._write_ahead()
            self._writer.executescript(_SCHEMA)

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

    def _user(self, user_id: str, now: float, impressions: bool) -> User:
        self._check_file()
        row = self._reader.execute(_READ_PROFILE, (user_id,)).fetchone()
        lists = []
        for is_impression in range(1 + impressions) if row else ():
            limits = (now - self._config.ttl_seconds, now, self._limit(is_impression))
            events = self._reader.execute(_READ_EVENTS, (user_id, is_impression, *limits))
            lists.append(list(map(StoredEvent._make, reversed(events.fetchall()))))
        return User(json.loads((row and row[0]) or "{}"), *lists)

    def _limit(self, is_impression: int) -> int:
        return self._config.max_impressions if is_impression else self._config.max_actions

    def _append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        count, since = 0, now - self._config.ttl_seconds
        with self._transaction():
            for user_id, user_events in by_user(events, self._config, since).items():
                found = self._writer.execute(_READ_ERASED, (user_id, now - ERASED_SECONDS))
                (erased,) = found.fetchone() or (-1.0,)
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
                    self._writer.execute(_TRIM, (user_id, is_impression, limit))
                    self._writer.execute(_FORGET, (user_id, is_impression, since))
                self._writer.execute(_WRITTEN, (user_id, None, _hours(now)))
        return count

    def _expire(self, now: float) -> int:
        with self._transaction():
            self._writer.execute("DELETE FROM erased WHERE time <= ?", (now - ERASED_SECONDS,))
            before = _hours(now - self._config.ttl_seconds)
            # In the transaction: another process may write to a user meanwhile.
            found = self._writer.execute(
                "SELECT user_id FROM users WHERE written < ? LIMIT ?", (before, _USERS_PER_EXPIRY)
            )
            return self._remove(found.fetchall())

    def _remove(self, ids: Sequence[tuple[str]]) -> int:
        """Deletes users, in a transaction, and returns how many there were."""
        self._writer.executemany("DELETE FROM events WHERE user_id = ?", ids)
        return self._writer.executemany("DELETE FROM users WHERE user_id = ?", ids).rowcount

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

    async def _run(self, call: Callable[[], _Result]) -> _Result:
        with self._mapped():
            return await asyncio.get_running_loop().run_in_executor(self._writing, call)

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Maps errors of SQLite and of the file system to `UserStoreError`."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise errors.UserStoreError(
                f"The user store {self._path} failed: {error}. Check the file, its directory and "
                "the space on its disk; restore a backup of a damaged file."
            ) from error


def _identity(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns the identity of a file; None: it does not exist."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _hours(seconds: float) -> int:
    return int(seconds // 3600)
