"""Reads the log of events: JSON lines, as `FeedbackLog` writes them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from serving import errors, requests, users
from serving.users import StoredEvent
from tfrecords import terminal
from tfrecords.schema import IMPRESSION

# Rejected lines whose reasons are shown.
_MAX_EXAMPLES = 3


@dataclasses.dataclass
class EventLines:
    """The events of a file.

    Attributes:
        events: Pairs of a user id and an event, in the order of the file.
        received: Pair of a user id and an event id -> time of the last arrival of the event, in
            seconds since 1970. Only lines that the service logged have it.
        anonymous: Number of lines without the id of a user.
        rejected: Number of lines that are not events.
        examples: File, number and reason of the first rejected lines.
    """

    events: list[tuple[str, StoredEvent]] = dataclasses.field(default_factory=list)
    received: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    anonymous: int = 0
    rejected: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def reject(self, place: str, reason: str) -> None:
        """Counts a line that is not an event.

        Args:
            place: File and number of the line.
            reason: Reason for the rejection.
        """
        self.rejected += 1
        self.examples = first_examples([*self.examples, f"{place}: {' '.join(reason.split())}"])


def first_examples(examples: Sequence[str]) -> list[str]:
    """Returns the examples of rejected lines that a report shows."""
    return list(examples[:_MAX_EXAMPLES])


def describe_rejected(rejected: int, examples: Sequence[str]) -> list[str]:
    """Returns the lines of a report on rejected lines.

    Args:
        rejected: Number of rejected lines.
        examples: File, number and reason of some of them.
    """
    lines = terminal.format_count(
        rejected, "line is not an event and was", "lines are not events and were"
    )
    num_omitted = rejected - len(examples)
    more = [f"and {num_omitted:,} more"] if num_omitted else []
    return [f"{lines} left out:", *examples, *more]


def read_event_lines(path: pathlib.Path, now: float) -> EventLines:
    """Reads a file.

    Args:
        path: The file.
        now: Current time, in seconds since 1970. Events that `POST /v1/events` would refuse as
            future ones are rejected.

    Raises:
        ImpressionLogError: The file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise errors.ImpressionLogError(
            f"{path} cannot be read ({error}); expected events as JSON lines. Check the path."
        ) from error
    found = EventLines()
    for number, line in enumerate(lines, 1):
        try:
            parsed = _json(line)
            event = _parsed(parsed, now)
            received = _received(parsed)
        except (ValueError, RecursionError, errors.InvalidRequestError) as error:
            found.reject(f"{path}, line {number}", str(error))
            continue
        if event is None:
            found.anonymous += 1
            continue
        found.events.append(event)
        key = event[0], event[1].event_id
        if received is not None:
            # Clients send an event again if the store failed.
            found.received[key] = max(received, found.received.get(key, received))
    return found


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"expected a JSON object ({error})") from error


def _received(line: Any) -> float | None:
    """Returns when an event arrived; None: not logged."""
    value = line.get("received") if isinstance(line, dict) else None
    if value is None:
        return None
    received = requests.as_finite_float(value)
    if received is None:
        raise ValueError(f"expected received in seconds since 1970, got {value!r}")
    return received


def _parsed(line: Any, now: float) -> tuple[str, StoredEvent] | None:
    """Returns the user and the event of a line; None: it has no user id."""
    if not isinstance(line, dict):
        raise ValueError(f"expected a JSON object, got {type(line).__name__}")
    if line.get("user_id") is None:
        return None
    if line.get("time") is None:
        raise ValueError("time: expected seconds since 1970, got none")
    kind = _kind(line)
    ids = {name: line.get(name) for name in ("event_id", "user_id", "ad_id", "time")}
    amount = line[kind] if kind in requests.AMOUNTS else None
    event = requests.parse(requests.Event, {**ids, "event": kind, "amount": amount})
    requests.check_event_time(event, now)
    stored = StoredEvent(event.event_id, kind, event.ad_id, event.time or 0.0, event.amount)
    return event.user_id, stored


def _kind(line: dict[str, Any]) -> str:
    """Returns the kind of a line, which has exactly one; a label of 0 does not count."""
    given = {kind: line[kind] for kind in users.ACTIONS if line.get(kind) is not None}
    if not given and line.get(IMPRESSION) == 1:
        return IMPRESSION
    if any(value not in (0, 1) for kind, value in given.items() if kind not in requests.AMOUNTS):
        raise ValueError(f"expected 0 or 1, got {given}")
    # An amount of 0 is a label if the line has other kinds, and an event if it has none.
    kinds = [kind for kind, value in given.items() if value or len(given) == 1]
    if len(kinds) != 1 or (given[kinds[0]] == 0 and kinds[0] not in requests.AMOUNTS):
        raise ValueError(f"expected one of {', '.join(users.ACTIONS)}, got {given}")
    return kinds[0]
