"""Reads the log of Avazu's click-through rate prediction (Kaggle 2014).

Files are comma-separated with a header, one impression per line, in order of time; plain or gzip.
A test file lacks `click`. The data description does not say which columns describe the ad; the
convention, which a schema file overrides:

    ad     C14 is the key: it has thousands of values, like creatives. C15 and C16 (the banner's
           width and height), C17, C18, C19 and C21 are its fields.
    query  context and user: C1, banner_pos, the site, the app, the device, C20 (it varies with
           the site rather than with the ad), and the derived hour_of_day and weekday
    click  click
    time   derived `time`

Derived from `hour` (YYMMDDHH, in UTC): `time`, in seconds since 1970; `hour_of_day`, 0–23;
`weekday`, 0 is Monday. A row with another hour is rejected.

`device_id` a99f214a, which most rows have, means that the device has no id. It is treated as
missing, so a request without an id can simply leave it out. Site 85f751fd and app ecad2386
(shown in an app, or on a site) are informative and kept. The log has no user; the derived `user`,
for a schema file with a user_key, is the device's id, or else its address and model.

References:
    Avazu, Click-Through Rate Prediction, Kaggle 2014 (data description).
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrecords.columns import RowFaults, as_strings, distinct, is_text, parse_times, recode
from tfrecords.formats import named, protocol
from tfrecords.formats.files import delimited
from tfrecords.schema import Field, Schema

HEADER = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category",
    "app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model",
    "device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip
AD_FIELDS = ("C14", "C15", "C16", "C17", "C18", "C19", "C21")
HOUR_COLUMNS = ("time", "hour_of_day", "weekday")
# Inputs of each derived column.
DERIVED = {
    **{name: ("hour",) for name in HOUR_COLUMNS},
    "user": ("device_id", "device_ip", "device_model"),
}
NO_DEVICE_ID = "a99f214a"
_HOUR = re.compile(r"[0-9]{8}")
_LOG_NAME = "The Avazu log"
# Addresses and device ids are mostly seen once or twice.
_MIN_COUNTS = {"device_id": 20, "device_ip": 20}


def schema() -> Schema:
    """Returns the convention above: clicks only, a row is a request."""
    query = ["hour_of_day", "weekday"]
    query += [name for name in HEADER if name not in ("id", "click", "hour", *AD_FIELDS)]
    sides = {**dict.fromkeys(query, "query"), **dict.fromkeys(AD_FIELDS, "ad")}
    fields = tuple(
        Field(name, "categorical", side, min_count=_MIN_COUNTS.get(name, 5))
        for name, side in sides.items()
    )
    return Schema("avazu", fields, ad_key=("C14",), click="click", time="time")


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log.

    Raises:
        ValueError: The schema names a column that the log lacks.
    """
    read = named.columns_read(files, schema, _LOG_NAME, HEADER, DERIVED)
    types = named.types(schema, read)
    layout = delimited.Layout(types, ",", quote=True, optional=frozenset(["click"]))
    derive = functools.partial(_derive, schema.columns)
    return delimited.DelimitedLog(files, layout, derive, rows_per_chunk)


read_ads = named.read_ads


def _derive(needed: Sequence[str], parsed: protocol.Parsed) -> protocol.Parsed:
    """Derives the columns of a schema from the columns of the files."""
    columns: dict[str, pa.ChunkedArray] = {
        name: parsed.table[name] for name in parsed.table.column_names
    }
    faults = RowFaults(parsed.table.num_rows)
    if "device_id" in columns and is_text(columns["device_id"]):
        ids = recode(
            as_strings(columns["device_id"]), lambda id_: "" if id_ == NO_DEVICE_ID else id_
        )
        columns["device_id"] = pa.chunked_array([ids])
    if set(needed) & set(HOUR_COLUMNS):
        columns.update(_times(faults, columns["hour"]))
    if "user" in needed:
        columns["user"] = _users(columns)
    table = pa.table({name: columns[name] for name in (*needed, protocol.LINE_NUMBER)})
    derived = dataclasses.replace(parsed, table=table)
    return derived.without(faults.bad, faults.reasons())


def _times(faults: RowFaults, hour: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """Returns the columns derived from the hour [B], computed once per distinct hour."""
    values, codes = distinct(hour)
    hour_texts = [value if _HOUR.fullmatch(value) else "" for value in values]
    seconds = parse_times(hour_texts, "%y%m%d%H")[codes]
    faults.add(
        np.isnan(seconds),
        lambda row: f"hour must be YYMMDDHH, such as 14102100, got {values[codes[row]][:40]!r}",
    )
    stamps = pa.array(np.nan_to_num(seconds).astype("datetime64[s]"))
    return {
        "time": pa.chunked_array([seconds]),
        "hour_of_day": pa.chunked_array([pc.hour(stamps)]),
        "weekday": pa.chunked_array([pc.day_of_week(stamps)]),
    }


def _users(columns: Mapping[str, pa.ChunkedArray]) -> pa.Array:
    """Returns the id of each device [B], or its address and model, or null without either."""
    device, address, model = (
        as_strings(columns[name]).cast(pa.string()) for name in DERIVED["user"]
    )
    nothing = pa.scalar(None, pa.string())
    address = pc.if_else(pc.equal(address, ""), nothing, address)
    by_address = pc.binary_join_element_wise(address, model, "/")
    return pc.if_else(pc.equal(device, ""), by_address, device)
