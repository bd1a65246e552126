"""The schema of a data set: what its columns are and how they are encoded.

A schema names the fields, their sides (`query` for user and context, `ad` for the ad), and the
columns of labels, keys and times and of values to show in answers. It also says how numbers and
times are written, how events become labels, and how the heads are weighted by default. It contains
no data and does not need TensorFlow, so every stage, online and offline, can read it.

The schema is JSON on disk; its keys are the attributes of `Schema` and `Field`:

    {"name": "shop",
     "fields": [{"name": "country", "kind": "categorical", "side": "query"},
                {"name": "price", "kind": "numeric", "side": "ad"},
                {"name": "title", "kind": "text", "side": "ad"},
                {"name": "image", "kind": "dense", "side": "ad", "length": 512},
                {"name": "recent_clicks", "kind": "history", "of": "ad", "event": "click"},
                {"name": "ad_click_rate", "kind": "numeric", "of": "ad", "event": "click"}],
     "ad_key": ["sku"], "click": "clicked", "time": "timestamp", "user_key": "visitor",
     "show": ["title", "image_url"]}
"""

import dataclasses
import datetime
import decimal
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfrecords import files
from tfrecords.events import Events, events_from_json, events_json
from tfrecords.fields import (
    AD,
    CALENDARS,
    EVENTS,
    IMPRESSION,
    KINDS,
    NUMERIC_LIST,
    SIDES,
    VECTOR_KINDS,
    Field,
    check_keys,
    field_from_json,
    field_json,
    is_number,
    raise_first,
)

__all__ = [
    "AD",
    "CALENDARS",
    "EVENTS",
    "IMPRESSION",
    "KINDS",
    "LABELS",
    "MISSING_LABEL",
    "NUMERIC_LIST",
    "NUM_CANDIDATES",
    "SHOWN",
    "SIDES",
    "VECTOR_KINDS",
    "Field",
    "Label",
    "Schema",
    "load_schema",
    "numbers_of",
    "save_schema",
    "schema_from_json",
    "shown_text",
    "texts_in_brackets",
    "texts_of",
]


# Default number of candidates, and the k of the recall by which indexes are chosen and monitored.
NUM_CANDIDATES = 500


@dataclasses.dataclass(frozen=True)
class Label:
    """A label of the rows of a log.

    Attributes:
        name: Name of the label, and of the attribute of `Schema` with its column.
        is_amount: Whether it is an amount of at least 0; otherwise it is 0 or 1.
        is_late: Whether it can occur some time after the click, so that it is unknown within
            `engagement_window_seconds` of the end of the log.
        after: The label that must come first, such as `click`; where it is 0, this label is 0, too.
            None: it depends on no other.
    """

    name: str
    is_amount: bool = False
    is_late: bool = False
    after: str | None = None

    @property
    def needs_click(self) -> bool:
        """Whether its head predicts a probability after a click."""
        return self.after is not None and not self.is_amount


