"""Reads the Criteo Attribution Modeling for Bidding data set.

Files are tab-separated with a header, one impression per line, 30 days in order of time; plain or
gzip. The convention, which a schema file overrides:

    user        uid
    ad          campaign, which a bidder chooses
    query       uid, cat1–cat9, time_since_last_click
    click       click
    engagement  derived `engagement`: the impression was clicked and its user converted within
                30 days. An impression without a click has none, even if `conversion` is 1: that
                conversion followed another impression.
    revenue     derived `revenue`: cpo of the click to which the conversion is attributed, else 0.
                `attribution` means that Criteo is paid for the conversion, and is 1 for each
                impression before it; the last click (click_pos = click_nb - 1) gets the revenue,
                so that revenues sum to the payment. If cpo is missing (-1), so is the revenue.
    time        timestamp, in seconds since the first impression

cat1–cat9 describe the display ("contextual features"). They vary within a campaign, and a
catalog has one value per ad, so they are on the query side. `time_since_last_click` is known at
the time of the request; -1 (no earlier click) is missing. The other columns are known too late to
be inputs: conversion, conversion_timestamp, conversion_id, attribution, click_pos, click_nb and
cpo after the click, cost after the auction. -1 is missing in all numbers.

References:
    Diemert, Meynet, Galland and Lefortier, Attribution Modeling Increases Efficiency of
    Bidding in Display Advertising, AdKDD 2017.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tfrecords.columns import RowFaults, checked_truths
from tfrecords.formats import named, protocol
from tfrecords.formats.files import delimited
from tfrecords.schema import Field, Schema

CATEGORIES = tuple(f"cat{i}" for i in range(1, 10))
HEADER = (
    "timestamp", "uid", "campaign", "conversion", "conversion_timestamp", "conversion_id",
    "attribution", "click", "click_pos", "click_nb", "cost", "cpo", "time_since_last_click",
    *CATEGORIES,
)  # fmt: skip
# Inputs of each derived column.
DERIVED = {
    "engagement": ("click", "conversion"),
    "revenue": ("click", "conversion", "attribution", "click_pos", "click_nb", "cpo"),
}
# Known after the request; a file without labels lacks these columns.
OUTCOMES = (
    "click", "conversion", "conversion_timestamp", "conversion_id", "attribution", "click_pos",
    "click_nb", "cost", "cpo",
)  # fmt: skip
_NUMERIC = frozenset(("timestamp", "time_since_last_click", *OUTCOMES))
_LOG_NAME = "The Criteo attribution log"


def schema() -> Schema:
    """Returns the convention above."""
    fields = [
        # Most users are seen a few times, which is too few to learn an embedding.
        Field("uid", "categorical", "query", min_count=20),
        *(Field(name, "categorical", "query") for name in CATEGORIES),
        Field("time_since_last_click", "numeric", "query"),
        Field("campaign", "categorical", "ad"),
    ]
    return Schema(
        "criteo_attribution",
        tuple(fields),
        ad_key=("campaign",),
        click="click",
        engagement="engagement",
        revenue="revenue",
        time="timestamp",
        user_key="uid",
    )


def open_log(
    files: protocol.Files, schema: Schema, rows_per_chunk: int = protocol.ROWS_PER_CHUNK
) -> protocol.Log:
    """Opens a log.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The schema names a column that the log lacks, or a file has clicks but lacks
            inputs of the other labels.
    """
    read = named.columns_read(files, schema, _LOG_NAME, HEADER, DERIVED)
    layout = delimited.Layout(
        {n: delimited.NUMBERS if n in _NUMERIC else delimited.STRINGS for n in read},
        quote=True,
        optional=frozenset(OUTCOMES),
    )
    for path, _ in files.parts():
        _check_labels(path, layout)
    derive = functools.partial(_derive, schema.columns, schema.click)
    return delimited.DelimitedLog(files, layout, derive, rows_per_chunk)


read_ads = named.read_ads


def _check_labels(path: pathlib.Path, layout: delimited.Layout) -> None:
    """Checks that a file has all labels or none, so that none is missing silently."""
    _, columns = delimited.open_rows(path, layout)
    outcomes = [name for name in OUTCOMES if name in layout.types]
    missing = [name for name in outcomes if name not in columns]
    if missing and len(missing) < len(outcomes):
        raise ValueError(
            f"{path}: the header has some of {outcomes} but lacks {missing}, which the labels "
            "need. Add the columns, or name fewer labels in the schema file."
        )


def _derive(needed: Sequence[str], click: str | None, parsed: protocol.Parsed) -> protocol.Parsed:
    """Derives the columns of a schema from the columns of the files."""
    table = parsed.table
    numbers = {n: table[n].to_numpy() for n in table.column_names if n in _NUMERIC}
    faults = RowFaults(table.num_rows)
    inputs = {name for label in needed for name in DERIVED.get(label, ())}
    for name in sorted(inputs & {"click", "conversion", "attribution"}):
        checked_truths(faults, name, table[name])
    if "cpo" in inputs:
        cpo = numbers["cpo"]
        faults.add(
            (cpo < 0) & (cpo != -1),
            lambda row: f"cpo must be at least 0, or -1 where it is missing, got {cpo[row]:g}",
        )
    known = {n: np.where(v == -1, np.nan, v) for n, v in numbers.items()}
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for name in (*needed, protocol.LINE_NUMBER):
        if name == "engagement":
            columns[name] = _nullable(_engagement(known))
        elif name == "revenue":
            columns[name] = _nullable(_revenue(known))
        # A click of -1 is a fault, not missing.
        elif name in known and name != click:
            columns[name] = _nullable(known[name])
        else:
            columns[name] = table[name]
    derived = dataclasses.replace(parsed, table=pa.table(columns))
    return derived.without(faults.bad, faults.reasons())


def _engagement(numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Returns whether an impression [B] was clicked and its user converted; NaN is unknown."""
    click = numbers["click"]
    return np.where(click == 0, 0.0, np.where(click == 1, numbers["conversion"], np.nan))


def _revenue(numbers: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the payment for conversions attributed to the click [B]; NaN is unknown."""
    converted = _engagement(numbers)
    # A click without a position counts as the last one.
    earlier = numbers["click_pos"] < numbers["click_nb"] - 1
    paid = np.where(earlier, 0.0, numbers["attribution"])
    revenue = np.where(paid == 0, 0.0, np.where(paid == 1, numbers["cpo"], np.nan))
    return np.where(converted == 0, 0.0, np.where(converted == 1, revenue, np.nan))


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
