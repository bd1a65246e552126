"""The content of `dataset.json` and of `sample_requests.json`.

Shapes: R requests.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from tfrecords import records
from tfrecords.conversion import parsed_rows, splitting
from tfrecords.schema import Schema
from tfrecords.splits import SPLITS

Number = TypeVar("Number", int, float)
NUM_SAMPLE_REQUESTS = 256
# Files whose checksums are in `sha256`; the checksums of shards are in their descriptions.
CHECKED_FILES = (
    "encoder/encoder.json",
    "encoder/vocabularies.arrow",
    "catalog/ads.arrow",
    "catalog/ad_features.npy",
    "sample_requests.json",
    "profile.json",
    "rejected.tsv",
)


def describe_split(shards: Sequence[records.ShardDescription]) -> records.SplitDescription:
    """Returns the description of a split with these shards."""
    return records.SplitDescription(
        rows=sum(shard.rows for shard in shards),
        requests=sum(shard.requests for shard in shards),
        sampled=sum(shard.sampled for shard in shards),
        label_sums=add([shard.label_sums for shard in shards]),
        label_counts=add([shard.label_counts for shard in shards]),
        label_positives=add([shard.label_positives for shard in shards]),
        shards=list(shards),
    )


def add(counts: Sequence[dict[str, Number]]) -> dict[str, Number]:
    """Adds numbers by name."""
    names = dict.fromkeys(name for numbers in counts for name in numbers)
    return {name: sum(numbers.get(name, 0) for numbers in counts) for name in names}


def sample_requests(
    schema: Schema,
    requests: splitting.Requests,
    chunk_ends: np.ndarray,
    load: Callable[[int], parsed_rows.Rows],
    raw_histories: Callable[[np.ndarray, np.ndarray], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """Returns the raw query fields of the first test requests; None is missing.

    `raw_histories` returns the histories of some requests, given their numbers and users.
    """
    held_out = np.flatnonzero(requests.splits == SPLITS.index("test"))[:NUM_SAMPLE_REQUESTS]
    first_rows = requests.first_rows()[held_out]
    logged = [field for field in schema.query_fields if field.kind != "history"]
    samples: list[dict[str, Any]] = []
    for chunk, positions, indices in parsed_rows.by_chunk(first_rows, chunk_ends):
        rows = load(chunk)
        found: list[dict[str, Any]] = [{} for _ in indices]
        if logged:
            found = pa.table({field.name: rows.raw(field, indices) for field in logged}).to_pylist()
        if schema.histories:
            listed = raw_histories(held_out[positions], rows.array(parsed_rows.USER)[indices])
            found = [{**raw, **histories} for raw, histories in zip(found, listed, strict=True)]
        samples += found
    return [{k: _plain(v) for k, v in sample.items()} for sample in samples]


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
