"""Writes encoded requests as TFRecord shards.

The requests that begin in a chunk of the log form a shard of each split, so that the result does
not depend on the order of writing. Training requests are shuffled within their shard: neighbors in
the log are then in different records, which reading alone could not achieve.

Shapes: R requests, L shown ads of one shard.
"""

import pathlib

import numpy as np
import tensorflow as tf

from tfrecords import files
from tfrecords.records import description, spec
from tfrecords.schema import MISSING_LABEL

ROWS_PER_RECORD = 4_096


def shuffled(
    rows: np.ndarray, lengths: np.ndarray, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shuffles requests; a seed determines the order.

    Returns:
        Rows [L] and lengths [R] in the new order, and the previous index of each request [R].
    """
    order = np.random.default_rng(seed).permutation(len(lengths))
    starts = np.cumsum(lengths) - lengths
    ordered = lengths[order]
    ends = np.cumsum(ordered)
    indices = np.arange(len(rows)) + np.repeat(starts[order] - (ends - ordered), ordered)
    return rows[indices], ordered, order


def write_shard(
    path: pathlib.Path, requests: spec.Packed, sampled: int = 0
) -> description.ShardDescription:
    """Writes a shard of records of about `ROWS_PER_RECORD` shown ads each, atomically.

    Args:
        path: File of the shard.
        requests: Requests of the shard.
        sampled: Number of sampled negatives among their ads.
    """
    lengths = requests["list_lengths"]
    ends = np.cumsum(lengths)
    num_records = first = first_row = 0
    with files.replacing(path) as partial, tf.io.TFRecordWriter(str(partial)) as file:
        while first < len(lengths):
            last = int(np.searchsorted(ends, first_row + ROWS_PER_RECORD, side="left")) + 1
            last = min(last, len(ends))
            row = int(ends[last - 1])
            part = {
                name: values[first:last] if is_per_request(name) else values[first_row:row]
                for name, values in requests.items()
            }
            file.write(spec.serialize(part))
            num_records, first, first_row = num_records + 1, last, row
    sums, counts, positives = _label_totals(requests)
    return description.ShardDescription(
        file=path.name,
        records=num_records,
        requests=len(lengths),
        rows=int(lengths.sum()),
        bytes=path.stat().st_size,
        sha256=files.sha256(path),
        label_sums=sums,
        label_counts=counts,
        label_positives=positives,
        sampled=sampled,
    )


def is_per_request(name: str) -> bool:
    """Returns whether a feature has one value per request, not per shown ad."""
    return name in ("list_lengths", spec.USER, spec.ORDER) or name.startswith("query_")


def _label_totals(
    requests: spec.Packed,
) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
    """Returns the sum of each label, and the numbers of its known and of its positive values."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    positives: dict[str, int] = {}
    for name, dtype in spec.LABEL_TYPES.items():
        if name in requests:
            values = requests[name]
            known = values != MISSING_LABEL if dtype == "uint8" else ~np.isnan(values)
            sums[name] = float(values[known].sum(dtype=np.float64))
            counts[name] = int(known.sum())
            positives[name] = int((values[known] > 0).sum())
    return sums, counts, positives