# In the order of records and reports; a label comes after the one that it depends on.
LABELS = {
    label.name: label
    for label in (
        Label("click"),
        Label("engagement", is_late=True, after="click"),
        Label("revenue", is_amount=True, is_late=True, after="engagement"),
    )
}
# Column of a table of ads with the values to show, a JSON object each.
SHOWN = "__show__"
# A missing label of 0 or 1, which is a byte; a missing amount is NaN.
MISSING_LABEL = 255
_BRACKETS = re.compile(r"[\[(]\s*(.*?)\s*[\])]", re.DOTALL)
_BETWEEN_NUMBERS = re.compile(r"[\s,;]+")
_LIST = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)
_NOTHING = ("None", "null", "NaN", "nan")
# A quoted text, a number, or a missing value.
_LISTED = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|"""
    + "|".join(_NOTHING),
    re.DOTALL,
)
# In texts of JSON and Python.
_ESCAPE = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|U0010[0-9a-fA-F]{4}|.)", re.DOTALL
)
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_KEYS = ("request_key", "time", "position", "user_key", "split")
# Attributes that are written even if they are null: otherwise, the fingerprints of existing data
# sets would change.
_KEPT_IF_NULL = ("click", "engagement", "revenue", *_KEYS, "click_threshold")


@dataclasses.dataclass(frozen=True)
class Schema:
    """Fields, labels and keys of a data set.

    Keys, labels, time, position and split are names of columns of the log.

    Attributes:
        name: Name of the data set.
        fields: Input fields, in the order of the columns of encoded matrices.
        ad_key: Columns that together identify an ad.
        click: Column of the click label (0 or 1); None: every row is a click.
        engagement: Column of the label after the click (0 or 1), or None where not logged.
        revenue: Column of the revenue (non-negative), or None where not logged.
        request_key: Column whose equal values form one request; None: a row is a request.
        time: Column with the time of a row: a number, ISO 8601 or `time_format`; None: the log's
            order.
        position: Column of the position at which an ad was shown (0 is the first), or None.
        user_key: Column that identifies the user, or None. An empty key or NULL is an anonymous
            visitor: each such request counts as a separate user.
        split: Column with the split of a row, `train`, `validation` or `test`, or None.
        click_threshold: Minimum rating that counts as a click, if the click column is a rating.
        negative_keep_rate: Share of the unclicked rows that down-sampling kept in the log; served
            probabilities are corrected for it.
        show: Columns of the ad that answers and reports show, such as a title; of any type, and
            never model inputs. They are read from the table of ads if it has them, else from the
            log.
        events: How the types of events become click and engagement, in a log with a row for each
            event; see `tfrecords.events`. `click` and `engagement` are then left out. None: a row
            is a shown ad.
        time_format: Format of times for `datetime.strptime`, such as `%d.%m.%Y %H:%M` or, for
            dates as digits, `%Y%m%d`; None: numbers and ISO 8601.
        decimal: `.` or `,`: the decimal sign of formatted numbers in text, such as `€1,234.50`
            and `1.234,50 €`; None: numbers are plain, such as 1234.5.
        header: Names of the columns of text files without a header line; empty: the first line has
            them.
        values: Monetary value of a `click` and of an `engagement`, in the unit of the revenue. A
            label that is left out adds no value. The default weights follow from them.
        weights: Default weight of each label in the utility that orders ads, instead of those from
            `values` or from the data. A label that is left out has weight 0.
    """

    name: str
    fields: tuple[Field, ...]
    ad_key: tuple[str, ...]
    click: str | None
    engagement: str | None = None
    revenue: str | None = None
    request_key: str | None = None
    time: str | None = None
    position: str | None = None
    user_key: str | None = None
    split: str | None = None
    click_threshold: float | None = None
    negative_keep_rate: float = 1.0
    show: tuple[str, ...] = ()
    events: Events | None = None
    time_format: str | None = None
    decimal: str | None = None
    header: tuple[str, ...] = ()
    values: Mapping[str, float] | None = dataclasses.field(default=None, hash=False)
    weights: Mapping[str, float] | None = dataclasses.field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.events is not None:
            self._take_labels(self.events)
        raise_first(self._faults_of_values())
        raise_first(f"Schema {self.name!r}: {fault}" for fault in self._faults())
        self._take_vocabularies()

    def _take_labels(self, events: Events) -> None:
        """Sets the columns of the labels that are events to the column of the events."""
        for label in EVENTS[1:]:
            if getattr(self, label) not in (None, events.column):
                raise ValueError(
                    f"Schema {self.name!r}: with events, {label} follows from the event types; set "
                    f"it to null."
                )
            # Without views, each row is a click.
            kinds = events.view if label == "click" else getattr(events, label)
            object.__setattr__(self, label, events.column if kinds else None)

    def _take_vocabularies(self) -> None:
        """Copies the vocabulary options of the listed field to each history."""
        shared = ("min_count", "num_oov_buckets", "max_vocabulary_size")
        fields = [
            field
            if (listed := self.values_of(field)) is None
            else dataclasses.replace(field, **{name: getattr(listed, name) for name in shared})
            for field in self.fields
        ]
        object.__setattr__(self, "fields", tuple(fields))

    def _faults_of_values(self) -> Iterator[str]:
        """Yields values that an attribute cannot have."""
        for role in ("ad_key", "show", "header"):
            columns = getattr(self, role)
            for column in columns:
                if not isinstance(column, str) or not column:
                    yield f"{role} must be a list of column names, got {column!r} in it."
            if len(set(columns)) < len(columns):
                yield f"{role} names a column twice: {list(columns)}. Name it once."
        for name in (*LABELS, *_KEYS):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                yield f"{name} must be the name of a column, or null; got {value!r}."
        form = self.time_format
        if form is not None and (not isinstance(form, str) or "%" not in form):
            yield f"time_format must be a format such as '%d.%m.%Y %H:%M', got {form!r}."
        if isinstance(form, str) and "%Z" in form.replace("%%", ""):
            yield (
                f"time_format {form!r}: %Z reads names of zones without their offsets. Write UTC "
                "instead of %Z if all times have this text, or write times with offsets such as "
                "+02:00, which %z reads."
            )
        if form is not None and not _has_date(form):
            yield (
                f"time_format {form!r} does not give a date; expected year, month and day, such "
                "as '%d.%m.%Y %H:%M'. If date and time of day are in two columns, join them into "
                "one."
            )
        if self.decimal not in (None, ".", ","):
            yield f"decimal must be '.', ',' or null, got {self.decimal!r}."
        threshold = self.click_threshold
        if threshold is not None and not is_number(threshold):
            yield f"click_threshold must be a number or null, got {threshold!r}."
        kept = self.negative_keep_rate
        if not (is_number(kept) and 0 < kept <= 1):
            yield f"negative_keep_rate must be above 0 and at most 1, got {kept!r}."
        for name in ("values", "weights"):
            yield from self._faults_of_utility(name)

    def _faults_of_utility(self, name: str) -> Iterator[str]:
        labels = [label for label in LABELS if label == "click" or label in self.labels]
        value = getattr(self, name)
        if value is None:
            return
        if not isinstance(value, Mapping) or not value:
            yield f'{name} must be an object such as {{"click": 0.05}}, or null; got {value!r}.'
        for label, number in value.items():
            if name == "values" and label == "revenue":
                yield "values: revenue is already an amount of money, so its value is 1; omit it."
            if label not in labels:
                yield f"{name}: {label!r} is not a label of this schema; it has {labels}."
            if not is_number(number) or (name == "values" and number < 0):
                finite = "a number, 0 or more" if name == "values" else "a finite number"
                yield f"{name}: {label} must be {finite}, got {number!r}."

    def _faults(self) -> Iterator[str]:
        """Yields attributes that do not fit together."""
        if self.events is not None:
            yield from self._faults_of_events()
        names = [name for field in self.fields for name in field.inputs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            yield f"fields named more than once: {repeated}."
        for side in SIDES:
            if not self.side(side):
                yield f"at least one field must be on the {side} side."
        if not self.logged_ad_fields:
            yield "at least one ad field must not be a rate; it can be the ad key."
        yield from self._faults_of_keys()
        for history in self.histories:
            missing = [name for name in ("user_key", "time") if getattr(self, name) is None]
            if missing:
                yield (
                    f"the history {history.name!r} lists a user's events before a request; name "
                    f"the columns of {' and '.join(missing)}, or leave the history out."
                )
            yield from self._faults_of_computed("history", history)
        for rate in self.rates:
            if self.time is None:
                yield (
                    f"the rate {rate.name!r} counts events before a request; name the column of "
                    "the time, or leave the rate out."
                )
            if self.click is None:
                yield (
                    f"the rate {rate.name!r} needs impressions that were not clicked, and click is "
                    "null: the log has only clicks. Leave the rate out."
                )
            yield from self._faults_of_computed("rate", rate)

    def _faults_of_events(self) -> Iterator[str]:
        read = (*EVENTS[1:], "revenue")
        if unread := sorted(set(self.labels) - set(read)):
            yield f"with events, only {', '.join(read)} are read; set {', '.join(unread)} to null."
        if self.user_key is None and self.request_key is None:
            yield "events are joined by user_key or request_key; name one."

    def _faults_of_computed(self, kind: str, field: Field) -> Iterator[str]:
        for event in field.event:
            if event not in (IMPRESSION, "click", *self.labels):
                yield (
                    f"the {kind} {field.name!r} counts {event}s, but the schema names no {event} "
                    "column."
                )
        known = [f.name for f in self.ad_fields if f.kind == "categorical"]
        if field.of not in (AD, *known):
            yield (
                f"the {kind} {field.name!r}: of is {field.of!r}; expected 'ad' or an ad-side "
                f"categorical field: {known}."
            )

    def _faults_of_keys(self) -> Iterator[str]:
        if not self.ad_key:
            yield "ad_key must name at least one column."
        on_query_side = {f.source for f in self.query_fields if f.kind != "history"}
        misplaced = [column for column in self.ad_key if column in on_query_side]
        if misplaced:
            yield (
                f"{misplaced} is part of ad_key, so it describes the ad; give its field the side "
                "'ad'."
            )
        sources = {field.source for field in self.logged_fields}
        labels = set(self.labels.values())
        if self.events is not None:
            # The revenue of an engagement may be the price, which each view has too.
            labels -= {self.revenue} - {self.events.column}
        leaked = sorted(sources & labels)
        if leaked:
            yield f"labels cannot be input fields: {leaked}."
        if self.events is None and self.engagement is not None and self.engagement == self.click:
            yield (
                f"click and engagement are both {self.click!r}. Set engagement to the column of "
                "what follows a click, or to null."
            )
        if self.split is not None and self.split in sources:
            yield f"the split column {self.split!r} cannot be an input field."
        if self.click is None and self.click_threshold is not None:
            yield "click_threshold needs a click column, and click is null."
        if self.click is None and self.negative_keep_rate < 1:
            yield "negative_keep_rate needs a click column, and click is null."

    @property
    def histories(self) -> tuple[Field, ...]:
        """The fields that are computed from the events of the user."""
        return tuple(field for field in self.fields if field.kind == "history")

    @property
    def rates(self) -> tuple[Field, ...]:
        """The fields that are computed from the events of all users."""
        return tuple(field for field in self.fields if field.is_rate)

    @property
    def logged_fields(self) -> tuple[Field, ...]:
        """The fields whose values the log has: all but histories and rates."""
        return tuple(field for field in self.fields if not field.is_computed)

    @property
    def logged_ad_fields(self) -> tuple[Field, ...]:
        """The fields whose values a table of ads has."""
        return tuple(field for field in self.ad_fields if not field.is_computed)

    def values_of(self, history: Field) -> Field | None:
        """Returns the ad-side field whose values a history lists.

        It shares the encoded ids of this field, so that a candidate's id can be compared with them.
        A history of ads lists the values of the field that is the ad key, if there is one.

        Returns:
            The field; None for other fields, and for ids of ads that are not a field.
        """
        listed = {field.name: field for field in self.ad_fields if field.kind == "categorical"}
        if history.kind != "history":
            return None
        if history.of == AD:
            return next((f for f in listed.values() if (f.source,) == self.ad_key), None)
        return listed.get(history.of or "")

    def side(self, side: str) -> tuple[Field, ...]:
        """Returns the fields of one side, in schema order, except that vectors are last."""
        side_fields = (field for field in self.fields if field.side == side)
        return tuple(sorted(side_fields, key=lambda field: field.is_vector))

    @property
    def query_fields(self) -> tuple[Field, ...]:
        return self.side("query")

    @property
    def ad_fields(self) -> tuple[Field, ...]:
        return self.side("ad")

    @property
    def labels(self) -> dict[str, str]:
        """Labels that the log has, and their columns."""
        columns = {label: getattr(self, label) for label in LABELS}
        return {label: column for label, column in columns.items() if column is not None}

    @property
    def money(self) -> dict[str, float] | None:
        """Monetary value of each label, of revenue too; None without `values`."""
        return None if self.values is None else {**self.values, "revenue": 1.0}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log that the schema reads, each once."""
        types = None if self.events is None else self.events.column
        keys = (self.request_key, self.time, self.position, self.user_key, self.split, types)
        extra = (*self.ad_key, *self.labels.values(), *keys, *self.show)
        names = [field.source for field in self.logged_fields] + [name for name in extra if name]
        return tuple(dict.fromkeys(names))

    def to_json(self) -> dict[str, Any]:
        """Returns the schema as JSON values; `schema_from_json` is its inverse."""
        value = dataclasses.asdict(self)
        # The defaults are omitted, so that a new attribute does not change the fingerprint.
        for attribute in dataclasses.fields(self):
            name = attribute.name
            if name not in _KEPT_IF_NULL and value[name] == attribute.default:
                del value[name]
        value["fields"] = [field_json(field) for field in value["fields"]]
        if self.events is not None:
            value["events"] = events_json(value["events"])
        return value

    def fingerprint(self) -> str:
        """Returns 16 hex digits that identify the parts of the schema that models learn from."""
        value = dataclasses.replace(self, show=(), values=None, weights=None).to_json()
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def numbers_of(text: str, separator: str) -> list[float]:
    """Returns the numbers of a vector's text: joined by the separator, or a list in brackets.

    `0.5|-1`, `[0.5, -1]` and `[0.5 -1]` (as JSON, pandas and NumPy write it) are the same.

    Raises:
        ValueError: A part is not a number.
    """
    inside = _BRACKETS.fullmatch(text.strip())
    parts = _BETWEEN_NUMBERS.split(inside[1]) if inside else text.split(separator)
    return [float(part) for part in parts if part.strip()]


