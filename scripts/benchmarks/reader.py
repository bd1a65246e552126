"""Measures the speed of shuffled reading for training, and the quality of the shuffle.

    python scripts/benchmarks/reader.py
    python scripts/benchmarks/reader.py --data=workdir/quickstart/data

Takes one or two minutes for 2,000,000 rows. Reads the training split of a data set (by default
converted from a log in Criteo's layout), shuffled and in batches of 4,096 requests, in a fresh
process: several passes over one `tf.data` pipeline. Verifying the checksums, building the pipeline
and the first pass are timed separately. The baseline reads some of the same rows as row-wise
Examples with `tf.io.parse_example` and a shuffle buffer of 100,000 rows.

The shuffle is measured on another log of --rows rows that contain their number: the share of
adjacent rows of the log that are in the same batch, next to the share that is expected after a full
shuffle. Prints a table, and JSON as the last line.

Shapes: N training rows.
"""

import collections
import pathlib
import statistics
import time
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from absl import flags
from peers import row_examples
from workload import criteo_rows, fresh_process, harness

from serving import cli
from tfrecords import convert, formats, reader, schema

BATCH_SIZE = 4_096
Measured = dict[str, Any]


def main() -> None:
    workdir, rows = pathlib.Path(flags.FLAGS.workdir), flags.FLAGS.rows
    directory = pathlib.Path(flags.FLAGS.data or workdir / f"data-{rows}")
    if not flags.FLAGS.data and not (directory / "dataset.json").is_file():
        log = criteo_rows.write(workdir / f"criteo-{rows}.tsv", rows)
        convert.convert(convert.Source(log, formats.criteo.schema()), directory)
    passes = flags.FLAGS.passes
    ours = fresh_process.call(read, directory, passes)
    examples = workdir / "rows.tfrecord"
    baseline = fresh_process.call(
        read_row_wise, directory, examples, flags.FLAGS.baseline_rows, passes
    )
    numbered = convert_numbered(workdir, rows)
    order = fresh_process.call(batch_of_rows, numbered, 1)
    result = {
        **ours,
        "passes": passes,
        "baseline_rows": baseline["rows"],
        "baseline_rows_per_second": baseline["rows_per_second"],
        **shuffle_quality(order),
    }
    print_table(result)
    harness.print_json(result)


def read(directory: pathlib.Path, passes: int) -> Measured:
    """Measures reading a data set for training; call it in a fresh process."""
    data_set = reader.DataSet(directory)
    started = time.perf_counter()
    data_set.windows("train")
    verified = time.perf_counter()
    batches = data_set.batches("train", BATCH_SIZE, seed=1)
    built = time.perf_counter()
    seconds = _pass_seconds(batches, 1 + passes)
    rows = data_set.num_rows("train")
    return {
        "rows": rows,
        "rows_per_second": rows / statistics.median(seconds[1:]),
        "first_pass_rows_per_second": rows / seconds[0],
        "verify_seconds": verified - started,
        "build_seconds": built - verified,
        "peak_rss_mb": fresh_process.peak_rss_mb(),
    }


def read_row_wise(
    directory: pathlib.Path, examples: pathlib.Path, num_rows: int, passes: int
) -> Measured:
    """Writes rows of a data set as row-wise Examples and measures reading them."""
    data_set = reader.DataSet(directory)
    examples.parent.mkdir(parents=True, exist_ok=True)
    rows = row_examples.write_encoded(data_set, examples, num_rows)
    batches = row_examples.batches(data_set, examples, BATCH_SIZE, seed=1)
    seconds = _pass_seconds(batches, 1 + passes)
    return {"rows": rows, "rows_per_second": rows / statistics.median(seconds[1:])}


def convert_numbered(workdir: pathlib.Path, num_rows: int) -> pathlib.Path:
    """Converts a log whose rows have their number as position, and returns the data set."""
    directory = workdir / f"numbered-{num_rows}"
    if (directory / "dataset.json").is_file():
        return directory
    number = np.arange(num_rows)
    log = workdir / f"numbered-{num_rows}.parquet"
    log.parent.mkdir(parents=True, exist_ok=True)
    table = {"number": number, "user": number % 997, "ad": number % 101, "click": number % 4 == 0}
    pq.write_table(pa.table(table), log)
    fields = (
        schema.Field("user", "categorical", "query"),
        schema.Field("ad", "categorical", "ad"),
    )
    named = schema.Schema("numbered", fields, ("ad",), "click", position="number")
    convert.convert(convert.Source(log, named, "tabular"), directory)
    return directory


def batch_of_rows(directory: pathlib.Path, seed: int) -> np.ndarray:
    """Returns the batch number [N] of each training row of the log in a shuffled pass."""
    data_set = reader.DataSet(directory)
    batch_of = np.full(data_set.num_rows("train"), -1)
    batches = data_set.batches("train", BATCH_SIZE, seed=seed)
    for index, batch in enumerate(batches.as_numpy_iterator()):
        # The position is the row's number; training rows are the first ones of the log.
        batch_of[batch["position"][batch["mask"]]] = index
    return batch_of


def shuffle_quality(batch_of: np.ndarray) -> Measured:
    """Returns the share of rows in the same batch as the next row of the log.

    Also the share that is expected after a full shuffle into batches of the same sizes. The batch
    numbers [N] are in the order of the log.
    """
    sizes = np.bincount(batch_of)
    pairs = len(batch_of) * (len(batch_of) - 1)
    return {
        "adjacent_in_batch": float((batch_of[1:] == batch_of[:-1]).mean()),
        "adjacent_in_batch_full_shuffle": float((sizes * (sizes - 1)).sum() / pairs),
    }


def _pass_seconds(batches: tf.data.Dataset, passes: int) -> list[float]:
    """Returns the seconds of passes over all batches."""
    return harness.timed({"pass": lambda: collections.deque(batches, 0)}, passes)["pass"]


def print_table(result: Measured) -> None:
    """Prints the rates and the quality of the shuffle."""
    print(
        f"{result['rows']:,} training rows, shuffled, batches of {BATCH_SIZE:,}; median of "
        f"{result['passes']} passes"
    )
    rates = {
        "records of many requests": result["rows_per_second"],
        "  first pass": result["first_pass_rows_per_second"],
        f"row-wise Examples, {result['baseline_rows']:,} rows": result["baseline_rows_per_second"],
    }
    rows = [{"read": name, "rows_per_second": rate} for name, rate in rates.items()]
    harness.print_rows(rows, {"read": "", "rows_per_second": ",.0f"})
    print(
        f"before the first pass: checksums {result['verify_seconds']:.2f} s, building the "
        f"pipeline {result['build_seconds']:.2f} s; peak memory {result['peak_rss_mb']:,.0f} MB"
    )
    print("rows in the same batch as the next row of the log:")
    shares = {name: value for name, value in result.items() if name.startswith("adjacent")}
    harness.print_rows([shares], dict.fromkeys(shares, ".4%"))


if __name__ == "__main__":
    # Defined here because the measured processes import this file too and parse no flags.
    flags.DEFINE_integer("rows", 2_000_000, "Number of rows of generated logs.", lower_bound=1_000)
    flags.DEFINE_string("data", None, "Data set to read; default: a generated log.")
    flags.DEFINE_integer(
        "baseline_rows",
        200_000,
        "Number of training rows to read as row-wise Examples.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "passes", 5, "Number of passes after the first; rates are medians.", lower_bound=1
    )
    flags.DEFINE_string("workdir", "workdir/benchmark", "Work directory; keeps logs and data sets.")
    cli.run(main)
