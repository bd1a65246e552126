"""Writes encoded requests into sharded TFRecords."""

import hashlib
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import records

ROWS_PER_RECORD = 4_096
ROWS_PER_SHARD = 64 * ROWS_PER_RECORD


class SplitWriter:
    """Writes the requests of one split as records of about `ROWS_PER_RECORD` shown ads.

    Args:
        directory: Where the shards go.
        split: `train`, `validation` or `test`.
        spec: The record format.
    """

    def __init__(self, directory: pathlib.Path, split: str, spec: records.Spec) -> None:
        self._directory = directory
        self._split = split
        self._spec = spec
        self._pending: list[records.Requests] = []
        self._pending_rows = 0
        self._writer: tf.io.TFRecordWriter | None = None
        self._shards: list[dict[str, Any]] = []
        self._totals = {name: 0.0 for name in spec.labels}

    def write(self, requests: records.Requests) -> None:
        """Appends requests."""
        if not len(requests.list_lengths):
            return
        self._pending.append(requests)
        self._pending_rows += len(requests.ad)
        if self._pending_rows >= ROWS_PER_RECORD:
            self._flush(final=False)

    def _flush(self, final: bool) -> None:
        if not self._pending:
            return
        joined = records.concatenate(self._pending)
        ends = np.cumsum(joined.list_lengths)
        first_request = first_row = 0
        while first_row < len(joined.ad):
            last = int(np.searchsorted(ends, first_row + ROWS_PER_RECORD, side="left")) + 1
            if last > len(ends):
                if not final:
                    break
                last = len(ends)
            end = int(ends[last - 1])
            self._write_record(_slice(joined, first_request, last, first_row, end))
            first_request, first_row = last, end
        rest = _slice(joined, first_request, len(ends), first_row, len(joined.ad))
        self._pending, self._pending_rows = [rest], len(rest.ad)

    def _write_record(self, requests: records.Requests) -> None:
        if self._writer is None or self._shards[-1]["rows"] >= ROWS_PER_SHARD:
            self._writer = self._next_shard()
        self._writer.write(records.serialize(self._spec, requests))
        self._shards[-1]["records"] += 1
        self._shards[-1]["requests"] += len(requests.list_lengths)
        self._shards[-1]["rows"] += len(requests.ad)
        for name in self._totals:
            self._totals[name] += float(requests.per_ad[name].sum(dtype=np.float64))

    def _next_shard(self) -> tf.io.TFRecordWriter:
        if self._writer is not None:
            self._writer.close()
        name = f"{self._split}-{len(self._shards):05d}.tfrecord"
        self._shards.append({"file": name, "records": 0, "requests": 0, "rows": 0})
        return tf.io.TFRecordWriter(str(self._directory / name))

    def close(self) -> dict[str, Any]:
        """Writes what is pending and returns the split's entry for `dataset.json`."""
        self._flush(final=True)
        if self._writer is not None:
            self._writer.close()
        for shard in self._shards:
            shard["bytes"] = (self._directory / shard["file"]).stat().st_size
            with (self._directory / shard["file"]).open("rb") as file:
                shard["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
        rows = sum(shard["rows"] for shard in self._shards)
        requests = sum(shard["requests"] for shard in self._shards)
        return {
            "rows": rows,
            "requests": requests,
            "label_sums": self._totals,
            "shards": self._shards,
        }


def _slice(
    requests: records.Requests, first_request: int, last_request: int, first_row: int, last_row: int
) -> records.Requests:
    return records.Requests(
        requests.list_lengths[first_request:last_request],
        requests.query[first_request:last_request],
        requests.ad[first_row:last_row],
        {name: values[first_row:last_row] for name, values in requests.per_ad.items()},
    )
