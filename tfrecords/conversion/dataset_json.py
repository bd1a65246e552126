"""What `dataset.json` and the files beside it say of a data set.

Shapes: R requests.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords.conversion import splitting
from tfrecords.conversion.parsed_rows import Rows
from tfrecords.schema import Schema
from tfrecords.splits import SPLITS

NUM_SAMPLE_REQUESTS = 256
# Files whose checksums `dataset.json` holds; those of the shards stand with the shards.
CHECKED_FILES = (
    "encoder/encoder.json",
    "encoder/vocabularies.arrow",
    "catalogue/ads.arrow",
    "catalogue/ad_features.npy",
    "sample_requests.json",
    "profile.json",
    "rejected.tsv",
)


def split_entry(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the entry of a split from those of its shards."""
    numbers = {key: sum(s[key] for s in shards) for key in ("rows", "requests", "sampled")}
    totals = {key: add([s[key] for s in shards]) for key in ("label_sums", "label_counts")}
    return {**numbers, **totals, "shards": list(shards)}


def add(counts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Adds up numbers by name."""
    names = dict.fromkeys(name for own in counts for name in own)
    return {name: sum(own.get(name, 0) for own in counts) for name in names}


def sample_requests(
    schema: Schema,
    requests: splitting.Requests,
    chunk_ends: np.ndarray,
    load: Callable[[int], Rows],
) -> list[dict[str, Any]]:
    """Returns raw query fields of the first held-out requests; None is missing.

    Args:
        schema: The schema.
        requests: The requests of the log.
        chunk_ends: Rows of the log up to the end of each chunk.
        load: Returns the rows of a chunk.
    """
    first_rows = requests.first_rows()
    held_out = first_rows[requests.splits == SPLITS.index("test")][:NUM_SAMPLE_REQUESTS]
    samples: list[dict[str, Any]] = []
    chunk_of = np.searchsorted(chunk_ends, held_out, side="right")
    for chunk in np.unique(chunk_of).tolist():
        rows, first = load(chunk), int(chunk_ends[chunk - 1]) if chunk else 0
        own = held_out[chunk_of == chunk] - first
        columns = {field.name: rows.raw(field, own) for field in schema.query_fields}
        samples += pa.table(columns).to_pylist()
    return [{k: _plain(v) for k, v in sample.items()} for sample in samples]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
