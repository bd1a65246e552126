"""Opens the store of an address."""

import pathlib

from serving import redis_address
from serving.config import UserStoreConfig
from serving.users import sqlite_store
from serving.users.store import UserStore


def check_address(address: str) -> None:
    """Checks the address of a store without opening it.

    Raises:
        ValueError: The address is not one of a store, or the directory of the file does not exist.
        ModuleNotFoundError: The extra `redis` is not installed.
    """
    scheme, _, rest = address.partition(":")
    if redis_address.names_server(address):
        # Only who names a server needs the extra.
        from serving.users import redis_store  # noqa: F401
    elif scheme != "sqlite" or not rest:
        raise ValueError(
            f"Expected sqlite:PATH or redis://HOST:PORT/DATABASE as the user store, got "
            f"{address!r}."
        )
    elif not pathlib.Path(rest).parent.is_dir():
        raise ValueError(
            f"Expected the file of the user store in a directory that exists, got {address!r}. "
            f"Check the path, or create the directory {pathlib.Path(rest).parent}."
        )


def open_store(address: str, config: UserStoreConfig | None = None) -> UserStore:
    """Opens a user store. One of Redis is connected to when it is first used.

    Args:
        address: `sqlite:PATH`, or the URL of a Redis or Valkey server, such as
            `redis://127.0.0.1:6379/0`.
        config: Options, whose time to live is kept in the store. None: the defaults, and the time
            to live that the store has.

    Raises:
        ValueError: The address is not one of a store, or the directory of the file does not exist.
        ModuleNotFoundError: The extra `redis` is not installed.
        UserStoreError: The file of SQLite cannot be opened.
    """
    check_address(address)
    if address.startswith("sqlite:"):
        return sqlite_store.SqliteUserStore(address.removeprefix("sqlite:"), config)
    from serving.users import redis_store

    return redis_store.RedisUserStore(address, config)
