"""Validates raw ads for a live index and converts them to a table.

An ad is {"ad_id": "ad-17", "fields": {"advertiser": "a9", "price": 12.5, "tags": ["shoes"]},
"show": {"title": "Trail Shoe"}}, as in responses. Absent and null both mean a missing value;
`LiveIndex` fills in rates. If a field is the ad key, its missing value is the ad id.

Shapes: B ads.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from serving import errors, index, requests
from tfrecords import terminal
from tfrecords.schema import SHOWN, shown_text

_PARTS = ("fields", "show")


class AdRows:
    """Validates ads against the ad fields of a release."""

    def __init__(
        self,
        ad_fields: Sequence[Mapping[str, Any]],
        schema: pa.Schema,
        show: Sequence[str] = (),
        id_field: str | None = None,
    ) -> None:
        self._fields = {field["name"]: field for field in ad_fields}
        self._schema = schema
        self._show = list(show)
        self._id_field = id_field

    def check(self, ads: Sequence[Any]) -> pa.Table:
        """Returns the table of ad ids, raw fields and values to show."""
        rows = [self._check_ad(f"ads[{i}]", ad) for i, ad in enumerate(ads)]
        ids = [ad_id for ad_id, _ in rows]
        if len(set(ids)) != len(ids):
            repeated = collections.Counter(ids).most_common(1)[0][0]
            raise errors.InvalidRequestError(
                f"ads: expected each ad once, got {repeated!r} twice. Send only its latest state."
            )
        values = [values for _, values in rows]
        columns = {
            name: _column([_stored(row.get(name)) for row in values], self._schema.field(name).type)
            for name in self._fields
        }
        id_type = self._schema.field(index.AD_ID).type
        columns[index.AD_ID] = pa.array(ids, id_type)
        if SHOWN in self._schema.names:
            shown = [self._shown(f"ads[{i}].show", ad.get("show")) for i, ad in enumerate(ads)]
            columns[SHOWN] = pa.array(shown, self._schema.field(SHOWN).type)
        return pa.table(columns).select(self._schema.names)

    def _check_ad(self, place: str, ad: Any) -> tuple[str, dict[str, Any]]:
        if not isinstance(ad, Mapping) or set(ad) - {"ad_id", *_PARTS} or "ad_id" not in ad:
            raise errors.InvalidRequestError(
                f"{place}: expected an object with ad_id, fields and show, got "
                f"{requests.shortened(ad)}."
            )
        if ad.get("show") and not self._show:
            raise errors.InvalidRequestError(
                f"{place}.show: the schema of the release names no columns to show. Leave it out, "
                'or train with "show" in the schema.'
            )
        fields = _object(f"{place}.fields", ad.get("fields"), "field names")
        for name in fields:
            if name not in self._fields:
                raise errors.InvalidRequestError(self._unknown(place, name))
        ad_id = check_ad_id(f"{place}.ad_id", ad["ad_id"])
        if self._id_field is not None and fields.get(self._id_field) is None:
            fields = {**fields, self._id_field: ad_id}
        return ad_id, {
            name: requests.check_value(f"{place}.fields.{name}", self._fields[name], value)
            for name, value in fields.items()
        }

    def _shown(self, place: str, values: Any) -> str:
        """Returns the values to show of an ad as the JSON object of the catalog's table."""
        values = _object(place, values, "names")
        for name in values:
            if name not in self._show:
                hint = terminal.suggestion_for(str(name), self._show)
                raise errors.InvalidRequestError(
                    f"{place}: unknown name {requests.shortened(name)}.{hint} The schema shows "
                    f"{', '.join(self._show)}."
                )
        text = shown_text({name: values.get(name) for name in self._show})
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise errors.InvalidRequestError(
                f"{place}: expected text without unpaired surrogates, got "
                f"{requests.shortened(values)}."
            ) from error
        return text

    def _unknown(self, place: str, name: Any) -> str:
        hint = terminal.suggestion_for(str(name), self._fields)
        return (
            f"{place}.fields: unknown field {requests.shortened(name)}.{hint} Ad fields: "
            f"{', '.join(self._fields)}."
        )


def check_ad_id(place: str, ad_id: Any) -> str:
    """Returns an ad id as a string; an integer is converted to its digits."""
    ad_id = requests.as_digits(ad_id)
    try:
        is_id = isinstance(ad_id, str) and 0 < len(ad_id.encode()) <= requests.MAX_AD_ID_BYTES
    except UnicodeEncodeError:
        is_id = False
    if not is_id:
        raise errors.InvalidRequestError(
            f"{place}: expected a string of 1 to {requests.MAX_AD_ID_BYTES} bytes, got "
            f"{requests.shortened(ad_id)}."
        )
    return ad_id


def _object(place: str, values: Any, keys: str) -> Mapping[Any, Any]:
    """Returns the values of an ad's part; a missing part is empty."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise errors.InvalidRequestError(
            f"{place}: expected an object of {keys} and values, got {requests.shortened(values)}."
        )
    return values


def _column(values: list[Any], type_: pa.DataType) -> pa.Array:
    """Returns stored values as a column. An export scales vectors to store them as float16."""
    if pa.types.is_fixed_size_list(type_) and pa.types.is_float16(type_.value_type):
        values = [_scaled(vector) for vector in values]
    return pa.array(values, type_)


def _scaled(vector: list[float] | None) -> list[float] | None:
    """Returns a vector in the range of float16; zeros are missing."""
    if vector is None:
        return None
    largest = np.abs(np.array(vector, np.float32)).max()
    return (np.array(vector, np.float32) / largest).tolist() if largest else None


def _stored(value: Any) -> Any:
    """Returns a validated value as the catalog's table stores it; a missing value is null."""
    if isinstance(value, bytes):
        return value.decode() or None
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [item.decode() for item in value if item]
    return None if value is None or math.isnan(value) else value
