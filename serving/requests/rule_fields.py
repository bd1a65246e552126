"""Checks the rules of a request against the ad fields, and joins them with the service's."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from serving import errors
from serving.requests import filter_fields, messages, query_fields, rule_messages

# Of one kind in one request.
MAX_RULES = 8
MAX_TIMES = 2**31
_KINDS = ("categorical", "categorical_list")


class RuleFields:
    """The ad fields of a release, for rules.

    Args:
        kinds: Ad field -> `categorical`, `numeric` or `categorical_list`.
        defaults: What holds where a request says nothing: `rule_messages.Rules`, its JSON object,
            or None.

    Raises:
        InvalidRequestError: The defaults do not fit the release.
    """

    def __init__(self, kinds: Mapping[str, str], defaults: Any = None) -> None:
        self._kinds = dict(kinds)
        self.defaults = rule_messages.Rules((), (), (), None)
        self.defaults = self.check(defaults)

    def check(self, rules: Any) -> rule_messages.Rules:
        """Returns the rules that hold, with tuples; where exploration is off, it is None.

        Args:
            rules: `rule_messages.Rules`, its JSON object, or None.

        Raises:
            InvalidRequestError: Names the rule, what was expected and what came.
        """
        if rules is None:
            return self.defaults
        parts = filter_fields.parts_of("rules", rules, rule_messages.Rules)
        given = {
            "caps": self._list("caps", parts["caps"], self._cap),
            "frequency_caps": self._list(
                "frequency_caps", parts["frequency_caps"], self._frequency_cap
            ),
            "diversity": self._list("diversity", parts["diversity"], self._diversity),
        }
        changed: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if parts["exploration"] is not None:
            changed["exploration"] = _exploration(parts["exploration"])
        return dataclasses.replace(self.defaults, **changed)

    def at_cap(
        self, caps: Iterable[rule_messages.FrequencyCap], seen: Any
    ) -> dict[str | None, tuple[str, ...]]:
        """Returns what the user has seen too often: field -> values, None -> ad ids.

        Args:
            caps: Checked frequency caps.
            seen: `rule_messages.Seen`, its JSON object, or None.

        Raises:
            InvalidRequestError: Names the count, what was expected and what came.
        """
        if seen is None:
            return {}
        parts = filter_fields.parts_of("seen", seen, rule_messages.Seen)
        counts: dict[str | None, dict[str, int]] = {
            None: _counts("seen.ads", parts["ads"], filter_fields.MAX_ADS)
        }
        fields = {} if parts["fields"] is None else parts["fields"]
        if not isinstance(fields, Mapping):
            raise errors.InvalidRequestError(
                f"seen.fields: expected an object of ad fields and counts, got "
                f"{query_fields.shortened(fields)}."
            )
        for name, values in fields.items():
            self._field("seen.fields", name)
            place = f"seen.fields.{name}"
            counts[name] = _counts(place, values, filter_fields.MAX_VALUES)
        reached = {
            cap.field: tuple(
                sorted(
                    value for value, times in counts.get(cap.field, {}).items() if times >= cap.most
                )
            )
            for cap in caps
        }
        return {field: values for field, values in reached.items() if values}

    def _list(self, name: str, rules: Any, check: Any) -> tuple[Any, ...] | None:
        if rules is None:
            return None
        if not isinstance(rules, list | tuple) or len(rules) > MAX_RULES:
            raise errors.InvalidRequestError(
                f"rules.{name}: expected a list of at most {MAX_RULES} rules, got "
                f"{filter_fields.short_list(rules)}."
            )
        checked = tuple(check(f"rules.{name}[{i}]", rule) for i, rule in enumerate(rules))
        fields = [rule.field for rule in checked]
        for field in fields:
            if fields.count(field) > 1:
                of = "the ads themselves" if field is None else f"the field {field!r}"
                raise errors.InvalidRequestError(f"rules.{name}: expected one of {of}, got two.")
        return checked

    def _cap(self, place: str, cap: Any) -> rule_messages.Cap:
        parts = filter_fields.parts_of(place, cap, rule_messages.Cap)
        return rule_messages.Cap(
            self._field(place, parts["field"]), _count(f"{place}.most", parts["most"])
        )

    def _frequency_cap(self, place: str, cap: Any) -> rule_messages.FrequencyCap:
        parts = filter_fields.parts_of(place, cap, rule_messages.FrequencyCap)
        field = None if parts["field"] is None else self._field(place, parts["field"])
        return rule_messages.FrequencyCap(_count(f"{place}.most", parts["most"]), field)

    def _diversity(self, place: str, rule: Any) -> rule_messages.Diversity:
        parts = filter_fields.parts_of(place, rule, rule_messages.Diversity)
        return rule_messages.Diversity(
            self._field(place, parts["field"]), _share(f"{place}.penalty", parts["penalty"])
        )

    def _field(self, place: str, field: Any) -> str:
        kind = self._kinds.get(field) if isinstance(field, str) else None
        if kind in _KINDS:
            return field
        fields = [name for name, kind in self._kinds.items() if kind in _KINDS]
        hint = query_fields.suggestion(field, fields) if kind is None else "; it is numeric"
        raise errors.InvalidRequestError(
            f"{place}: expected the name of a categorical or list field of the ads, got "
            f"{query_fields.shortened(field)}{hint}. Such fields: {', '.join(fields)}."
        )


def merged(
    filters: messages.Filters | None, at_cap: Mapping[str | None, tuple[str, ...]]
) -> messages.Filters | None:
    """Returns checked filters that also leave out what was seen too often."""
    if not at_cap:
        return filters
    filters = filters or messages.Filters()
    conditions = [
        messages.Condition(field, none_of=values)
        for field, values in at_cap.items()
        if field is not None
    ]
    excluded = sorted({*(filters.excluded_ads or ()), *at_cap.get(None, ())})
    return messages.Filters(
        (*filters.conditions, *conditions), filters.allowed_ads, tuple(excluded) or None
    )


def _exploration(exploration: Any) -> rule_messages.Exploration | None:
    place = "rules.exploration"
    parts = filter_fields.parts_of(place, exploration, rule_messages.Exploration)
    share = _share(f"{place}.share", parts["share"])
    among = parts["among"]
    among = None if among is None else _count(f"{place}.among", among)
    return rule_messages.Exploration(share, among) if share else None


def _count(place: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TIMES:
        raise errors.InvalidRequestError(
            f"{place}: expected an integer from 1 to {MAX_TIMES}, "
            f"got {query_fields.shortened(value)}."
        )
    return value


def _share(place: str, value: Any) -> float:
    number = query_fields.as_finite_float(value)
    if number is None or not 0 <= number <= 1:
        raise errors.InvalidRequestError(
            f"{place}: expected a number from 0 to 1, got {query_fields.shortened(value)}."
        )
    return number


def _counts(place: str, counts: Any, most: int) -> dict[str, int]:
    if counts is None:
        return {}
    if not isinstance(counts, Mapping) or len(counts) > most:
        came = len(counts) if isinstance(counts, Mapping) else query_fields.shortened(counts)
        raise errors.InvalidRequestError(
            f"{place}: expected an object of at most {most} values and how often each was seen, "
            f"got {came}."
        )
    filter_fields.texts(place, list(counts))
    for value, times in counts.items():
        if isinstance(times, bool) or not isinstance(times, int) or not 0 <= times <= MAX_TIMES:
            raise errors.InvalidRequestError(
                f"{place}[{query_fields.shortened(value)}]: expected an integer from 0 to "
                f"{MAX_TIMES}, got {query_fields.shortened(times)}."
            )
    return {query_fields.as_digits(value): times for value, times in counts.items()}
