"""The fields of a schema: their kinds, options and raw inputs.

`tfrecords.schema` has the names that others use.
"""

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tfrecords import terminal

KINDS = ("categorical", "numeric", "categorical_list", "dense", "text", "history")
# Additional kind of a raw input: the ages of a history.
NUMERIC_LIST = "numeric_list"
# Kinds that are encoded as vectors.
VECTOR_KINDS = ("dense", "text")
SIDES = ("query", "ad")
IMPRESSION = "impression"
# Events that histories can list: an impression, and labels that are events. The latter are also
# attributes of `events.Events`.
EVENTS = (IMPRESSION, "click", "engagement")
# `of` of a history or rate whose values are the ids of ads.
AD = "ad"
CALENDARS = ("hour", "weekday", "month")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = ("self", "ad_features")  # arguments of the exported signatures
_MAX_LIST_LENGTH = 10_000
_MAX_VECTOR_LENGTH = 16_384
_TEXT_LENGTH = 512
_POSITIVE_OPTIONS = (
    "min_count",
    "num_oov_buckets",
    "max_vocabulary_size",
    "num_buckets",
    "max_list_length",
    "max_length",
)
# Options of fields that are computed from events, in JSON. A history has the vocabulary of the ads
# or of the field that it lists.
_HISTORY_KEYS = ("name", "kind", "side", "of", "event", "max_length", "max_age_days")
_RATE_KEYS = ("name", "kind", "side", "of", "event", "max_age_days", "num_buckets")