def texts_of(text: str, separator: str) -> list[str]:
    """Returns the values of a list's text: joined by the separator, or a list in brackets.

    `a|b`, `["a", "b"]`, `['a', 'b']` and `['a' 'b']` (as JSON, pandas and NumPy write it) are the
    same.
    """
    inside = texts_in_brackets(text)
    return text.split(separator) if inside is None else inside


def texts_in_brackets(text: str) -> list[str] | None:
    """Returns the values of a list in brackets, or None if a text is not one.

    They are quoted texts or numbers. Other texts, such as `[new]`, are a value with brackets.
    """
    match = _LIST.fullmatch(text)
    if match is None:
        return None
    between = _LISTED.split(match[1])
    if any(part.strip(", \t\r\n") for part in between) or not all(between[1:-1]):
        return None
    return [_listed(item) for item in _LISTED.findall(match[1]) if item not in _NOTHING]


def _has_date(time_format: str) -> bool:
    """Returns whether a format can be parsed and keeps times in order, if only by month."""
    parts = ((2023, 12, 31, 23), (2024, 1, 31, 2), (2024, 2, 1, 1), (2024, 2, 2, 0))
    times = [datetime.datetime(*part, tzinfo=datetime.UTC) for part in parts]
    try:
        read = [datetime.datetime.strptime(t.strftime(time_format), time_format) for t in times]
    except ValueError:
        return False
    return read == sorted(read) and read[0] < read[-1]


