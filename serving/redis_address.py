"""Addresses and replies of Redis and Valkey servers. Imports no client."""

import urllib.parse
from typing import Any

_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")


def names_server(address: str) -> bool:
    """Returns whether an address has a scheme of Redis or Valkey."""
    return address.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def client_url(address: str) -> str:
    """Returns an address for redis-py, which does not support `valkey://` and `valkeys://`.

    Raises:
        ValueError: The port or the database is not a number; redis-py would use database 0.
    """
    if not address.startswith("unix://") and not _has_numbers(address):
        raise ValueError(
            f"The address of the server is {without_secrets(address)!r}; expected "
            "redis://HOST:PORT/DATABASE with numbers, such as redis://127.0.0.1:6379/0. Correct "
            "the port and the database, and escape special characters of a password, such as %2F "
            "for a slash."
        )
    return address.replace("valkey", "redis", 1) if address.startswith("valkey") else address


def check_options(pool: Any, address: str) -> None:
    """Checks the options after the `?` of an address, without connecting.

    Args:
        pool: Connection pool of redis-py, which passes unknown options on to its connections.
        address: The address of the pool.

    Raises:
        ValueError: redis-py does not know an option or its value.
    """
    try:
        pool.make_connection()
    except Exception as error:
        raise ValueError(
            f"The address {without_secrets(address)!r} has an option that redis-py does not accept "
            f"({error}); expected options such as ?health_check_interval=30. Correct it or leave "
            "it out."
        ) from error


def _has_numbers(address: str) -> bool:
    """Returns whether the port and the database of an address are numbers or missing."""
    try:
        parts = urllib.parse.urlsplit(address)
        is_port = parts.port != 0
    except ValueError:
        return False
    database = parts.path.strip("/")
    return is_port and (not database or (database.isascii() and database.isdecimal()))


def without_secrets(address: str) -> str:
    """Returns an address for messages, without user, password and options."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
    host, _, options = rest.partition("?")
    # The options contain an "@", or the password a "?" that is not escaped.
    return scheme + separator + ("" if "@" in options else host.rpartition("@")[2])


def is_of_replica(error: Exception) -> bool:
    """Returns whether an error says that the server is a replica, which refuses writes."""
    return "read only replica" in str(error)
