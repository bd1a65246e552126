"""Opens the store of an address."""

import asyncio
import pathlib

from serving import redis_address
from serving.config import UserStoreConfig
from serving.users import sqlite_store
from serving.users.store import UserStore


def check_store(address: str) -> None:
    """Opens a user store and closes it, to fail before anything is started.

    Args:
        address: Address, as for `open_store`.

    Raises:
        ValueError, ModuleNotFoundError, UserStoreError: See `open_store`.
    """
    asyncio.run(open_store(address).close())


def open_store(address: str, config: UserStoreConfig | None = None) -> UserStore:
    """Opens a user store. A store in Redis or Valkey connects when it is first used.

    Args:
        address: `sqlite:PATH`, or the URL of a Redis or Valkey server, such as
            `redis://127.0.0.1:6379/0`.
        config: Options, whose time to live is kept in the store. None: the defaults, and the time
            to live that the store has.

    Raises:
        ValueError: The address is not valid, or the directory of the file does not exist.
        ModuleNotFoundError: The extra `redis` is not installed.
        UserStoreError: The file of SQLite cannot be opened.
    """
    if redis_address.names_server(address):
        # Only the address of a server needs the extra.
        from serving.users import redis_store

        return redis_store.RedisUserStore(address, config)
    scheme, _, path = address.partition(":")
    if scheme != "sqlite" or not path:
        raise ValueError(
            f"Expected sqlite:PATH or redis://HOST:PORT/DATABASE as the user store, got "
            f"{redis_address.without_secrets(address)!r}."
        )
    if path == ":memory:":
        raise ValueError(
            f"Expected the file of the user store, got {address!r}. The store cannot be in memory, "
            "because processes share it. Name a file, such as sqlite:users.db."
        )
    directory = pathlib.Path(path).parent
    if not directory.is_dir():
        raise ValueError(
            f"Expected the file of the user store in a directory that exists, got {address!r}. "
            f"Check the path, or create the directory {directory}."
        )
    return sqlite_store.SqliteUserStore(path, config)
