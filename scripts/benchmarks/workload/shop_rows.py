"""A log of a shop for the benchmark of conversion.

Rows are spread over users by a power law, and one user has many more. A click is in one of eight
rows. There are four fields of the query and four of the ad.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from tfrecords import files
from tfrecords.schema import Field, Schema

_HEAVY_ROWS = 100_000
_LENGTH = 50
_FIRST_SECOND = 1_700_000_000
_CLICKS, _SEEN = (
    Field(f"last_{event}s", "history", "query", of=of, event=(event,), max_length=_LENGTH)
    for of, event in (("ad", "click"), ("advertiser", "impression"))
)
_RATES = tuple(
    Field(f"{of}_rate", "numeric", "ad", of=of, event=("click",), max_age_days=7)
    for of in ("category", "ad")
)
COMPUTED: dict[str, tuple[Field, ...]] = {
    "none": (),
    "rates of categories and ads": _RATES,
    "last clicks": (_CLICKS,),
    "last clicks and last impressions of advertisers": (_CLICKS, _SEEN),
}


def schema_with(computed: Sequence[Field]) -> Schema:
    """Returns the schema of the log with some computed fields."""
    sides: dict[str, tuple[str, ...]] = {
        "query": ("country", "device", "hour", "age"),
        "ad": ("sku", "advertiser", "category", "price"),
    }
    fields = [
        Field(name, "numeric" if name in ("age", "price") else "categorical", side)
        for side, side_fields in sides.items()
        for name in side_fields
    ]
    return Schema("shop", (*fields, *computed), ("sku",), "clicked", time="time", user_key="user")


def write(path: pathlib.Path, num_rows: int) -> pathlib.Path:
    """Writes the log unless it is there; the same rows for the same number."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    users = np.minimum(rng.zipf(1.2, num_rows), num_rows // 5) + 1
    users[rng.choice(num_rows, min(_HEAVY_ROWS, num_rows // 4), replace=False)] = 0
    skus = np.minimum(rng.zipf(1.3, num_rows), 100_000)
    columns: dict[str, Any] = {
        "user": users,
        "time": _FIRST_SECOND + np.sort(rng.integers(0, 30 * 86_400, num_rows)),
        "country": users % 50,
        "device": rng.integers(0, 5, num_rows),
        "hour": rng.integers(0, 24, num_rows),
        "age": rng.integers(18, 80, num_rows),
        "sku": skus,
        "advertiser": skus % 5_000,
        "category": skus % 40,
        "price": skus * 7 % 500,
        "clicked": (rng.random(num_rows) < 0.125).astype(int),
    }
    with files.replacing(path) as partial:
        pyarrow.csv.write_csv(pa.table(columns), partial)
    return path
