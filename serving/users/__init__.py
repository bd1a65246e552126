"""The user store: profiles and the latest events of users, in SQLite or Redis and Valkey."""

import asyncio
import pathlib

from serving.config import UserStoreConfig
from serving.users.sqlite_store import SqliteUserStore
from serving.users.store import ACTIONS, StoredEvent, User, UserStore

_SERVERS = tuple(f"{scheme}://" for scheme in ("redis", "rediss", "unix", "valkey", "valkeys"))

__all__ = ["ACTIONS", "StoredEvent", "User", "UserStore", "check_store", "open_store"]


def check_store(address: str) -> None:
    """Opens a user store and closes it, to fail before anything is started.

    Args:
        address: Address, as for `open_store`, which lists the errors.
    """
    asyncio.run(open_store(address).close())


def open_store(address: str, config: UserStoreConfig | None = None) -> UserStore:
    """Opens a user store. A store in Redis or Valkey connects when it is first used.

    Args:
        address: `sqlite:PATH`, or the URL of a Redis or Valkey server, such as
            `redis://127.0.0.1:6379/0`.
        config: Options. None: the defaults.

    Raises:
        ValueError: The address is not valid, or the directory of the file does not exist.
        ModuleNotFoundError: The extra `redis` is not installed.
        UserStoreError: The file of SQLite cannot be opened.
    """
    config = config or UserStoreConfig()
    if address.startswith(_SERVERS):
        # Only the address of a server needs the extra.
        from serving.users import redis_store

        return redis_store.RedisUserStore(address, config)
    scheme, _, path = address.partition(":")
    if scheme != "sqlite" or not path or path == ":memory:":
        # A password, if any, is before an "@".
        raise ValueError(
            "Expected sqlite:PATH, a file, or redis://HOST:PORT/DATABASE as the user store, got "
            f"{address.rpartition('@')[2]!r}."
        )
    directory = pathlib.Path(path).parent
    if not directory.is_dir():
        raise ValueError(
            f"Expected the file of the user store in a directory that exists, got {address!r}. "
            f"Check the path, or create the directory {directory}."
        )
    return SqliteUserStore(path, config)
