"""A request for ads: the one definition for REST, the clients and the orchestrator.

Types, and limits that apply to every release, are checked when a model is built; `validation`
checks what depends on a release, such as the names of its fields. The descriptions are the text of
the OpenAPI document. Null and absent mean the same everywhere.
"""

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import numpy as np
import pydantic
import pydantic_core

from tfrecords.schema import IMPRESSION, LABELS

ReleaseName = Literal["stable", "canary"]
RELEASES: tuple[ReleaseName, ...] = get_args(ReleaseName)
MAX_DEADLINE_MS = 60_000
MAX_REQUEST_ID_LENGTH = 128
MAX_CONDITIONS = 64
MAX_VALUES = 1_000
MAX_ADS = 50_000
# Rules of one type in one request.
MAX_RULES = 8
MAX_COUNT = 2**31
MAX_ID_LENGTH = 256
MAX_AD_ID_BYTES = 1_024
# Ten years.
MAX_HOURS = 87_600
# An impression, or a label. A type checker knows only literals that are written out.
if TYPE_CHECKING:
    EventKind = str
else:
    EventKind = Literal[IMPRESSION, *LABELS]
# Beyond it the utility of large revenues could leave the range of a float.
MAX_WEIGHT = 1e9
_NUMPY = (np.generic, np.ndarray)


def as_digits(value: Any) -> Any:
    """Returns an integer as its decimal digits, because ids are often sent as JSON numbers.

    Any other value, and an integer too long for an id, is returned unchanged.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        return value
    # NumPy's integers, which data frames have, are not `int`.
    return str(int(value)) if int(value).bit_length() <= 256 else value


def as_field_text(value: Any) -> Any:
    """Returns a value of a categorical field as text: an integer as digits, a bool as `true`.

    The conversion of a log does the same. Any other value is returned unchanged.
    """
    return str(value).lower() if isinstance(value, bool) else as_digits(value)


def as_text_set(values: tuple[str, ...]) -> tuple[str, ...]:
    """Returns distinct values in sorted order, so that equal sets are equal tuples."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError as error:
        raise pydantic_core.PydanticCustomError(
            "invalid_unicode", "Expected text without unpaired surrogates"
        ) from error
    return tuple(sorted(set(values)))


def _without_numpy(fields: Any) -> Any:
    """Returns raw fields with Python's values for NumPy's, which data frames have."""
    if not isinstance(fields, Mapping):
        return fields
    return {
        name: [_as_python(item) for item in value] if isinstance(value, list) else _as_python(value)
        for name, value in fields.items()
    }


def _as_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, _NUMPY) else value


def _printable(text: str) -> str:
    # It goes into logs and answers.
    if not text.isprintable():
        raise pydantic_core.PydanticCustomError("unprintable", "Expected printable characters")
    return text


def _as_id(text: str) -> str:
    as_text_set((text,))
    if not 1 <= len(text) <= MAX_ID_LENGTH or "\0" in text:
        raise pydantic_core.PydanticCustomError(
            "id", "Expected 1 to {max} characters, without null characters", {"max": MAX_ID_LENGTH}
        )
    return text


def _as_ad_id(text: str) -> str:
    as_text_set((text,))
    if not 1 <= len(text.encode()) <= MAX_AD_ID_BYTES or "\0" in text:
        raise pydantic_core.PydanticCustomError(
            "id", "Expected 1 to {max} bytes, without null characters", {"max": MAX_AD_ID_BYTES}
        )
    return text


def _with_valid_keys(counts: dict[str, int]) -> dict[str, int]:
    as_text_set(tuple(counts))
    return counts


def _one_for_each_field(rules: tuple[Any, ...]) -> tuple[Any, ...]:
    # Frequency caps may also differ in the events that they count.
    counted = [
        (rule.field, getattr(rule, "event", None) or IMPRESSION, getattr(rule, "hours", None))
        for rule in rules
    ]
    for rule, key in zip(rules, counted, strict=True):
        if counted.count(key) > 1:
            subject = "the ads themselves" if rule.field is None else f"the field {rule.field!r}"
            raise pydantic_core.PydanticCustomError(
                "repeated_rule", "Expected one rule for {subject}", {"subject": subject}
            )
    return rules


def max_values(count: int) -> pydantic.BeforeValidator:
    """Refuses a longer list before its values are validated: each of them could be an error."""

    def check(values: Any) -> Any:
        if isinstance(values, list | tuple) and len(values) > count:
            raise pydantic_core.PydanticKnownError(
                "too_long",
                {"field_type": "Tuple", "max_length": count, "actual_length": len(values)},
            )
        return values

    return pydantic.BeforeValidator(check)


