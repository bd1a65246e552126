"""Measures speed and memory of the conversion, next to a row-at-a-time writer of Examples.

    python scripts/benchmarks/convert.py
    python scripts/benchmarks/convert.py --rows=20000000 --repeat=3 --workdir=/data/benchmark
    python scripts/benchmarks/convert.py --computed --rows=1000000

Takes about a minute for 2,000,000 rows. Generates a log in Criteo's layout with the cardinalities
of the Kaggle log (`criteo_rows`; not timed), converts it in a fresh process and times the whole
`convert.convert`: parsing, splits, vocabularies, catalog, encoding, shards and checksums. The
row-wise writer (`row_examples`) converts the first --baseline_rows rows in a separate process; its
rate is assumed to be constant. Neither time includes the start of Python and TensorFlow.

With --computed, converts the log of a shop instead, in which one user has 100,000 rows
(`shop_rows`), without computed fields, with two rates, with the last 50 clicks of ads, and also
with the last 50 impressions of advertisers: two minutes for 1,000,000 rows. Prints a table, and
JSON as the last line.
"""

import functools
import os
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
from absl import flags
from peers import row_examples
from workload import criteo_rows, fresh_process, harness, shop_rows

from serving import cli
from tfrecords import conversion, convert, formats, reader

STAGES = ("parse", "split", "count", "fit", "pack", "write", "finish")
Measured = dict[str, Any]


def main() -> None:
    workdir = pathlib.Path(flags.FLAGS.workdir)
    if flags.FLAGS.computed:
        measure_computed(workdir)
        return
    rows = flags.FLAGS.rows
    log = criteo_rows.write(workdir / f"criteo-{rows}.tsv", rows)
    ours = repeated(convert.Source(log, formats.criteo.schema()), workdir / "converted")
    subset = min(rows, flags.FLAGS.baseline_rows)
    baseline = [
        fresh_process.call(write_row_by_row, log, workdir / "rows.tfrecord", subset)
        for _ in range(flags.FLAGS.repeat)
    ]
    result = {
        "rows": rows,
        "workers": flags.FLAGS.workers or os.cpu_count(),
        "runs": flags.FLAGS.repeat,
        "ads": len(reader.DataSet(workdir / "converted").catalog()),
        "log_mb": log.stat().st_size / 1e6,
        "data_mb": _size(workdir / "converted") / 1e6,
        "seconds": _median(ours, "seconds"),
        "cpu_seconds": _median(ours, "cpu_seconds"),
        "stage_seconds": {s: statistics.median(run["stages"][s] for run in ours) for s in STAGES},
        "rows_per_second": rows / _median(ours, "seconds"),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in ours),
        "baseline_rows": subset,
        "baseline_rows_per_second": subset / _median(baseline, "seconds"),
        "baseline_mb": (workdir / "rows.tfrecord").stat().st_size / 1e6,
    }
    print_table(result)
    harness.print_json(result)


def measure_computed(workdir: pathlib.Path) -> None:
    """Measures what histories and rates add, and prints it."""
    rows = flags.FLAGS.rows
    log = shop_rows.write(workdir / f"shop-{rows}.csv", rows)
    result = []
    for name, fields in shop_rows.COMPUTED.items():
        source = convert.Source(log, shop_rows.schema_with(fields), "tabular")
        runs = repeated(source, workdir / "converted")
        seconds = _median(runs, "seconds")
        result.append(
            {
                "computed fields": name,
                "rows_per_second": rows / seconds,
                "seconds": seconds,
                "cpu_seconds": _median(runs, "cpu_seconds"),
                "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
                "data_mb": _size(workdir / "converted") / 1e6,
                "stage_seconds": runs[-1]["stages"],
            }
        )
    columns = {"rows_per_second": ",.0f", "seconds": ".1f", "cpu_seconds": ".1f"}
    columns |= {"peak_rss_mb": ",.0f", "data_mb": ",.0f"}
    harness.print_rows(result, {"computed fields": "", **columns})
    harness.print_json({"rows": rows, "runs": flags.FLAGS.repeat, "measured": result})


def repeated(source: convert.Source, output: pathlib.Path) -> list[Measured]:
    """Converts a log --repeat times, each in a fresh process."""
    return [
        fresh_process.call(convert_log, source, output, flags.FLAGS.workers)
        for _ in range(flags.FLAGS.repeat)
    ]


def convert_log(source: convert.Source, output: pathlib.Path, workers: int | None) -> Measured:
    """Converts a log from scratch and measures it; call it in a fresh process."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(output.with_name(f".{output.name}.partial"), ignore_errors=True)
    seconds = dict.fromkeys(STAGES, 0.0)
    for stage in STAGES:
        setattr(conversion.Stages, stage, _timed(getattr(conversion.Stages, stage), stage, seconds))
    started, cpu_started = time.perf_counter(), time.process_time()
    convert.convert(source, output, workers=workers)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "stages": seconds,
        "peak_rss_mb": fresh_process.peak_rss_mb(),
    }


def write_row_by_row(log: pathlib.Path, output: pathlib.Path, num_rows: int) -> Measured:
    """Converts the first rows of a log one by one and measures the time."""
    started = time.perf_counter()
    row_examples.write(log, output, num_rows)
    return {"seconds": time.perf_counter() - started}


def _timed(stage: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(stage)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return stage(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    return timed


def _median(runs: list[Measured], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def _size(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def print_table(result: Measured) -> None:
    """Prints rates, stages and sizes."""
    rows, subset = result["rows"], result["baseline_rows"]
    print(
        f"{rows:,} rows in Criteo's layout, {result['log_mb']:,.0f} MB, {result['ads']:,} ads; "
        f"{result['workers']} threads, median of {result['runs']}"
    )
    rate = result["baseline_rows_per_second"]
    times = {"conversion": result["seconds"], **result["stage_seconds"]}
    times["processor time, all threads"] = result["cpu_seconds"]
    table = [
        {"part": name, "rows_per_second": rows / max(seconds, 1e-9), "seconds": seconds}
        for name, seconds in times.items()
    ]
    table[0]["bytes_per_row"] = result["data_mb"] * 1e6 / rows
    table.append(
        {
            "part": f"row-wise Examples, {subset:,} rows",
            "rows_per_second": rate,
            "seconds": subset / rate,
            "bytes_per_row": result["baseline_mb"] * 1e6 / subset,
        }
    )
    columns = {"rows_per_second": ",.0f", "seconds": ".1f", "bytes_per_row": ".0f"}
    harness.print_rows(table, {"part": "", **columns})
    print(
        f"  At this rate, the row-wise writer would take {rows / rate:,.0f} s for {rows:,} rows; "
        f"the conversion is {result['rows_per_second'] / rate:.1f} times as fast."
    )
    print(f"  peak memory: {result['peak_rss_mb']:,.0f} MB, including mapped files")


if __name__ == "__main__":
    # Defined here because the measured processes import this file too and parse no flags.
    flags.DEFINE_integer("rows", 2_000_000, "Number of rows of the log.", lower_bound=1_000)
    flags.DEFINE_integer(
        "baseline_rows", 50_000, "Number of rows that the row-wise writer converts.", lower_bound=1
    )
    flags.DEFINE_bool("computed", False, "Measure what histories and rates add, on another log.")
    flags.DEFINE_string("workdir", "workdir/benchmark", "Work directory; keeps the log.")
    flags.DEFINE_integer("repeat", 1, "Number of runs; times are medians.", lower_bound=1)
    flags.DEFINE_integer("workers", None, "Number of conversion threads; default: all cores.", 1)
    cli.run(main)
