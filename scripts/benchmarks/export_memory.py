"""Measures the memory and the duration of an export with a large catalog.

    make quickstart
    python scripts/benchmarks/export_memory.py
    python scripts/benchmarks/export_memory.py --num_ads=10000000

The models are those of --workdir. A catalog of --num_ads ads is generated from the values of its
ads (`wide_catalog.py`), embedded, and indexed with few cells of bytes, which train fast. Takes
about five minutes for a million ads on two cores.

Prints JSON: `seconds`, `peak_rss_mb`, with mapped files, whose pages the system takes back when it
needs memory; `peak_anonymous_mb`, without; and both as they were before the export, with the
catalog in memory.
"""

import pathlib
import shutil
import threading
import time
from typing import Any

from absl import flags
from workload import fresh_process, harness, wide_catalog

from serving import cli, export, index
from tfrec import ranking, retrieval
from tfrecords import reader

_POLL_SECONDS = 0.05


def main() -> None:
    values = flags.FLAGS
    base = pathlib.Path(values.workdir) / "benchmark_export"
    shutil.rmtree(base, ignore_errors=True)
    measured = fresh_process.call(measure, pathlib.Path(values.workdir), base, values.num_ads)
    shutil.rmtree(base, ignore_errors=True)
    harness.print_json({"num_ads": values.num_ads, **measured})


def measure(workdir: pathlib.Path, base: pathlib.Path, num_ads: int) -> dict[str, Any]:
    """Exports a generated catalog in this process; call it in a fresh one."""
    trained_on = reader.DataSet(workdir / "data")
    two_tower, _ = retrieval.load_two_tower(trained_on, workdir / "retrieval")
    model, calibrators, _ = ranking.load_ranker(trained_on, workdir / "ranker")
    data_set = wide_catalog.WideDataSet(workdir / "data", num_ads)
    catalog = data_set.catalog()
    data_set.catalog = lambda: catalog  # type: ignore[method-assign]
    config = index.IndexConfig(kind="IVF", storage="SQ8", num_lists=256)
    before = _memory_mb()
    peaks = dict(before)
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_POLL_SECONDS):
            for name, size in _memory_mb().items():
                peaks[name] = max(peaks[name], size)

    watching = threading.Thread(target=poll)
    watching.start()
    started = time.perf_counter()
    export.export_release(base, data_set, two_tower, model, calibrators, config, {})
    seconds = time.perf_counter() - started
    done.set()
    watching.join()
    return {
        "seconds": round(seconds),
        **{f"peak_{name}": round(size) for name, size in peaks.items()},
        **{f"{name}_before": round(size) for name, size in before.items()},
    }


def _memory_mb() -> dict[str, float]:
    """Returns the resident memory, with and without mapped files, in 10^6 bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    names = {"rss_mb": "VmRSS", "anonymous_mb": "RssAnon"}
    return {name: kilobytes[key] * 1024 / 1e6 for name, key in names.items()}


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with trained models.")
    flags.DEFINE_integer(
        "num_ads", 1_000_000, "Number of ads of the generated catalog.", lower_bound=1024
    )
    cli.run(main)