def _listed(item: str) -> str:
    """Returns a value of a list in brackets as text; 3.0 becomes "3"."""
    if item[0] not in "'\"":
        return str(int(float(item))) if "." in item and float(item).is_integer() else item
    if "\\" not in item:
        return item[1:-1]
    text = _ESCAPE.sub(_unescaped, item[1:-1])
    # JSON escapes characters above 0xffff as surrogate pairs.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text.encode("utf-8", "replace").decode()


def _unescaped(match: re.Match[str]) -> str:
    name = match[1]
    return chr(int(name[1:], 16)) if len(name) > 1 else _CONTROLS.get(name, name)


def schema_from_json(value: Mapping[str, Any]) -> Schema:
    """Builds a schema from JSON values.

    Raises:
        ValueError: A key is missing or unknown, or a value is not allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"A schema is a JSON object, got {type(value).__name__}.")
    if value.get("events") is not None:
        value = {"click": None, **value, "events": events_from_json(value["events"])}
    check_keys("schema", value, Schema)
    lists = ("ad_key", "show", "header")
    value = {**dict.fromkeys(lists, ()), **value}
    for name in ("fields", *lists):
        if isinstance(value[name], str) or not isinstance(value[name], Sequence):
            items = "objects" if name == "fields" else "columns"
            is_text = isinstance(value[name], str)
            hint = f": write [{json.dumps(value[name])}]" if is_text else f", got {value[name]!r}"
            raise ValueError(f"{name} is a list of {items}{hint}.")
    fields = []
    for field in value["fields"]:
        if not isinstance(field, Mapping):
            raise ValueError(f"A schema field is a JSON object, got {field!r}.")
        fields.append(field_from_json(field))
    listed = {name: tuple(value[name]) for name in lists}
    return Schema(**{**value, "fields": tuple(fields), **listed})


def load_schema(path: str | pathlib.Path) -> Schema:
    """Reads a schema file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not a valid schema; the message names the file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        kind = ", which is a directory" if path.is_dir() else ""
        raise FileNotFoundError(f"No schema file at {path}{kind}; check the path.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return schema_from_json(json.loads(text, object_pairs_hook=_without_repeated_keys))
    except UnicodeDecodeError as error:
        raise ValueError(f"Schema file {path} is not UTF-8 ({error}); save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Schema file {path} is not JSON ({error}). JSON has double quotes, and neither "
            "comments nor a comma after the last value."
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"Schema file {path}: {error}") from error


def _without_repeated_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in items]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"an object has the key {repeated[0]!r} more than once; keep one.")
    return dict(items)


def save_schema(schema: Schema, path: str | pathlib.Path) -> None:
    """Writes a schema file that `load_schema` reads back."""
    files.write(pathlib.Path(path), json.dumps(schema.to_json(), indent=2) + "\n")


def shown_text(values: Mapping[str, Any]) -> str:
    """Returns values to show as a JSON object; an empty text and NaN are null."""
    return json.dumps({name: _shown(value) for name, value in values.items()}, ensure_ascii=False)


def _shown(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value if isinstance(value, str | int | float) and value != "" else None
