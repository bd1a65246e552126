"""Logs of events: rows such as view, click and purchase, which are joined into impressions.

    "events": {"column": "event_type", "view": ["view"], "click": ["click"],
               "engagement": ["purchase"], "window_seconds": 86400}

A view is an impression. A click or an engagement belongs to the latest earlier view of the same ad
by the same user (or in the same request, if the schema has a request key), at most
`window_seconds` before it. Without types of views, each click is an impression that was clicked,
and an engagement belongs to the latest click.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfrecords.fields import EVENTS, check_keys, is_number

KINDS = ("view", *EVENTS[1:])


@dataclasses.dataclass(frozen=True)
class Events:
    """The mapping of event types to labels.

    Attributes:
        column: Column with the type of the event.
        view: Types of views; empty: the log has no views, and each click is an impression.
        click: Types of clicks.
        engagement: Types of engagements, which count as clicks too. Their revenue counts; without
            such types, the revenue of clicks does.
        window_seconds: Maximum time from a view to its clicks and engagements (without types of
            views: from a click to its engagements). It applies only if the log has times.

    Raises:
        ValueError: A value is not allowed.
    """

    column: str
    view: tuple[str, ...] = ()
    click: tuple[str, ...] = ()
    engagement: tuple[str, ...] = ()
    window_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or not self.column:
            raise ValueError(f"events: column must be the name of a column, got {self.column!r}.")
        for kind in KINDS:
            for value in getattr(self, kind):
                if not isinstance(value, str) or not value:
                    raise ValueError(
                        f"events: {kind} must be a list of event types, got {value!r}."
                    )
        if not self.click:
            raise ValueError(
                "events: click names no event type; expected at least one. In a log of views and "
                'purchases, name the purchases as clicks: {"click": ["purchase"]}.'
            )
        if len(self.codes) < sum(len(getattr(self, kind)) for kind in KINDS):
            raise ValueError("events: a type is named twice. Name each type once.")
        seconds = self.window_seconds
        if not (is_number(seconds) and seconds > 0):
            raise ValueError(f"events: window_seconds must be a number above 0, got {seconds!r}.")

    @property
    def codes(self) -> dict[str, int]:
        """Event type -> index in `KINDS`."""
        return {value: code for code, kind in enumerate(KINDS) for value in getattr(self, kind)}


def events_json(events: dict[str, Any]) -> dict[str, Any]:
    """Returns the JSON without newer kinds that have no types, so that fingerprints do not change.

    Args:
        events: The attributes of `Events`.
    """
    return {name: value for name, value in events.items() if value or name not in KINDS[3:]}


def events_from_json(value: Any) -> Events:
    """Builds the events of a schema from JSON values.

    Raises:
        ValueError: A key is missing or unknown, or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"events must be an object, got {value!r}.")
    check_keys("object events", value, Events)
    for kind in KINDS:
        if isinstance(value.get(kind, []), str) or not isinstance(value.get(kind, []), Sequence):
            raise ValueError(f"events: {kind} must be a list of event types, got {value[kind]!r}.")
    return Events(**{**value, **{kind: tuple(value.get(kind, ())) for kind in KINDS}})
