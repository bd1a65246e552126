"""The user store: the profile and the latest events of each user.

Two backends pass one contract test: SQLite, for the processes of one host, and Redis or Valkey.
Both keep two lists of events for each user, impressions and actions, so that the many impressions
do not push out the few clicks. A list is sorted by the events' times, regardless of the order of
arrival, trimmed to the latest, and free of duplicates: events of a user with the same id are one
event. A user without writes for the time to live is deleted.
"""

import dataclasses
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from serving.config import UserStoreConfig
from tfrecords.schema import IMPRESSION, LABELS

# How long erasures are remembered: longer than requests and queues take.
ERASED_SECONDS = 3600.0
ACTIONS = tuple(LABELS)


class StoredEvent(NamedTuple):
    """An action of a user, or an impression.

    Attributes:
        event_id: Id of the event; unique for a user.
        kind: `impression`, or one of `ACTIONS`.
        ad_id: Id of the ad.
        time: Time of the event, in seconds since 1970.
        amount: Amount, such as a revenue, negative for a refund; None for other kinds.
    """

    event_id: str
    kind: str
    ad_id: str
    time: float
    amount: float | None = None

    def to_text(self) -> str:
        """Returns the event as a JSON list, as the stores keep it."""
        return json.dumps(self, separators=(",", ":"))


@dataclasses.dataclass(frozen=True)
class User:
    """The stored data of a user.

    Attributes:
        profile: Raw query fields that describe the user.
        actions: Events of the kinds `ACTIONS`, oldest first.
        impressions: Impressions, oldest first.
    """

    profile: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    actions: Sequence[StoredEvent] = ()
    impressions: Sequence[StoredEvent] = ()

    @property
    def is_known(self) -> bool:
        """Whether the store has any data on the user."""
        return bool(self.profile or self.actions or self.impressions)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, oldest events first."""
        lists = {"actions": self.actions, "impressions": self.impressions}
        return {
            "profile": dict(self.profile),
            **{name: [event._asdict() for event in events] for name, events in lists.items()},
        }


class UserStore(Protocol):
    """A user store. Use it from one event loop; no method blocks the loop.

    Times are in seconds since 1970; `now` is the current one. Each method raises `UserStoreError`
    if the store fails, and can be called again.
    """

    async def read(self, user_id: str, now: float, impressions: bool = False) -> User:
        """Returns the data of a user: the latest events within the time to live, until `now`.

        Args:
            user_id: Id of the user.
            now: Time of the request.
            impressions: Whether to read impressions, too.
        """

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        """Adds events in any order, as pairs of a user id and an event; returns how many were new.

        Events from before their user was erased are left out, see `delete`.
        """

    async def set_profile(self, user_id: str, profile: Mapping[str, Any], now: float) -> None:
        """Replaces the profile of a user, raw query fields as JSON values."""

    async def delete(self, user_id: str, now: float) -> bool:
        """Erases a user's profile and events; returns whether there were any.

        For `ERASED_SECONDS`, the store keeps the id and the time, and ignores earlier events, such
        as those in the queues of other processes.
        """

    async def expire(self, now: float) -> int:
        """Deletes the users whose time to live has passed, and returns their number.

        A store that does so by itself returns 0.
        """

    async def close(self) -> None:
        """Closes the connections."""


def by_user(
    events: Sequence[tuple[str, StoredEvent]], config: UserStoreConfig, since: float
) -> dict[str, list[StoredEvent]]:
    """Returns the events of each user that a store could keep: the latest of each list."""
    found: dict[str, dict[bool, set[StoredEvent]]] = {}
    for user_id, event in events:
        if event.time >= since:
            lists = found.setdefault(user_id, {})
            lists.setdefault(event.kind == IMPRESSION, set()).add(event)
    latest = operator.attrgetter("time", "event_id")
    limits = (config.max_actions, config.max_impressions)
    return {
        user_id: [
            event
            for is_impression, some in lists.items()
            for event in sorted(some, key=latest)[-limits[is_impression] :]
        ]
        for user_id, lists in found.items()
    }
