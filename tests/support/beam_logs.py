"""Small logs, converted locally and under Beam."""

import dataclasses
import gzip

import logs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords import convert, schema

NUM_ROWS = 1_200
SHOP = schema.Schema(
    "shop",
    (
        schema.Field("country", "categorical", "query"),
        schema.Field("taste", "dense", "query", length=2),
        schema.Field("search", "text", "query", length=16),
        schema.Field("clicks", "history", "query", of="ad", event="click", max_length=5),
        schema.Field("seen", "history", "query", of="ad", event=("impression", "click")),
        schema.Field("sku", "categorical", "ad"),
    ),
    ("sku",),
    "clicked",
    request_key="request",
    user_key="user",
    time="time",
)


def converted_both_ways(source, tmp_path, arguments=(), **options):
    """Converts locally and under Beam; returns the files of both."""
    from tfrecords import beam  # Tests that use the logs alone run without Beam.

    convert.convert(source, tmp_path / "local", **options)
    directory = tmp_path / "beam"
    convert.convert(beam.on_beam(source, directory, arguments), directory, **options)
    return logs.files(tmp_path / "local"), logs.files(directory)


def plain_log(tmp_path):
    """Seven chunks with bad rows in two of them."""
    rows = [*logs.rows(NUM_ROWS), ["2", "short"]]
    rows.insert(300, ["1", *[""] * 38, "one", "too many"])
    return convert.Source(
        logs.write(tmp_path / "log.tsv", rows), logs.FEW_FIELDS, rows_per_chunk=180
    )


def zipped_log(tmp_path):
    source = plain_log(tmp_path)
    path = tmp_path / "log.tsv.gz"
    path.write_bytes(gzip.compress(source.path.read_bytes()))
    return dataclasses.replace(source, path=path)


def shop(tmp_path, kind):
    """A table whose requests are scattered over the chunks."""
    rng = np.random.default_rng(0)
    request = rng.integers(0, NUM_ROWS // 3, NUM_ROWS)
    tastes = [None if n % 9 == 0 else [n % 7 / 3, n % 5 - 2.0] for n in request.tolist()]
    if kind == "csv":
        tastes = ["" if taste is None else "|".join(map(str, taste)) for taste in tastes]
    table = pa.table(
        {
            "request": request,
            "user": request % 40,
            "time": 1_700_000_000 + request * 977 % 5_000 * 60,
            "country": pa.array(["de", "fr", "it"]).take(pa.array(request % 3)),
            "taste": tastes,
            "search": [f"text {n % 11}" for n in request.tolist()],
            "sku": rng.integers(0, 50, NUM_ROWS),
            "clicked": (rng.random(NUM_ROWS) < 0.3).astype(int),
        }
    )
    if kind == "parquet":
        pq.write_table(table, tmp_path / "log.parquet")
    else:
        lines = [",".join(table.column_names)]
        lines += [",".join(map(str, row.values())) for row in table.to_pylist()]
        (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    return convert.Source(tmp_path / f"log.{kind}", SHOP, "tabular", rows_per_chunk=170)
