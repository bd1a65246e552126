"""Raw query fields: checks the values of requests and lays them out as the models' inputs.

Shapes: B requests.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving import errors

# A column per field, [B]: utf-8 bytes of a categorical field, float32 of a numeric one.
Columns = dict[str, list[bytes] | np.ndarray]

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class QueryFields:
    """The query fields of a release.

    A categorical value is a string; an integer is taken as its decimal digits, because ids
    are often sent as JSON numbers. A float or a bool is refused there: `1.0` and `1` would
    become two values of the vocabulary. A numeric value is a finite int or float. None and
    an absent field are missing.
    """

    def __init__(self, query_fields: Sequence[Mapping[str, Any]], ad_fields: Iterable[str]) -> None:
        self._kinds: dict[str, str] = {field["name"]: field["kind"] for field in query_fields}
        self._ad_fields = frozenset(ad_fields)

    def merge(self, user: Any, context: Any) -> dict[str, Any]:
        """Joins and checks the two groups of a request.

        Returns:
            Field name -> bytes, float or None.

        Raises:
            InvalidRequestError: A field is unknown, given twice, or of a wrong type.
        """
        values: dict[str, Any] = {}
        for group, fields in (("user", user), ("context", context)):
            if not isinstance(fields, Mapping):
                raise errors.InvalidRequestError(
                    f"{group}: expected an object of field names and values, got {short(fields)}."
                )
            for name, value in fields.items():
                if name in values:
                    raise errors.InvalidRequestError(
                        f"{group}: the field {name!r} is in user and in context. Give it once."
                    )
                if name not in self._kinds:
                    raise errors.InvalidRequestError(self._unknown(group, name))
                values[name] = _check(f"{group}.{name}", self._kinds[name], value)
        return values

    def columns(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Lays out checked rows as the inputs of both models.

        Args:
            rows: B mappings from field name to a value as `merge` gives it.
        """
        columns: Columns = {}
        for name, kind in self._kinds.items():
            values = [row.get(name) for row in rows]
            if kind == "numeric":
                filled = [math.nan if value is None else value for value in values]
                columns[name] = np.array(filled, dtype=np.float32)
            else:
                columns[name] = [b"" if value is None else value for value in values]
        return columns

    def _unknown(self, group: str, name: Any) -> str:
        message = f"{group}: unknown field {short(name)}"
        close = difflib.get_close_matches(str(name), self._kinds, n=1)
        if name in self._ad_fields:
            message += "; it is a field of the ad, which the catalogue holds"
        elif close:
            message += f"; did you mean {close[0]!r}?"
        return f"{message}. Known fields: {', '.join(self._kinds)}."


def finite(value: Any) -> float | None:
    """Returns an int or float as a float that float32 can hold, or None where it is no such."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before conversion: an int may be too large for a float.
    return float(value) if -_FLOAT32_MAX <= value <= _FLOAT32_MAX else None


def short(value: Any) -> str:
    """Returns a value and its type for an error message, cut to a readable length."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"  # repr refuses very long ints
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '…'} ({type(value).__name__})"


def _check(place: str, kind: str, value: Any) -> bytes | float | None:
    if value is None:
        return None
    if kind == "numeric":
        number = finite(value)
        if number is None:
            raise errors.InvalidRequestError(
                f"{place}: expected a finite number or null, got {short(value)}."
            )
        return number
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 256:
        value = str(value)
    if not isinstance(value, str):
        raise errors.InvalidRequestError(
            f"{place}: expected a string, an integer or null, got {short(value)}. Send a number "
            "as the string that the log has."
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidRequestError(
            f"{place}: expected text, got a string with half a surrogate pair: {short(value)}."
        ) from error
