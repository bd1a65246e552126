"""Opens update channels. The client of a backend is imported only if it is used."""

from serving import redis_address, releases
from serving.live import update_channel


def check_channel(address: str) -> None:
    """Checks the address of a channel, without connecting to it.

    Args:
        address: See `open_channel`.

    Raises:
        ValueError: The address is not valid.
        ModuleNotFoundError: redis is not installed; it comes with the extra `redis`.
    """
    problem = "it has another scheme"
    if redis_address.names_server(address):
        from serving.live import redis_channel

        try:
            redis_channel.connect(address).close()
            return
        except ValueError as error:
            problem = str(error)
    # An address may contain a password.
    raise ValueError(
        f"--update_channel is {redis_address.without_secrets(address)!r}; expected "
        f"redis://HOST:PORT/DATABASE, or rediss:// for TLS ({problem})."
    )


def open_channel(
    address: str | None, release: releases.Bundle
) -> update_channel.UpdateChannel | None:
    """Returns the channel of a release's updates, which connects on its first call.

    Args:
        address: `redis://HOST:PORT/DATABASE`, `rediss://` for TLS, or `unix://PATH`; `valkey://`
            and `valkeys://` mean the same. None: no channel.
        release: Loaded release.
    """
    if address is None:
        return None
    from serving.live import redis_channel

    return redis_channel.RedisChannel(address, release.version, release.manifest.training_id)
