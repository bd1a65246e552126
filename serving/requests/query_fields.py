"""Raw query fields: checks the values of requests and lays them out as the models' inputs.

Shapes: B requests, L values of the longest list, n values of a vector.
"""

import contextlib
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving import errors
from serving.requests.parsing import shortened
from serving.requests.request import as_field_text
from tfrecords import terminal
from tfrecords.schema import EVENTS, NUMERIC_LIST

# A column per field: UTF-8 bytes [B] of a categorical or text field, float32 [B] of a numeric
# field, float32 [B, n] of a dense field (zeros are missing), bytes (dtype object) [B, L] of a list
# field, padded with b"", and float32 [B, L] of a list of numbers, padded with NaN; L is at least 1.
Columns = dict[str, list[bytes] | np.ndarray]

# Models use the last `max_list_length` values of a list; a list beyond this is a mistake.
MAX_LIST_VALUES = 1000
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class QueryFields:
    """The query fields of a release.

    A categorical value is a string; an integer is taken as its decimal digits, because ids
    are often sent as JSON numbers, and a bool as `true` or `false`, as in the conversion of
    boolean columns. A float is refused: `1.0` and `1` would become two values of the vocabulary.
    A numeric value is a finite int or float. None and an absent field are missing values.

    A vector is a list of as many such numbers as the field has. A list value is a list of such
    strings, integers and bools, oldest first. None and "" in it are missing values and are
    skipped, as in training; a list without values is missing. A list of numbers has finite
    numbers only. The ages and the kinds of a history's events have one value for each event.

    Args:
        query_fields: Name and kind of each query field, the length of a vector, and for the ages
            and kinds of events the history that they belong to (`of`).
        ad_fields: Names of the ad fields, for error messages.
    """

    def __init__(self, query_fields: Sequence[Mapping[str, Any]], ad_fields: Iterable[str]) -> None:
        self._fields: dict[str, Mapping[str, Any]] = {f["name"]: f for f in query_fields}
        self._ad_fields = frozenset(ad_fields)

    def merge(
        self, user: Mapping[str, Any], context: Mapping[str, Any], user_name: str = "user"
    ) -> dict[str, Any]:
        """Merges and checks the two groups of a request.

        Args:
            user: Raw fields that describe the user.
            context: Raw fields that describe the context of the request.
            user_name: Name of the first group in messages.

        Returns:
            Field name to bytes, float, list of bytes or floats, vector [n] float32 or None.

        Raises:
            InvalidRequestError: A field is unknown, given twice, or has a wrong type; or ages or
                kinds of events do not fit their history.
        """
        values: dict[str, Any] = {}
        for group, fields in ((user_name, user), ("context", context)):
            for name, value in fields.items():
                if name in values:
                    raise errors.InvalidRequestError(
                        f"{group}: the field {name!r} is in both user and context. Send it once."
                    )
                if name not in self._fields:
                    raise errors.InvalidRequestError(self._unknown(group, name))
                values[name] = check_value(f"{group}.{name}", self._fields[name], value)
        for name in values:
            if "of" in self._fields[name]:
                group = user_name if name in user else "context"
                self._check_part(f"{group}.", name, values)
        return values

    def valid(self, stored: Mapping[str, Any], known: Container[str] = ()) -> dict[str, Any]:
        """Returns the checked values of stored fields; invalid ones are left out.

        Args:
            stored: Raw query fields.
            known: Names of fields that are not needed.
        """
        found = {}
        for name, value in stored.items():
            if name in self._fields and name not in known:
                with contextlib.suppress(errors.InvalidRequestError):
                    found[name] = check_value(name, self._fields[name], value)
        for name in [name for name in found if "of" in self._fields[name]]:
            try:
                self._check_part("", name, found)
            except errors.InvalidRequestError:
                del found[name]
        return found

    def _check_part(self, prefix: str, name: str, values: Mapping[str, Any]) -> None:
        """Checks the ages or kinds of the events of a history."""
        field, part = self._fields[name], values[name]
        if not part:
            return
        expected = len(values.get(field["of"]) or ())
        if len(part) != expected:
            raise errors.InvalidRequestError(
                f"{prefix}{name}: expected {terminal.format_count(expected, 'value')}, one for "
                f"each of {field['of']}, got {len(part)}. Cut the lists of a history to the same "
                "events."
            )
        if field["kind"] == NUMERIC_LIST:
            return
        for position, kind in enumerate(part):
            if kind and kind.decode() not in EVENTS:
                raise errors.InvalidRequestError(
                    f"{prefix}{name}[{position}]: expected one of {', '.join(EVENTS)}, got "
                    f"{shortened(kind.decode())}."
                )

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Lays out checked rows as the inputs of both models.

        Args:
            rows: B mappings from field name to value, as `merge` returns them.
        """
        columns: Columns = {}
        for name, field in self._fields.items():
            values, kind = [row.get(name) for row in rows], field["kind"]
            if kind == "dense":
                missing = np.zeros(field["length"], np.float32)
                stacked = [missing if value is None else value for value in values]
                columns[name] = np.reshape(stacked, (len(rows), field["length"]))
            elif kind == "numeric":
                filled = [math.nan if value is None else value for value in values]
                columns[name] = np.array(filled, dtype=np.float32)
            elif kind == "categorical_list":
                columns[name] = _padded([value or [] for value in values], b"", object)
            elif kind == NUMERIC_LIST:
                columns[name] = _padded([value or [] for value in values], math.nan, np.float32)
            else:
                columns[name] = [b"" if value is None else value for value in values]
        return columns

    def _unknown(self, group: str, name: str) -> str:
        if name in self._ad_fields:
            hint = " It is a field of the ad and comes from the catalog."
        else:
            hint = terminal.suggestion_for(name, self._fields)
        known = ", ".join(self._fields)
        return f"{group}: unknown field {shortened(name)}.{hint} Known fields: {known}."


def join_columns(parts: Sequence[Columns]) -> Columns:
    """Returns the results of several calls of `QueryFields.columns` as that of one call."""
    joined: Columns = {}
    for name, column in parts[0].items():
        rows = [row for part in parts for row in part[name]]
        if isinstance(column, list):
            joined[name] = rows
        elif column.ndim == 1:
            joined[name] = np.array(rows, column.dtype)
        else:
            joined[name] = _padded(rows, b"" if column.dtype == object else math.nan, column.dtype)
    return joined


def as_finite_float(value: Any) -> float | None:
    """Returns an int or float that float32 can hold as a float, or None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before conversion: an int may be too large for a float.
    return float(value) if -_FLOAT32_MAX <= value <= _FLOAT32_MAX else None