_String = Annotated[str, pydantic.Strict()]
_Integer = Annotated[int, pydantic.Strict()]
Number = Annotated[float, pydantic.Strict(), pydantic.Field(allow_inf_nan=False)]
_Boolean = Annotated[bool, pydantic.Strict()]
_Share = Annotated[Number, pydantic.Field(ge=0, le=1)]
_Max = Annotated[_Integer, pydantic.Field(ge=1, le=MAX_COUNT)]
_Weight = Annotated[Number, pydantic.Field(ge=-MAX_WEIGHT, le=MAX_WEIGHT)]
# A value of a categorical field: a string, or an integer as its digits.
_Text = Annotated[
    _String, pydantic.BeforeValidator(as_digits, json_schema_input_type=_String | _Integer)
]
_IdText = Annotated[_String, pydantic.Field(min_length=1, max_length=MAX_ID_LENGTH)]
Id = Annotated[
    _String,
    pydantic.BeforeValidator(as_digits, json_schema_input_type=_IdText | _Integer),
    pydantic.AfterValidator(_as_id),
]
_AdIdText = Annotated[_String, pydantic.Field(min_length=1, max_length=MAX_AD_ID_BYTES)]
AdId = Annotated[
    _String,
    pydantic.BeforeValidator(as_digits, json_schema_input_type=_AdIdText | _Integer),
    pydantic.AfterValidator(_as_ad_id),
]
_AdIds = Annotated[
    tuple[_Text, ...],
    pydantic.Field(max_length=MAX_ADS, fail_fast=True),
    pydantic.AfterValidator(as_text_set),
]
# Their types depend on the field.
_Values = Annotated[
    tuple[Annotated[Any, pydantic.WithJsonSchema({"type": ["string", "number", "boolean"]})], ...],
    pydantic.Field(max_length=MAX_VALUES),
]
# Raw query fields.
Fields = Annotated[dict[str, Any], pydantic.BeforeValidator(_without_numpy)]
_Counts = dict[_Text, Annotated[_Integer, pydantic.Field(ge=0, le=MAX_COUNT)]]
_VALID_KEYS = pydantic.AfterValidator(_with_valid_keys)
_Rule = TypeVar("_Rule")
_RuleList = Annotated[
    tuple[_Rule, ...],
    pydantic.Field(max_length=MAX_RULES),
    max_values(MAX_RULES),
    pydantic.AfterValidator(_one_for_each_field),
]


class RequestPart(pydantic.BaseModel):
    """Base of all parts of a request: immutable; unknown keys are refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object, without unset fields."""
        return self.model_dump(exclude_defaults=True)


class Condition(RequestPart):
    """A condition on one field of an ad. The ad must meet all given parts.

    A missing value meets `none_of`, and fails every other part.
    """

    field: _String
    """Name of an ad field."""
    any_of: _Values | None = None
    """The field has at least one of these values."""
    none_of: _Values | None = None
    """The field has none of these values."""
    all_of: _Values | None = None
    """The field has all of these values. For list fields."""
    at_least: Number | None = None
    """Lower bound, inclusive. For numeric fields."""
    at_most: Number | None = None
    """Upper bound, inclusive. For numeric fields."""


class Filters(RequestPart):
    """Eligible ads: they meet every condition and both lists."""

    conditions: (
        Annotated[
            tuple[Condition, ...],
            pydantic.Field(max_length=MAX_CONDITIONS),
            max_values(MAX_CONDITIONS),
        ]
        | None
    ) = None
    """An ad must meet all of them."""
    allowed_ads: _AdIds | None = None
    """Ad ids. Only these ads are eligible. Unknown ids are ignored."""
    excluded_ads: _AdIds | None = None
    """Ad ids. These ads are not eligible. Unknown ids are ignored."""


class Cap(RequestPart):
    """Maximum number of ads in an answer with the same value of a field.

    Ads without a value are not capped; an ad with a list counts for each of its values.
    """

    field: _String
    """Name of a categorical or list field of the ads."""
    max: _Max
    """Maximum number of ads with the same value."""


class FrequencyCap(RequestPart):
    """Makes ads ineligible that the user has seen, clicked or bought too often.

    The counts come from `seen`, or else from the service's user store.
    """

    max: _Max
    """Maximum number of events; an ad that has reached it is no longer eligible. With 1 and the
    event click, ads that the user has clicked are not eligible."""
    field: _String | None = None
    """Categorical or list field whose values are counted: ads with a value that has reached the
    maximum are not eligible. For impressions, the ads of the answer itself also count. Null: the
    ads themselves are counted."""
    event: EventKind | None = None
    """Kind of the events that are counted. Null: impressions, the only kind in `seen`; a service
    without a user store refuses other kinds."""
    hours: Annotated[Number, pydantic.Field(gt=0, le=MAX_HOURS)] | None = None
    """Only events within this number of hours count. Null: all events in the user store. The counts
    in `seen` are not affected."""

    @property
    def kind(self) -> EventKind:
        """Kind of the events that are counted."""
        return self.event or IMPRESSION


