"""Checks filters against the ad fields of a release, and brings them into one form."""

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core

from serving import errors
from serving.requests import parsing, request
from tfrecords import terminal
from tfrecords.fields import is_number

# The parts that a condition on a field of each kind may have.
_PARTS = {
    "categorical": ("any_of", "none_of"),
    "numeric": ("any_of", "none_of", "at_least", "at_most"),
    "categorical_list": ("any_of", "none_of", "all_of"),
    "text": ("any_of", "none_of"),
}


class FilterFields:
    """The ad fields of a release, for filters.

    A categorical value is a string, or an integer as its decimal digits; a numeric value is a
    finite number.

    Args:
        kinds: Ad field to its kind. A vector cannot be in a filter.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self._kinds = {name: kind for name, kind in kinds.items() if kind in _PARTS}
        self._vectors = kinds.keys() - self._kinds.keys()

    def check(
        self, filters: request.Filters | None, place: str = "filters"
    ) -> request.Filters | None:
        """Returns the filters with sorted tuples of distinct values, equal if they mean the same;
        None if they restrict nothing.

        Args:
            filters: Filters of a request, or of a service.
            place: Their path, for messages.

        Raises:
            InvalidRequestError: Names the field, the expected and the actual value.
        """
        if filters is None:
            return None
        conditions = tuple(
            self._condition(f"{place}.conditions[{position}]", condition)
            for position, condition in enumerate(filters.conditions or ())
        )
        if not conditions and filters.allowed_ads is None and filters.excluded_ads is None:
            return None
        return filters.model_copy(update={"conditions": conditions})

    def _condition(self, place: str, condition: request.Condition) -> request.Condition:
        field = condition.field
        kind = self._kinds.get(field)
        if kind is None:
            hint = terminal.suggestion_for(field, self._kinds)
            if field in self._vectors:
                hint = " It is a vector, which a filter cannot compare."
            raise errors.InvalidRequestError(
                f"{place}.field: expected the name of an ad field, got "
                f"{parsing.shortened(field)}.{hint} Ad fields: {', '.join(self._kinds)}."
            )
        given = condition.to_json()
        del given["field"]
        wrong = [name for name in given if name not in _PARTS[kind]]
        if wrong or not given:
            raise errors.InvalidRequestError(
                f"{place}: expected at least one of {', '.join(_PARTS[kind])} for the {kind} field "
                f"{field!r}, got {', '.join(wrong) or 'nothing'}."
            )
        checked = {
            name: _checked_values(f"{place}.{name}", kind, values)
            for name, values in given.items()
            if name.endswith("_of")
        }
        return condition.model_copy(update=checked)


def both(first: request.Filters | None, second: request.Filters | None) -> request.Filters | None:
    """Returns the conjunction of two checked filters, which may be None."""
    if first is None or second is None:
        return second if first is None else first
    allowed = [set(ads) for ads in (first.allowed_ads, second.allowed_ads) if ads is not None]
    excluded = {*(first.excluded_ads or ()), *(second.excluded_ads or ())}
    return first.model_copy(
        update={
            "conditions": (*(first.conditions or ()), *(second.conditions or ())),
            "allowed_ads": tuple(sorted(set.intersection(*allowed))) if allowed else None,
            "excluded_ads": tuple(sorted(excluded)) or None,
        }
    )


def _checked_values(place: str, kind: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if kind == "numeric":
        return tuple(sorted({_number(f"{place}[{i}]", value) for i, value in enumerate(values)}))
    texts = tuple(request.as_field_text(value) for value in values)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise errors.InvalidRequestError(
                f"{place}[{position}]: expected a string, an integer or a boolean, got "
                f"{parsing.shortened(text)}. A missing value equals no value."
            )
    try:
        return request.as_text_set(texts)
    except pydantic_core.PydanticCustomError as error:
        raise errors.InvalidRequestError(
            f"{place}: {error.message()}, got {parsing.shortened(values)}."
        ) from error


def _number(place: str, value: Any) -> float:
    if not is_number(value):
        raise errors.InvalidRequestError(
            f"{place}: expected a finite number, got {parsing.shortened(value)}."
        )
    # Ad fields are displayed, and compared, with the precision of float64.
    return float(value)
