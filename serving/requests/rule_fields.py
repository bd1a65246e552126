"""Checks the rules of a request against the ad fields, and merges them with the service's."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from serving import errors
from serving.requests import filter_fields, parsing, request
from tfrecords import terminal
from tfrecords.schema import IMPRESSION

_KINDS = ("categorical", "categorical_list", "text")


@dataclasses.dataclass(frozen=True)
class StoreLimits:
    """Limits of the data that a user store keeps of each user, and can therefore count.

    Attributes:
        max_actions: Number of clicks, engagements and purchases.
        max_impressions: Number of impressions.
        hours: Age of events, in hours.
    """

    max_actions: int
    max_impressions: int
    hours: float


class RuleFields:
    """The ad fields of a release, for rules."""

    def __init__(
        self,
        kinds: Mapping[str, str],
        defaults: request.Rules | None = None,
        limits: StoreLimits | None = None,
    ) -> None:
        self._kinds = dict(kinds)
        self._limits = limits
        self.defaults = request.Rules(caps=(), frequency_caps=(), diversity=())
        self.defaults = self.check(defaults)

    def check(self, rules: request.Rules | None, seen: request.Seen | None = None) -> request.Rules:
        """Returns the rules in force; exploration is None if it is off."""
        if rules is None:
            return self.defaults
        parts = {name: getattr(rules, name) for name in request.Rules.model_fields}
        changed: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}
        for name, listed in changed.items():
            for position, rule in enumerate(listed if isinstance(listed, tuple) else ()):
                place = f"rules.{name}[{position}]"
                if rule.field is not None:
                    self._check_field(f"{place}.field", rule.field)
                if isinstance(rule, request.FrequencyCap) and counts_of(seen, rule) is None:
                    self._check_cap(place, rule)
        if rules.exploration is not None and not rules.exploration.share:
            changed["exploration"] = None
        return self.defaults.model_copy(update=changed)

    def check_seen(self, seen: request.Seen | None) -> None:
        """Checks the counts of a request."""
        for name in (seen.fields if seen is not None else None) or ():
            self._check_field("seen.fields", name)

    def _check_cap(self, place: str, cap: request.FrequencyCap) -> None:
        """Refuses a cap that needs more events than are counted or stored."""
        counts_impressions = cap.kind == IMPRESSION
        if self._limits is None:
            if counts_impressions:
                return
            raise errors.InvalidRequestError(
                f"{place}.event: expected {IMPRESSION!r}, which seen counts, got {cap.event!r}, "
                "which only a user store counts. Start the service with --user_store, or a "
                "LocalClient with user_store."
            )
        kept = self._limits.max_impressions if counts_impressions else self._limits.max_actions
        if cap.max > kept:
            kind = "impressions" if counts_impressions else "actions"
            raise errors.InvalidRequestError(
                f"{place}.max: expected at most {kept}, the number of {kind} that the user store "
                f"keeps of a user, got {cap.max}. Set a smaller maximum, or send counts in seen."
            )
        if cap.hours is not None and cap.hours > self._limits.hours:
            raise errors.InvalidRequestError(
                f"{place}.hours: expected at most {self._limits.hours:g}, the time that the user "
                f"store keeps events, got {cap.hours:g}. Set fewer hours, or a longer "
                "--user_ttl_days."
            )

    def _check_field(self, place: str, field: str) -> None:
        kind = self._kinds.get(field)
        if kind in _KINDS:
            return
        fields = [name for name, kind in self._kinds.items() if kind in _KINDS]
        hint = f" It is {kind}." if kind else terminal.suggestion_for(field, fields)
        raise errors.InvalidRequestError(
            f"{place}: expected the name of a categorical or list field of the ads, got "
            f"{parsing.shortened(field)}.{hint} Such fields: {', '.join(fields)}."
        )


def counts_of(seen: request.Seen | None, cap: request.FrequencyCap) -> Mapping[str, int] | None:
    """Returns the counts of a request for a frequency cap; None: the request has none."""
    if seen is None or cap.kind != IMPRESSION:
        return None
    return seen.ads if cap.field is None else (seen.fields or {}).get(cap.field)


def shown_before(
    caps: Iterable[request.FrequencyCap],
    counts: Callable[[request.FrequencyCap], Mapping[str, int] | None],
) -> dict[request.FrequencyCap, Mapping[str, int]]:
    """Returns the impressions of each value, for caps that also count the ads of the answer."""
    return {
        cap: counts(cap) or {} for cap in caps if cap.field is not None and cap.kind == IMPRESSION
    }


def at_cap(
    caps: Iterable[request.FrequencyCap],
    counts: Callable[[request.FrequencyCap], Mapping[str, int] | None],
) -> dict[str | None, tuple[str, ...]]:
    """Returns the values that have reached a frequency cap, by field; ad ids under None."""
    reached: dict[str | None, set[str]] = {}
    for cap in caps:
        values = {value for value, n in (counts(cap) or {}).items() if n >= cap.max}
        if values:
            reached.setdefault(cap.field, set()).update(values)
    return {field: tuple(sorted(values)) for field, values in reached.items()}


def merged(
    filters: request.Filters | None, at_cap: Mapping[str | None, tuple[str, ...]]
) -> request.Filters | None:
    """Returns checked filters that also exclude values that have reached a frequency cap."""
    if not at_cap:
        return filters
    conditions = tuple(
        request.Condition(field=field, none_of=values)
        for field, values in at_cap.items()
        if field is not None
    )
    reached = request.Filters(conditions=conditions, excluded_ads=at_cap.get(None))
    return filter_fields.both(filters, reached)
