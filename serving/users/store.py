"""The user store: the profile and the latest events of each user.

Two backends pass one contract test: SQLite, for the processes of one host, and Redis or Valkey.
Both keep two lists of events for each user, impressions and actions, so that the many impressions
do not push out the few clicks. A list is sorted by the events' times, regardless of the order of
arrival, trimmed to the latest, and free of duplicates: events of a user with the same id are one
event. Events of a clock that is ahead are trimmed separately until their time has come, so that
they do not push out those that are read. A user without writes for the time to live is deleted. The
service keeps its time to live in the store, where the commands find it. A store that no service has
used yet has none: it keeps events of any age.
"""

import dataclasses
import json
import logging
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from serving import requests
from serving.config import UserStoreConfig
from tfrecords.schema import IMPRESSION, LABELS

_logger = logging.getLogger(__name__)

# How long erasures are remembered: longer than requests, queues and redelivery take.
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
    """A user store. Use it from one event loop; no method blocks the loop."""

    async def read(
        self, user_ids: Sequence[str], now: float, impressions: bool = False
    ) -> list[User]:
        """Returns the stored data of users, in one round trip.

        Args:
            user_ids: Ids of the users.
            now: Time of the request, in seconds since 1970. Later events, and events older than
                the time to live, are left out. The latest of the others are returned, up to the
                maximum of each list.
            impressions: Whether to read impressions, too.

        Raises:
            UserStoreError: The store failed.
        """

    async def append(self, events: Sequence[tuple[str, StoredEvent]], now: float) -> int:
        """Adds events of users, given as pairs of a user id and an event.

        Events from before their user was erased are left out, see `delete`. So are events more
        than `requests.MAX_SECONDS_AHEAD` after `now`.

        Args:
            events: Events in any order.
            now: Current time, in seconds since 1970, which the time to live counts from.

        Returns:
            The number of new events. An event older than a full list may count each time, because
            it is not kept.

        Raises:
            UserStoreError: The store failed; some events may have been added. Adding them again is
                harmless.
        """

    async def set_profile(
        self,
        user_id: str,
        profile: Mapping[str, Any],
        now: float,
        times: Mapping[str, float] | None = None,
    ) -> bool:
        """Replaces the profile of a user; returns whether there was anything to write.

        Args:
            user_id: Id of the user.
            profile: Raw query fields, as JSON values.
            now: Current time, in seconds since 1970.
            times: Time of each value of a profile from a log, in seconds since 1970. Values from
                before the user was erased are left out, see `delete`, and a profile that the store
                has stays, because it may be newer. None: the profile is new.

        Raises:
            UserStoreError: The store failed.
        """

    async def delete(self, user_id: str, now: float) -> bool:
        """Erases a user's profile and events; returns whether there were any.

        For `ERASED_SECONDS`, the store keeps the id and the time, and ignores data from before it:
        events in the queues of other processes or in a stream, and profiles from logs, do not
        restore the user. If a clock was ahead, the time is the time of the user's latest event, at
        most `requests.MAX_SECONDS_AHEAD` after `now`.

        Args:
            user_id: Id of the user.
            now: Current time, in seconds since 1970.

        Raises:
            UserStoreError: The store failed.
        """

    async def expire(self, now: float) -> int:
        """Deletes the users whose time to live has passed, and returns their number.

        A store that does so by itself returns 0.

        Args:
            now: Current time, in seconds since 1970.

        Raises:
            UserStoreError: The store failed.
        """

    async def check_settings(self) -> str | None:
        """Keeps the time to live in the store, and checks the settings of its server.

        Returns:
            The setting with which the server may lose users, and what to do; None: there is none.

        Raises:
            UserStoreError: The store failed.
        """

    async def close(self) -> None:
        """Closes the connections."""


def note_change(name: str, before: float | None, after: float) -> None:
    """Logs that a service changes the time to live of a store."""
    if before not in (None, after):
        _logger.warning(
            "The user store %s kept users and events for %g days; --user_ttl_days of this service "
            "makes it %g days.",
            name,
            (before or 0.0) / 86_400,
            after / 86_400,
        )


def latest_time(now: float) -> float:
    """Returns the latest time of an event that a store accepts, in seconds since 1970."""
    return now + requests.MAX_SECONDS_AHEAD


def by_user(
    events: Sequence[tuple[str, StoredEvent]], config: UserStoreConfig, since: float, now: float
) -> dict[str, list[StoredEvent]]:
    """Returns the events of each user that a store could keep: the latest of each list."""
    # The events of a user by whether they are impressions, and whether they are after now.
    found: dict[str, dict[tuple[bool, bool], list[StoredEvent]]] = {}
    for user_id, event in events:
        if since <= event.time <= latest_time(now):
            lists = found.setdefault(user_id, {})
            part = event.kind == IMPRESSION, event.time > now
            lists.setdefault(part, []).append(event)
    latest = operator.attrgetter("time", "event_id")
    limits = (config.max_actions, config.max_impressions)
    return {
        user_id: [
            event
            for part in sorted(lists)
            for event in sorted(set(lists[part]), key=latest)[-limits[part[0]] :]
        ]
        for user_id, lists in found.items()
    }
