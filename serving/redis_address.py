"""Addresses of Redis and Valkey servers. Imports no client."""

_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys")


def names_server(address: str) -> bool:
    """Returns whether an address has a scheme of Redis or Valkey."""
    return address.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def client_url(address: str) -> str:
    """Returns an address for redis-py, which does not support `valkey://` and `valkeys://`."""
    return address.replace("valkey", "redis", 1) if address.startswith("valkey") else address


def without_secrets(address: str) -> str:
    """Returns an address for messages, without user, password and options."""
    scheme, separator, rest = address.partition("?")[0].rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]