class Diversity(RequestPart):
    """Lowers the utility of an ad for each ad above it with the same value of a field."""

    field: _String
    """Name of a categorical or list field of the ads."""
    penalty: _Share
    """Share of the utility that is lost for each such ad above, in [0, 1]."""


class Exploration(RequestPart):
    """Fills a share of the positions with ads drawn uniformly from the candidates."""

    share: _Share
    """Probability that a position is drawn, in [0, 1]."""
    among: _Max | None = None
    """Number of best candidates to draw from. Null: all candidates."""


class Rules(RequestPart):
    """Business rules of an answer.

    A part that is null uses the service's default; an empty list, or a share of 0, turns the
    default off.
    """

    caps: _RuleList[Cap] | None = None
    """Maximum number of ads with the same value of a field."""
    frequency_caps: _RuleList[FrequencyCap] | None = None
    """Maximum number of impressions for the user."""
    diversity: _RuleList[Diversity] | None = None
    """Penalties for repeated values; the factors of several fields multiply."""
    exploration: Exploration | None = None
    """Share of the positions that are drawn at random."""


class ServiceRules(Rules):
    """Rules of a service: defaults for its requests, and filters that apply to all of them."""

    filters: Filters | None = None
    """Filters for all requests. A request can add filters, but not turn these off."""


class Seen(RequestPart):
    """Numbers of impressions that the user has seen, by ad and by value of ad fields.

    Given counts replace the counts of the user store.
    """

    ads: Annotated[_Counts, pydantic.Field(max_length=MAX_ADS), _VALID_KEYS] | None = None
    """Ad id to number of impressions."""
    fields: (
        dict[str, Annotated[_Counts, pydantic.Field(max_length=MAX_VALUES), _VALID_KEYS]] | None
    ) = pydantic.Field(default=None, examples=[{"advertiser": {"a3": 5}}])
    """Ad field to value to number of impressions."""


class Request(RequestPart):
    """One request for ads. All fields are optional; null and absent mean the same."""

    user: Fields | None = None
    """Raw query fields that describe the user: a string, a number or a boolean; for a list
    field a list of strings, oldest first; for a vector a list of numbers. Null: missing value."""
    context: Fields | None = None
    """Request context (page, device, time of day) as raw query fields; merged with `user`."""
    user_id: Id | None = None
    """Id of the user, the user key of the log. The service's user store fills in the fields that
    the request leaves out. Without the id, the store is not read. If the user key is also a query
    field, the id is the field's value unless the request has one."""
    k: Annotated[_Integer, pydantic.Field(ge=1)] | None = None
    """Number of ads to return; 10 by default. All ads if the catalog has fewer."""
    weights: dict[str, _Weight] | None = None
    """Utility weight of each head, such as click. A head that is left out keeps its default weight
    in the release; 0 removes it from the utility."""
    deadline_ms: Annotated[Number, pydantic.Field(gt=0, le=MAX_DEADLINE_MS)] | None = None
    """Time for the answer in milliseconds. If it runs short, fewer candidates are ranked; if it
    runs out, the ads are in retrieval order."""
    request_id: (
        Annotated[
            _String,
            pydantic.Field(min_length=1, max_length=MAX_REQUEST_ID_LENGTH),
            pydantic.AfterValidator(_printable),
        ]
        | None
    ) = None
    """Returned in the answer; generated by default."""
    filters: Filters | None = None
    """Eligible ads. If there are fewer than k, the answer has fewer ads."""
    rules: Rules | None = None
    """Caps, diversity and exploration. A part that is null uses the service's default."""
    seen: Seen | None = None
    """Numbers of impressions that the user has seen, for frequency caps."""
    explain: _Boolean | None = None
    """Whether the answer contains explanations."""
    candidates: _Boolean | None = None
    """Whether the answer lists all ranked candidates, for example to preview other weights."""
    release: ReleaseName | None = None
    """Release to query; without a canary both names mean the stable one, and `release` in the
    answer says so. Null: chosen by the canary's share."""
    dry_run: _Boolean | None = None
    """True: no user will see the answer, so it is left out of the impression log and the metrics of
    answers."""
