"""Measures the time and memory that histories and rates add to a conversion.

    python scripts/benchmarks/histories.py
    python scripts/benchmarks/histories.py --rows=10000000 --repeat=3 --workdir=/data/benchmark

Takes about two minutes for 1,000,000 rows. Generates the log of a shop (not timed): users by a
power law, one of them with 100,000 rows; a click in one of eight rows; four query fields and four
of the ad. Converts it without computed fields, with two rates, with the last 50 clicks of ads, and
also with the last 50 impressions of advertisers, each in a fresh process. Prints a table, and JSON
as the last line.
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import convert as conversion_benchmark
import numpy as np
import pyarrow as pa
import pyarrow.csv
from absl import flags
from workload import fresh_process, harness

from serving import cli
from tfrecords import convert
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
COMPUTED = {
    "none": (),
    "rates of categories and ads": _RATES,
    "last clicks": (_CLICKS,),
    "last clicks and last impressions of advertisers": (_CLICKS, _SEEN),
}


def main() -> None:
    workdir = pathlib.Path(flags.FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    log = write_log(workdir / f"shop-{flags.FLAGS.rows}.csv", flags.FLAGS.rows)
    result = []
    for name, fields in COMPUTED.items():
        source = convert.Source(log, schema_with(fields), "tabular")
        runs = [
            fresh_process.call(
                conversion_benchmark.convert_log, source, workdir / "data", flags.FLAGS.workers
            )
            for _ in range(flags.FLAGS.repeat)
        ]
        seconds, cpu = (
            statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_seconds")
        )
        result.append(
            {
                "computed fields": name,
                "rows_per_second": flags.FLAGS.rows / seconds,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
                "data_mb": sum(p.stat().st_size for p in (workdir / "data").rglob("*.*")) / 1e6,
                "stage_seconds": runs[-1]["stages"],
            }
        )
    columns = {"rows_per_second": ",.0f", "seconds": ".1f", "cpu_seconds": ".1f"}
    harness.print_rows(
        result, {"computed fields": "", **columns, "peak_rss_mb": ",.0f", "data_mb": ",.0f"}
    )
    harness.print_json({"rows": flags.FLAGS.rows, "runs": flags.FLAGS.repeat, "measured": result})


def schema_with(computed: Sequence[Field]) -> Schema:
    """Returns the schema of the log with some computed fields."""
    sides: dict[str, tuple[str, ...]] = {
        "query": ("country", "device", "hour", "age"),
        "ad": ("sku", "advertiser", "category", "price"),
    }
    fields = [
        Field(name, "numeric" if name in ("age", "price") else "categorical", side)
        for side, of_side in sides.items()
        for name in of_side
    ]
    return Schema("shop", (*fields, *computed), ("sku",), "clicked", time="time", user_key="user")


def write_log(path: pathlib.Path, num_rows: int) -> pathlib.Path:
    """Writes the log unless it is there; the same rows for the same number."""
    if path.is_file():
        return path
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
    pyarrow.csv.write_csv(pa.table(columns), path)
    return path


if __name__ == "__main__":
    flags.DEFINE_integer("rows", 1_000_000, "Number of rows of the log.", lower_bound=1_000)
    flags.DEFINE_string("workdir", "workdir/benchmark", "Work directory; keeps the log.")
    flags.DEFINE_integer("repeat", 1, "Number of runs; times are medians.", lower_bound=1)
    flags.DEFINE_integer("workers", None, "Number of conversion threads; default: all cores.", 1)
    cli.run(main)
