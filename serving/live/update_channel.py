"""Carries live updates between hosts that have their own copy of a release.

Each host keeps the updates in its own journal; the channel has the same records in the same order.
The position of a host is the number of the last record that it has, with a checksum of all records
up to it, so that two hosts at the same position have the same updates.

    host A   update ──► channel (after its position) ──► its journal ──► acknowledged
    host B   channel (records after its position) ──► its journal ──► next request

Without a channel, all processes share one base directory, and the journal is the channel.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Protocol

from serving import errors


@dataclasses.dataclass(frozen=True)
class Position:
    """A position in the sequence of records of a release.

    Attributes:
        number: Number of records before it.
        checksum: CRC-32 of the concatenation of these records.
    """

    number: int
    checksum: int

    def after(self, record: bytes) -> "Position":
        """Returns the position after one more record."""
        return Position(self.number + 1, zlib.crc32(record, self.checksum))


START = Position(0, 0)


@dataclasses.dataclass(frozen=True)
class Found:
    """The content of a channel for a host.

    Attributes:
        records: Records after the position of the host, in order; not necessarily all.
        behind: End of the channel, if it has lost records that the host has; otherwise None.
    """

    records: Sequence[bytes]
    behind: Position | None = None


class UpdateChannel(Protocol):
    """The records of one release, which hosts publish and read. Thread-safe.

    Attributes:
        name: Address of the channel, without a password, for messages.
    """

    name: str

    def read(self, position: Position) -> Found:
        """Returns the next records after a position.

        Raises:
            LiveIndexError: The channel cannot be reached, lacks records after the position, or has
                other records before it.
        """

    def publish(self, record: bytes, position: Position) -> bool:
        """Adds a record after a position; returns False if that is not the end of the channel.

        Raises:
            LiveIndexError: The channel cannot be reached. The record may have been published.
        """

    def wait(self, position: Position) -> bool:
        """Waits briefly for records; returns whether the channel ends at another position.

        Raises:
            LiveIndexError: The channel cannot be reached.
        """

    def close(self) -> None:
        """Closes the connection."""


def diverged(name: str, number: int) -> errors.LiveIndexError:
    """Returns the error of a channel whose records differ from the host's journal."""
    return errors.LiveIndexError(
        f"Update {number} of {name} does not follow this host's journal: the channel was lost, and "
        "another host has written since. Move live/N/journal away to use the updates of the "
        "channel, and apply the missing ones again."
    )
