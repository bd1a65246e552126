"""Rebuilds a user store from the impression log and the logs of events."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from serving import errors, impressions, requests, users
from serving.operations import event_lines
from serving.users import StoredEvent
from tfrecords.schema import IMPRESSION

# Number of events per write.
_CHUNK = 5_000
_IDS = ["_request_id", "_user_id", "_ad_id", "_time"]


@dataclasses.dataclass
class RebuiltUsers:
    """The sources of a rebuilt store, counted.

    Attributes:
        impressions: Number of impressions of known users in the impression log.
        not_shown: Number of ads of answers to known users that do not count as shown, because the
            service ran with --nostore_impressions. Their impressions are among the events.
        events: Number of events of known users.
        profiles: Number of profiles of users who had none.
        anonymous: Number of impressions and events without the id of a user.
        ahead: Number of impressions that were left out, because they are ahead of the clock.
        rejected: Number of lines that are not events.
        examples: File, number and reason of the first rejected lines.
        added: Number of impressions and events that were added. The store had the others, or they
            exceed a user's limits, are too old or precede an erasure.
    """

    impressions: int = 0
    not_shown: int = 0
    events: int = 0
    profiles: int = 0
    anonymous: int = 0
    ahead: int = 0
    rejected: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)
    added: int = 0


async def rebuild_users(
    store: users.UserStore,
    log_files: Sequence[pathlib.Path],
    event_files: Sequence[pathlib.Path],
    profile_fields: Sequence[str],
    now: float,
) -> RebuiltUsers:
    """Adds the users of logs to a store. Its existing events and profiles do not change.

    Earlier events of a user erased within the last hour are left out, see `UserStore.delete`.

    Args:
        store: The store; it may be in use.
        log_files: Files of the impression log.
        event_files: Events as JSON lines, as the service logs them.
        profile_fields: Query fields of the impression log that describe the user. The latest value
            of each that is not missing becomes the user's profile.
        now: Current time, in seconds since 1970, for the time to live. Later events are rejected,
            as by `POST /v1/events`, and later impressions are left out.

    Raises:
        ImpressionLogError: A file cannot be read, or no file has a profile field.
        UserStoreError: The store failed.
    """
    done = RebuiltUsers()
    # A release may have fields that earlier ones lack.
    missing = set(profile_fields).difference(
        *(impressions.read_file(path, list(profile_fields)).column_names for path in log_files)
    )
    if missing:
        raise errors.ImpressionLogError(
            f"Expected the query fields {', '.join(profile_fields)}, got a log without "
            f"{', '.join(sorted(missing))}. Name others."
        )
    profiles: dict[str, dict[str, tuple[float, object]]] = {}
    for path in log_files:
        shown = []
        table = impressions.read_file(path)
        for user_id, event, fields in _impressions(table, profile_fields):
            if not user_id:
                done.anonymous += 1
                continue
            if event.time > now + requests.MAX_SECONDS_AHEAD:
                done.ahead += 1
                continue
            shown.append((user_id, event))
            latest = profiles.setdefault(user_id, {}) if fields else {}
            for name, value in fields.items():
                if value is not None and event.time >= latest.get(name, (0.0, None))[0]:
                    latest[name] = (event.time, value)
        if impressions.counts_as_shown(table):
            done.impressions += len(shown)
            done.added += await _append(store, shown, now)
        else:
            done.not_shown += len(shown)
    for path in event_files:
        given = event_lines.read_event_lines(path, now)
        done.events += len(given.events)
        done.anonymous += given.anonymous
        done.rejected += given.rejected
        done.examples = event_lines.first_examples([*done.examples, *given.examples])
        done.added += await _append(store, given.events, now)
    for user_id, known in profiles.items():
        profile = {name: value for name, (_, value) in known.items()}
        times = {name: logged_at for name, (logged_at, _) in known.items()}
        done.profiles += await store.set_profile(user_id, profile, now, times)
    return done


async def _append(
    store: users.UserStore, events: Iterable[tuple[str, StoredEvent]], now: float
) -> int:
    # The events of a user are written together.
    ordered = sorted(events)
    chunks = [ordered[at : at + _CHUNK] for at in range(0, len(ordered), _CHUNK)]
    return sum([await store.append(chunk, now) for chunk in chunks])


def _impressions(
    table: pa.Table, profile_fields: Sequence[str]
) -> Iterator[tuple[str | None, StoredEvent, dict[str, object]]]:
    fields = [name for name in profile_fields if name in table.column_names]
    for row in table.select([*_IDS, *fields]).to_pylist():
        request_id, user_id, ad_id, time = (row.pop(name) for name in _IDS)
        # The service's id of the impression, by which the store recognizes it.
        yield user_id, StoredEvent(f"{request_id}/{ad_id}", IMPRESSION, ad_id, time), row
