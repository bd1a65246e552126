"""Checks the filters of a request against the ad fields, and brings them into one form.

Like `query_fields`, it takes categorical values as strings or integers (an id's decimal
digits), and numbers as finite ints or floats.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from serving import errors
from serving.requests import messages, query_fields

MAX_CONDITIONS = 64
MAX_VALUES = 1_000
MAX_ADS = 50_000

# What a condition may say of a field of each kind.
_LISTS = {
    "categorical": ("any_of", "none_of"),
    "numeric": ("any_of", "none_of"),
    "categorical_list": ("any_of", "none_of", "all_of"),
}
_RANGE = ("at_least", "at_most")


class FilterFields:
    """The ad fields of a release, for filters.

    Args:
        kinds: Ad field -> `categorical`, `numeric` or `categorical_list`.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = dict(kinds)

    def check(self, filters: Any) -> messages.Filters | None:
        """Returns the filters with sorted tuples of distinct values: hashable, equal if they ask
        for the same; None where they ask for nothing.

        Args:
            filters: `messages.Filters`, its JSON object, or None.

        Raises:
            InvalidRequestError: Names the field, what was expected and what came.
        """
        if filters is None:
            return None
        parts = parts_of("filters", filters, messages.Filters)
        conditions = parts["conditions"]
        if conditions is None:
            conditions = ()
        if not isinstance(conditions, list | tuple) or len(conditions) > MAX_CONDITIONS:
            raise errors.InvalidRequestError(
                f"filters.conditions: expected a list of at most {MAX_CONDITIONS} conditions, got "
                f"{short_list(conditions)}."
            )
        checked = messages.Filters(
            tuple(
                self._condition(f"filters.conditions[{place}]", condition)
                for place, condition in enumerate(conditions)
            ),
            _ads("filters.allowed_ads", parts["allowed_ads"]),
            _ads("filters.excluded_ads", parts["excluded_ads"]),
        )
        return None if checked == messages.Filters() else checked

    def _condition(self, place: str, condition: Any) -> messages.Condition:
        parts = parts_of(place, condition, messages.Condition)
        field = parts.pop("field")
        kind = self._kinds.get(field) if isinstance(field, str) else None
        if kind is None:
            raise errors.InvalidRequestError(self._unknown(place, field))
        given = {name: value for name, value in parts.items() if value is not None}
        allowed = _LISTS[kind] + (_RANGE if kind == "numeric" else ())
        wrong = [name for name in given if name not in allowed]
        if wrong or not given:
            came = f"{', '.join(wrong)}" if wrong else "nothing"
            raise errors.InvalidRequestError(
                f"{place}: expected of the {kind} field {field!r} at least one of "
                f"{', '.join(allowed)}, got {came}."
            )
        checked: dict[str, Any] = {
            name: _number(f"{place}.{name}", value)
            if name in _RANGE
            else _values(f"{place}.{name}", kind, value)
            for name, value in given.items()
        }
        return messages.Condition(field, **checked)

    def _unknown(self, place: str, field: Any) -> str:
        hint = query_fields.suggestion(field, self._kinds) or "."
        return (
            f"{place}.field: expected the name of an ad field, got {query_fields.shortened(field)}"
            f"{hint} Ad fields: {', '.join(self._kinds)}."
        )


def parts_of(place: str, message: Any, kind: type) -> dict[str, Any]:
    """Returns the attributes of a message, or of its JSON object; absent ones are None.

    Args:
        place: Names the message in an error.
        message: A dataclass of `kind`, or its JSON object.
        kind: The dataclass.

    Raises:
        InvalidRequestError: It is neither, or has an unknown key.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    if isinstance(message, kind):
        return {name: getattr(message, name) for name in names}
    if not isinstance(message, Mapping):
        raise errors.InvalidRequestError(
            f"{place}: expected an object with the keys {', '.join(names)}, got "
            f"{query_fields.shortened(message)}."
        )
    unknown = [key for key in message if key not in names]
    if unknown:
        raise errors.InvalidRequestError(
            f"{place}: unknown key {query_fields.shortened(unknown[0])}. Keys: {', '.join(names)}."
        )
    return {name: message.get(name) for name in names}


def _values(place: str, kind: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple) or len(values) > MAX_VALUES:
        raise errors.InvalidRequestError(
            f"{place}: expected a list of at most {MAX_VALUES} values, got {short_list(values)}."
        )
    if kind != "numeric":
        return texts(place, values)
    return tuple(sorted({_number(f"{place}[{i}]", value) for i, value in enumerate(values)}))


def _ads(place: str, ads: Any) -> tuple[str, ...] | None:
    if ads is None:
        return None
    if not isinstance(ads, list | tuple) or len(ads) > MAX_ADS:
        raise errors.InvalidRequestError(
            f"{place}: expected a list of at most {MAX_ADS} ad ids, got {short_list(ads)}."
        )
    return texts(place, ads)


def texts(place: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Returns strings, or integers as their digits, sorted and each once.

    Raises:
        InvalidRequestError: One is neither.
    """
    found = []
    for position, value in enumerate(values):
        value = query_fields.as_digits(value)
        if not isinstance(value, str):
            raise errors.InvalidRequestError(
                f"{place}[{position}]: expected a string or an integer, got "
                f"{query_fields.shortened(value)}. A missing value is in no list."
            )
        found.append(value)
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidRequestError(
            f"{place}: expected text, got a string with half a surrogate pair."
        ) from error
    return tuple(sorted(set(found)))


def _number(place: str, value: Any) -> float:
    # Not query_fields.finite: ad fields are shown, and compared, with the precision of float64.
    try:
        number = float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        number = float("inf")
    if isinstance(value, bool) or not abs(number) < float("inf"):
        raise errors.InvalidRequestError(
            f"{place}: expected a finite number, got {query_fields.shortened(value)}."
        )
    return number


def short_list(values: Any) -> str:
    """Returns for an error message how many values there are, or what came in place of a list."""
    if isinstance(values, list | tuple):
        return f"{len(values)}"
    return query_fields.shortened(values)
