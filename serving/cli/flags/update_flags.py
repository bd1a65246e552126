"""The flag of the channel that carries live updates between hosts."""

from absl import flags

from serving.cli import command_line

flags.DEFINE_string(
    "update_channel",
    None,
    "redis://HOST:PORT/DATABASE of a Redis or Valkey server that carries live updates between "
    "hosts with their own copy of the bundle; default: the environment variable "
    "TFREC_UPDATE_CHANNEL, or none. Needs the extra redis.",
)


def update_channel() -> str | None:
    """Returns the address of the channel, or None.

    Raises:
        ValueError: The address is not valid.
    """
    from serving import live

    address = command_line.address_of_flag("update_channel")
    if address is not None:
        with command_line.require_extra("redis"):
            live.check_channel(address)
    return address
