"""A random log with histories: ties, gaps, requests of several rows, and anonymous users."""

import numpy as np
import pandas as pd

from tfrecords import convert, reader
from tfrecords.schema import schema_from_json
from tfrecords.splits import SPLITS

HISTORIES = [
    {"name": "clicks", "kind": "history", "of": "ad", "event": "click", "max_length": 4},
    {"name": "all", "kind": "history", "of": "ad", "event": ["impression", "click", "engagement"]},
    {"name": "brands", "kind": "history", "of": "brand", "event": "impression", "max_age_days": 2},
]
RATES = [
    {"name": "brand_clicks", "kind": "numeric", "of": "brand", "event": "click",
     "max_age_days": 2},
    {"name": "ad_clicks", "kind": "numeric", "of": "ad", "event": "click"},
    {"name": "brand_orders", "kind": "numeric", "of": "brand", "event": "engagement"},
    {"name": "ad_age", "kind": "numeric", "of": "ad", "event": "impression"},
]  # fmt: skip


def schema_with_rates(**changes):
    """Returns the schema of the same log with rates in place of histories."""
    schema = schema_of(**changes).to_json()
    fields = [field for field in schema["fields"] if field["kind"] != "history"]
    return schema_from_json({**schema, "fields": [*fields, *RATES]})


def schema_of(**changes):
    """Returns a schema whose field `row` identifies a request."""

    def field(name, kind, side):
        return {"name": name, "kind": kind, "side": side, "min_count": 1}

    fields = [field("row", "categorical", "query"), field("age", "numeric", "query"),
              field("brand", "categorical", "ad")]  # fmt: skip
    return schema_from_json(
        {
            "name": "shop", "fields": [*fields[:1], *HISTORIES, *fields[1:]], "ad_key": ["sku"],
            "click": "clicked", "engagement": "bought", "time": "t", "user_key": "u",
            "request_key": "row", "split": "split", **changes,
        }
    )  # fmt: skip


def log(num_requests=300, seed=0):
    """Returns rows in no order of time, with ties, gaps of days, and missing brands and users."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 4, num_requests)
    requests = np.repeat(np.arange(num_requests), lengths)
    count = len(requests)
    times = rng.integers(0, 60, num_requests) * 21_600 + 1_700_000_000
    users = rng.choice(
        ["ann", "bob", "cid", "", "dee"], num_requests, p=[0.5, 0.3, 0.1, 0.05, 0.05]
    )
    return pd.DataFrame(
        {
            "row": requests.astype(str),
            "u": users[requests],
            # A row of a request may be shown later than the others.
            "t": times[requests] + rng.integers(0, 2, count) * 3600,
            "sku": rng.integers(0, 12, count).astype(str),
            "brand": rng.choice(["acme", "bolt", "cone", ""], count),
            "age": rng.integers(1, 9, count),
            "clicked": (clicked := rng.integers(0, 2, count)),
            "bought": clicked * rng.integers(0, 2, count),
            # Splits mixed in time: a training request sees clicks of test requests before it.
            "split": rng.choice(SPLITS, num_requests, p=[0.6, 0.2, 0.2])[requests],
        }
    )


def converted(frame, schema, directory, rows_per_chunk=250, workers=2, **options):
    directory.parent.mkdir(parents=True, exist_ok=True)
    path = directory.with_suffix(".csv")
    frame.to_csv(path, index=False)
    source = convert.Source(path, schema, "tabular", rows_per_chunk=rows_per_chunk)
    convert.convert(source, directory, workers=workers, progress=False, **options)
    return reader.DataSet(directory)