def check_value(
    place: str, field: Mapping[str, Any], value: Any
) -> bytes | float | list[bytes] | list[float] | np.ndarray | None:
    """Returns a raw value of a field as the models take it.

    Args:
        place: Path of the value, for error messages.
        field: Kind of the field, and the length of a vector.
        value: Raw value, as `QueryFields` describes it.

    Raises:
        InvalidRequestError: The value has a wrong type.
    """
    kind = field["kind"]
    if value is None:
        return None
    if kind == "dense":
        return _check_vector(place, field["length"], value)
    if kind in ("categorical_list", NUMERIC_LIST):
        return _check_list(place, value, kind)
    if kind == "numeric":
        return _check_number(place, value)
    return _check_string(place, value)


def _check_vector(place: str, length: int, values: Any) -> np.ndarray:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    expected = f"a list of {length} finite numbers or null"
    if not isinstance(values, list | tuple):
        raise _wrong(place, expected, shortened(values))
    if len(values) != length:
        raise _wrong(place, expected, f"{len(values)} values")
    for position, value in enumerate(values):
        if as_finite_float(value) is None:
            raise _wrong(f"{place}[{position}]", expected, shortened(value))
    return np.array(values, np.float32)


def _check_list(place: str, values: Any, kind: str) -> list[Any]:
    items = "numbers" if kind == NUMERIC_LIST else "strings"
    if not isinstance(values, list | tuple):
        raise _wrong(place, f"a list of {items} or null", shortened(values))
    if len(values) > MAX_LIST_VALUES:
        raise _wrong(place, f"at most {MAX_LIST_VALUES} values, the latest", str(len(values)))
    if kind == NUMERIC_LIST:
        return [_check_number(f"{place}[{at}]", value) for at, value in enumerate(values)]
    return [
        b"" if value is None else _check_string(f"{place}[{at}]", value)
        for at, value in enumerate(values)
    ]


def _check_number(place: str, value: Any) -> float:
    number = as_finite_float(value)
    if number is None:
        raise _wrong(place, "a finite number or null", shortened(value))
    return number


def _check_string(place: str, value: Any) -> bytes:
    text = as_field_text(value)
    if not isinstance(text, str):
        raise _wrong(place, "a string, an integer, a boolean or null", shortened(value))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(place, "text without unpaired surrogates", shortened(value)) from error


def _wrong(place: str, expected: str, got: str) -> errors.InvalidRequestError:
    # Data frames have NaN for a missing value.
    remedy = " Send null (in Python, None) for a missing value." if got == "nan (float)" else ""
    return errors.InvalidRequestError(f"{place}: expected {expected}, got {got}.{remedy}")


def _padded(lists: Sequence[Sequence[Any]], padding: Any, dtype: Any) -> np.ndarray:
    """Lays lists out as rows [B, L]."""
    padded = np.full((len(lists), max([1, *map(len, lists)])), padding, dtype)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded
