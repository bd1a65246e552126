"""The user stage: completes a request with the stored data of its user.

Profile and histories fill in the fields that are missing in the request; the events also count
toward the frequency caps that the request has no counts for.
"""

import asyncio
import collections
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from serving import errors, live, manifest, requests
from serving.orchestrator import user_data
from serving.users import User
from tfrecords import histories, schema
from tfrecords.schema import IMPRESSION


class UserStage:
    """Completes the requests of one release."""

    def __init__(
        self,
        data: user_data.UserData,
        release: manifest.Manifest,
        catalog: live.LiveIndex,
        validator: requests.Validator,
    ) -> None:
        self._data = data
        self._catalog = catalog
        self._validator = validator
        fields = release.schema.get("fields", ())
        has_histories = any(field.get("kind") == "history" for field in fields)
        self._schema = schema.schema_from_json(release.schema) if has_histories else None
        self._histories = self._schema.histories if self._schema else ()
        self._listed = histories.listed_fields(self._schema) if self._schema else ()
        self._lists_impressions = any(IMPRESSION in field.event for field in self._histories)

    def check_profile(self, profile: Mapping[str, Any]) -> None:
        """Checks that a profile has no histories, which are computed from events."""
        for field in self._histories:
            given = next((name for name in field.inputs if name in profile), None)
            if given is not None:
                raise errors.InvalidRequestError(
                    f"profile.{given}: expected a field other than a history, which is computed "
                    f"from the events of the user. Send them to POST /v1/events, with their times."
                )

    async def fill(
        self, valid: requests.ValidRequest, deadline: requests.Deadline
    ) -> requests.ValidRequest:
        """Returns the request completed with the stored data of its user."""
        if valid.user_id is None:
            return valid
        now = self._data.now()
        read = await self._data.read(
            valid.user_id,
            self._lists_impressions or any(cap.kind == IMPRESSION for cap in valid.uncounted_caps),
            now,
            min(self._data.config.read_timeout_ms, deadline.remaining_ms()),
        )
        user, state = read.user, read.problem or user_data.UNKNOWN
        if user is not None and user.is_known:
            try:
                values = await self._values(valid, user, deadline)
            except TimeoutError:
                state = user_data.LATE
            else:
                state = user_data.FOUND
                stored = {**user.profile, **self._raw_histories(valid, user, now, values)}
                counts = functools.partial(_counts, user, now, values)
                valid = self._validator.with_user(valid, stored, counts)
        return dataclasses.replace(valid, user_data=state, user_ms=read.milliseconds)

    def _raw_histories(
        self,
        valid: requests.ValidRequest,
        user: User,
        now: float,
        values: Mapping[str, Mapping[str, list[str]]],
    ) -> dict[str, Any]:
        """Returns the raw inputs of the histories that the request does not carry itself."""
        if self._schema is None:
            return {}
        events = [
            histories.UserEvent(
                event.kind,
                event.time,
                event.ad_id,
                {
                    field: ad_values[0]
                    for field in self._listed
                    if (ad_values := values[field].get(event.ad_id))
                },
            )
            for event in (*user.actions, *user.impressions)
        ]
        raw = histories.raw_values(self._schema, events, now)
        for field in self._histories:
            # Its inputs belong together.
            if any(valid.values.get(name) is not None for name in field.inputs):
                for name in field.inputs:
                    raw.pop(name, None)
        return raw

    async def _values(
        self, valid: requests.ValidRequest, user: User, deadline: requests.Deadline
    ) -> Mapping[str, Mapping[str, list[str]]]:
        """Returns field -> ad id -> values, for the fields that events are listed or counted by."""
        capped = {cap.field for cap in valid.uncounted_caps}
        fields = sorted({*self._listed, *(field for field in capped if field is not None)})
        if not fields:
            return {}
        ad_ids = {event.ad_id for event in (*user.actions, *user.impressions)}
        # The first lookup builds a table of all ads; a late one continues for the next request.
        looking_up = asyncio.to_thread(self._catalog.view().values, sorted(ad_ids), fields)
        return await asyncio.wait_for(looking_up, deadline.remaining_ms() / 1000)


def _counts(
    user: User,
    now: float,
    values: Mapping[str, Mapping[str, list[str]]],
    cap: requests.FrequencyCap,
) -> Mapping[str, int]:
    """Returns the number of events of each ad, or value of the cap's field."""
    since = 0.0 if cap.hours is None else now - cap.hours * 3600
    counts: collections.Counter[str] = collections.Counter()
    for event in user.impressions if cap.kind == IMPRESSION else user.actions:
        if event.kind == cap.kind and event.time >= since:
            counts.update(
                [event.ad_id] if cap.field is None else values[cap.field].get(event.ad_id, ())
            )
    return counts
