"""Events of users and their profiles: the one definition for REST, the clients and the stream.

The descriptions are the text of the OpenAPI document.
"""

from typing import Annotated, Any, Self

import pydantic
import pydantic_core

from serving import errors
from serving.requests.answer import AnswerPart
from serving.requests.request import (
    AdId,
    EventKind,
    Fields,
    Id,
    Number,
    RequestPart,
    max_values,
)
from tfrecords.schema import LABELS

MAX_EVENTS = 1_000
# Clocks differ. An event from further ahead of the service's clock is refused.
MAX_SECONDS_AHEAD = 300.0
# An amount is a float32 in the data set.
_MAX_AMOUNT = 3e38
# Kinds of events that have an amount.
AMOUNTS = tuple(name for name, label in LABELS.items() if label.is_amount)


def _not_text(value: Any) -> Any:
    if isinstance(value, str):
        raise pydantic_core.PydanticCustomError(
            "seconds_type", "Expected a number of seconds since 1970"
        )
    return value


_Seconds = Annotated[Number, pydantic.Field(ge=0), pydantic.BeforeValidator(_not_text)]


class Event(RequestPart):
    """An impression of an ad, or an action of a user on it.

    The ad does not have to be in the catalog: it may have been removed since.
    """

    event_id: Id
    """Id of the event. Events of a user with the same id are one event."""
    user_id: Id
    """Id of the user."""
    ad_id: AdId
    """Id of the ad."""
    event: EventKind
    """Kind of the event."""
    time: _Seconds | None = None
    """Time of the event, in seconds since 1970. Null: when the service received it."""
    amount: Annotated[Number, pydantic.Field(ge=-_MAX_AMOUNT, le=_MAX_AMOUNT)] | None = None
    """Amount, such as a revenue; negative for a refund. Only for events that are amounts."""
    request_id: Id | None = None
    """Request id of the answer that showed the ad. Without it, the event is not in the log that
    the next models learn from."""

    @pydantic.model_validator(mode="after")
    def _with_its_amount(self) -> Self:
        if (self.amount is None) == (self.event in AMOUNTS):
            raise pydantic_core.PydanticCustomError(
                "amount",
                "Expected an amount for the event {amounts}, and for no other event",
                {"amounts": " or ".join(AMOUNTS)},
            )
        return self


def check_event_time(event: Event, now: float, place: str = "") -> None:
    """Checks that an event, if it has a time, is not in the future.

    Args:
        event: The event.
        now: Current time, in seconds since 1970.
        place: Prefix of the field's path, for messages.

    Raises:
        InvalidRequestError: The event is more than `MAX_SECONDS_AHEAD` seconds ahead.
    """
    if event.time is not None and event.time > now + MAX_SECONDS_AHEAD:
        raise errors.InvalidRequestError(
            f"{place}time: expected at most {MAX_SECONDS_AHEAD:g} s after the service's time "
            f"({now:.0f}), got {event.time:.0f}. Send seconds since 1970, and check the clock."
        )


class EventBatch(RequestPart):
    """Events of any users, in any order."""

    events: Annotated[
        tuple[Event, ...], pydantic.Field(max_length=MAX_EVENTS), max_values(MAX_EVENTS)
    ]


class EventsAdded(AnswerPart):
    """The result of sending events."""

    received: int
    """Number of events."""
    added: int
    """Number of events that were added to the user store. The others were stored before, exceed the
    number of events that it keeps for a user, are too old, or precede the erasure of their user. An
    event older than all stored ones of its user may count each time it is sent, but is not kept."""


class UserId(RequestPart):
    """The id of a user who is written, read or erased."""

    user_id: Id
    """Id of the user."""


class UserProfile(RequestPart):
    """The profile of a user."""

    profile: Fields
    """Raw query fields that describe the user, as `user` of a request."""


class UserDeleted(AnswerPart):
    """Whether a user was erased."""

    deleted: bool
    """False: the user store had no data on the user."""