@dataclasses.dataclass(frozen=True)
class Field:
    """An input field.

    Attributes:
        name: Key in a request: letters, digits and `_`, starting with a letter.
        kind: `categorical` (a string), `numeric` (a number), `categorical_list` (strings), `dense`
            (a vector), `text` (a string that an encoder turns into a vector) or `history` (the
            user's events before the request; see `tfrecords.histories`).
        side: `query` (user and context) or `ad`.
        column: Column in the log; None: the same as the name.
        min_count: Categorical: rarer values in training are out of vocabulary.
        num_oov_buckets: Categorical: number of ids for out-of-vocabulary values, by hash.
        max_vocabulary_size: Categorical: maximum number of values; the most frequent are kept.
        num_buckets: Numeric: maximum number of quantile buckets.
        separator: List and dense: text between the values of a list in the log.
        max_list_length: List: maximum number of values; the last ones are kept.
        calendar: Categorical query field whose column holds times: the field is the `hour` (0 to
            23), `weekday` (Monday to Sunday) or `month` (1 to 12) of the time as the log has it. A
            request gives the value itself: {"hour": 14}.
        length: Dense and text: number of values of the vector; None: 512 for a text, and not
            allowed for a dense field.
        encoder: Text: name of an encoder, or MODULE:CLASS; see `tfrecords.texts`.
        of: History: the listed values, `ad` (the ids of the ads) or an ad-side categorical field.
            Numeric ad field: makes it the rate of `event` for the ad's value of this field; see
            `conversion.event_rates`.
        event: History: one or more of `EVENTS`, in that order. Rate: one of them; the rate of
            `impression` is the age of the value, in days since its first impression.
        max_length: History: maximum number of events; the latest are kept.
        max_age_days: History and rate: older events are left out; None: all count.
    """

    name: str
    kind: str
    side: str
    column: str | None = None
    min_count: int = 5
    num_oov_buckets: int = 8
    max_vocabulary_size: int = 1_000_000
    num_buckets: int = 40
    separator: str = "|"
    max_list_length: int = 16
    calendar: str | None = None
    length: int | None = None
    encoder: str = "hashed_ngrams"
    of: str | None = None
    event: tuple[str, ...] = ()
    max_length: int = 50
    max_age_days: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(
                f"A field's name must be letters, digits and '_', starting with a letter, got "
                f'{self.name!r}; write {{"name": "a_plain_name", "column": "{self.name}"}}.'
            )
        if self.kind == "text" and self.length is None:
            object.__setattr__(self, "length", _TEXT_LENGTH)
        raise_first(f"Field {self.name!r}: {fault}" for fault in self._faults())
        if self.is_computed:
            events = tuple(kind for kind in EVENTS if kind in self._listed_events)
            object.__setattr__(self, "event", events)

    def _faults(self) -> Iterator[str]:
        """Yields what is wrong; a later fault may follow from an earlier one."""
        if self.name in _RESERVED:
            yield (
                "the name is reserved; write "
                f'{{"name": "{self.name}_field", "column": "{self.name}"}}.'
            )
        if self.kind not in KINDS:
            yield f"kind must be one of {KINDS}, got {self.kind!r}."
        if self.side not in SIDES:
            yield f"side must be one of {SIDES}, got {self.side!r}."
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            yield f"column must be the name of a column, got {self.column!r}."
        if self.calendar is not None and self.calendar not in CALENDARS:
            yield f"calendar must be one of {CALENDARS}, got {self.calendar!r}."
        if self.calendar and (self.kind, self.side) != ("categorical", "query"):
            yield (
                "a calendar field must be categorical and on the query side, got "
                f"{self.kind!r} on the {self.side} side."
            )
        if not isinstance(self.separator, str) or not self.separator:
            yield f"separator must be at least one character, got {self.separator!r}."
        if self.separator != Field.separator and self.kind not in ("categorical_list", "dense"):
            yield (
                f"separator is an option of lists and vectors, but the kind is {self.kind!r}. "
                "Leave it out, or correct the kind."
            )
        for option in _POSITIVE_OPTIONS:
            value = getattr(self, option)
            if not (isinstance(value, int) and is_number(value) and value >= 1):
                yield f"{option} must be a positive integer, got {value!r}."
        if self.max_list_length > _MAX_LIST_LENGTH:
            yield (
                f"max_list_length must be at most {_MAX_LIST_LENGTH}, got {self.max_list_length}: "
                "each list takes that many columns."
            )
        yield from self._faults_of_vector()
        if self.is_computed:
            yield from self._faults_of_computed()
            return
        for name in ("of", "event", "max_age_days"):
            if getattr(self, name) and self.kind == "numeric":
                yield (
                    f"{name} is an option of rates, but a rate has `of`: 'ad' or an ad-side "
                    f"categorical field. Add it, or leave {name} out."
                )
            elif getattr(self, name):
                yield (
                    f"{name} is an option of histories and of rates, but the kind is "
                    f"{self.kind!r}. Leave it out, or correct the kind."
                )

    @property
    def _listed_events(self) -> tuple[str, ...]:
        events = (self.event,) if isinstance(self.event, str) else self.event
        is_list = isinstance(events, list | tuple) and all(isinstance(name, str) for name in events)
        return tuple(events) if is_list else ()

    def _faults_of_computed(self) -> Iterator[str]:
        computed, side = ("a rate", "ad") if self.is_rate else ("a history", "query")
        if self.side != side or self.column is not None:
            owner = "the log" if self.is_rate else "the user"
            yield (
                f"{computed} is computed from the events of {owner}; expected side {side!r} and no "
                f"column, got {self.side!r} and {self.column!r}."
            )
        if not isinstance(self.of, str):
            yield f"of must be 'ad' or the name of an ad-side categorical field, got {self.of!r}."
        events = self._listed_events
        if self.is_rate and len(events) != 1:
            yield f"the event of a rate must be one of {EVENTS}, got {self.event!r}."
        if not events or set(events) - set(EVENTS):
            yield f"event must be one of {EVENTS} or a list of them, got {self.event!r}."
        if self.max_length > _MAX_LIST_LENGTH:
            yield f"max_length must be at most {_MAX_LIST_LENGTH}, got {self.max_length}."
        days = self.max_age_days
        if days is not None and not (is_number(days) and days > 0):
            yield f"max_age_days must be a number above 0 or null, got {days!r}."
        if self.is_age and days is not None:
            yield "the rate of impressions is an age, which has no max_age_days; leave it out."

    def _faults_of_vector(self) -> Iterator[str]:
        length = self.length
        if not self.is_vector and length is not None:
            yield (
                f"length is an option of {VECTOR_KINDS}, but the kind is {self.kind!r}. Leave it "
                "out, or correct the kind."
            )
        if self.is_vector and not (
            isinstance(length, int) and is_number(length) and 1 <= length <= _MAX_VECTOR_LENGTH
        ):
            yield (
                f"length must be the number of values of each vector, 1 to {_MAX_VECTOR_LENGTH}, "
                f'got {length!r}; write "length": 384, for example.'
            )
        if not isinstance(self.encoder, str) or not self.encoder:
            yield f"encoder must be a name or MODULE:CLASS, got {self.encoder!r}."

    @property
    def is_rate(self) -> bool:
        """Whether a numeric field is the rate of an event; see `conversion.event_rates`."""
        return is_rate(vars(self))

    @property
    def is_age(self) -> bool:
        """Whether a rate is the age of the value; see `conversion.event_rates`."""
        return self.is_rate and self._listed_events == (IMPRESSION,)

    @property
    def is_computed(self) -> bool:
        """Whether values are computed from the events of the log, which does not have them."""
        return self.kind == "history" or self.is_rate

    @property
    def source(self) -> str:
        """Column of the log with the field's values."""
        return self.name if self.column is None else self.column

    @property
    def is_list(self) -> bool:
        """Whether a value is a list of strings, oldest first."""
        return self.kind in ("categorical_list", "history")

    @property
    def list_length(self) -> int:
        """Maximum number of values of a list; its encoded values are the field's first columns."""
        return self.max_length if self.kind == "history" else self.max_list_length

    @property
    def age_input(self) -> str:
        """Raw input with the ages of a history's values: seconds before the request."""
        return f"{self.name}__age_seconds"

    @property
    def event_input(self) -> str:
        """Raw input with the events of a history's values, if there are several."""
        return f"{self.name}__events"

    @property
    def inputs(self) -> dict[str, str]:
        """Raw inputs of the field in requests and models: name -> kind."""
        if self.kind != "history":
            return {self.name: self.kind}
        events = {self.event_input: "categorical_list"} if len(self.event) > 1 else {}
        return {self.name: "categorical_list", self.age_input: NUMERIC_LIST, **events}

    @property
    def is_bucketed(self) -> bool:
        """Whether an encoded value is the bucket of a number."""
        return self.kind == "numeric"

    @property
    def is_vector(self) -> bool:
        """Whether an encoded value is a vector, not ids."""
        return self.kind in VECTOR_KINDS

    @property
    def width(self) -> int:
        """Number of int32 columns of an encoded value: its ids, or two values of a vector each."""
        if self.kind == "history":
            return self.max_length * len(self.inputs)
        if self.kind == "categorical_list":
            return self.max_list_length
        return 1 if self.length is None else -(-self.length // 2)


def raise_first(faults: Iterable[str]) -> None:
    """Raises ValueError with the first fault, if there is one; later ones are not evaluated."""
    for fault in faults:
        raise ValueError(fault)


def is_number(value: Any) -> bool:
    """Returns whether a JSON value is a number in the range of a float."""
    has_type = isinstance(value, int | float) and not isinstance(value, bool)
    return has_type and abs(value) <= sys.float_info.max


def is_rate(field: Mapping[str, Any]) -> bool:
    """Returns whether a field, given its JSON, is a rate."""
    return field.get("kind") == "numeric" and field.get("of") is not None


def field_json(field: dict[str, Any]) -> dict[str, Any]:
    """Returns a field's JSON without options of other kinds, so that fingerprints do not change."""
    computed = _computed_keys(field)
    if computed:
        computed_values = {name: field[name] for name in computed}
        return {**computed_values, "event": list(computed_values["event"])}
    dropped = [name for name in _HISTORY_KEYS if name not in ("name", "kind", "side")]
    dropped += ["calendar"] if field["calendar"] is None else []
    return {name: value for name, value in field.items() if name not in dropped}


def field_from_json(field: Mapping[str, Any]) -> Field:
    """Builds a field from JSON values; the side of a history or rate may be left out.

    Raises:
        ValueError: A key is missing or unknown, or a value is not allowed.
    """
    described = f"field {field.get('name')!r}"
    computed = _computed_keys(field)
    if computed:
        is_history = field["kind"] == "history"
        field = {"side": "query" if is_history else "ad", **field}
        unknown = [name for name in field if name not in computed]
        if unknown:
            raise ValueError(
                f"The {described} is a {'history' if is_history else 'rate'}, which has no option "
                f"{unknown[0]!r}. Known: {list(computed)}."
            )
    check_keys(described, field, Field)
    return Field(**field)


def _computed_keys(field: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the options of a history or rate, given its JSON; none for other fields."""
    if field.get("kind") == "history":
        return _HISTORY_KEYS
    return _RATE_KEYS if is_rate(field) else ()


def check_keys(described: str, value: Mapping[str, Any], kind: Any) -> None:
    """Checks that JSON values have only keys of a dataclass, and all keys without a default.

    Raises:
        ValueError: A key is missing or unknown.
    """
    known = [attribute.name for attribute in dataclasses.fields(kind)]
    required = [
        attribute.name
        for attribute in dataclasses.fields(kind)
        if attribute.default is dataclasses.MISSING
    ]
    # First, because it may be a misspelled key that seems to be missing.
    for name in value:
        if name not in known:
            hint = terminal.suggestion_for(str(name), known)
            raise ValueError(f"The {described} has an unknown key {name!r}.{hint} Known: {known}.")
    missing = [name for name in required if name not in value]
    if missing:
        raise ValueError(f"The {described} lacks {missing}; it needs {required}.")
