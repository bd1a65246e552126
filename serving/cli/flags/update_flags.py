"""The flag of the channel that carries live updates between hosts."""

import os

from absl import flags

from serving.cli import extras

flags.DEFINE_string(
    "update_channel",
    None,
    "redis://HOST:PORT/DATABASE of a Redis or Valkey that carries live updates between hosts with "
    "their own copy of the bundle; default: the environment variable TFREC_UPDATE_CHANNEL, or "
    "none. Needs the extra redis.",
)
FLAGS = flags.FLAGS


def update_channel() -> str | None:
    """Returns the address of the channel, or None.

    Raises:
        ValueError: The address is not valid.
    """
    from serving import live

    # The URL may contain a password, and all users of the machine can see a flag.
    address = FLAGS.update_channel or os.environ.get("TFREC_UPDATE_CHANNEL")
    if not address:
        return None
    with extras.require_extra("redis"):
        live.check_channel(address)
    return address
