"""Measures the training speed of both stages, next to plain Keras models, and of `quickstart`.

    python scripts/benchmarks/training.py
    python scripts/benchmarks/training.py --steps=10 --repeats=3 --noquickstart

Takes about four minutes on two cores. Converts a synthetic log and trains both models at their
default sizes: one step of `train_step` a batch, of batches in memory, in blocks of --steps. The
ranker's blocks alternate with blocks of a DNN and of DCN-V2 (`peers/networks.py`), which predict
clicks only, from the same rows, in batches of their default size. Initialization, tracing and the
first steps are not timed.

Prints a table, and JSON as the last line: rows per second of processor time (clicks for the towers,
shown ads for the others), and `quickstart_seconds`, a whole `tfrec quickstart` without installing.
"""

import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import tensorflow as tf
from absl import flags
from peers import networks, peer_data
from workload import fresh_process, harness

from serving import cli, export
from tfrec import config, ranking, retrieval, training
from tfrec.heads import CLICK
from tfrecords import reader

WARM_UP_STEPS = 3
BATCHES_IN_MEMORY = 20
# The prefix of a measured model in the JSON, and its name in the table.
MODELS = {
    "towers": "two-tower model",
    "ranker": "ranker",
    "dnn": "Keras DNN",
    "dcn": "Keras DCN-V2",
}
# Trains a number of steps, and returns the number of rows.
Take = Callable[[int], int]


def main() -> None:
    values = flags.FLAGS
    log = export.Pipeline(pathlib.Path(values.workdir) / f"training-{values.n_samples}", False)
    log.convert(log.synthesize(values.n_samples), config.ConvertConfig())
    rates: dict[str, float] = {}
    for measure in (measure_retrieval, measure_ranker_and_peers):
        rates |= fresh_process.call(measure, log.path("data"), values.steps, values.repeats)
    result = {"steps": values.steps, "repeats": values.repeats}
    result |= {f"{name}_rows_per_cpu_second": rate for name, rate in rates.items()}
    if values.quickstart:
        result["quickstart_seconds"] = quickstart_seconds()
    print(f"medians of {values.repeats} blocks of {values.steps} steps")
    rows = [{"model": MODELS[name], "rows_per_cpu_second": rate} for name, rate in rates.items()]
    harness.print_rows(rows, {"model": "", "rows_per_cpu_second": ",.0f"})
    harness.print_json(result)


def measure_retrieval(directory: pathlib.Path, steps: int, repeats: int) -> dict[str, float]:
    """Measures the two-tower model; call it in a fresh process."""
    data_set, options = reader.DataSet(directory), config.RetrievalConfig()
    model = retrieval.build_two_tower(data_set, options, data_set.catalog())
    batches = data_set.clicked("train", options.batch_size, seed=1)
    return _measured({"towers": _steps_of(model, options, batches)}, steps, repeats)


def measure_ranker_and_peers(directory: pathlib.Path, steps: int, repeats: int) -> dict[str, float]:
    """Measures the ranker and its peers; call it in a fresh process."""
    data_set, options = reader.DataSet(directory), config.RankerConfig()
    batches = data_set.batches_of_like_lists("train", options.batch_size, seed=1)
    runs = {"ranker": _steps_of(ranking.build_ranker(data_set, options), options, batches)}
    rows = peer_data.read(data_set, ranking.knows_positions(data_set), (CLICK.label,))
    for name, kind in (("dnn", "dnn"), ("dcn", "dcn_v2")):
        runs[name] = networks.training_steps(rows, networks.NetworkOptions(kind))
    return _measured(runs, steps, repeats)


def quickstart_seconds() -> float:
    """Returns the duration of `tfrec quickstart` in a new work directory."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tfrec", "quickstart", f"--workdir={directory}/quickstart"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def _steps_of(
    model: training.StageModel,
    options: config.RetrievalConfig | config.RankerConfig,
    dataset: tf.data.Dataset,
) -> Take:
    """Returns a function that trains a new model on the first batches of a data set, in turns."""
    rates = options.learning_rate, options.embedding_learning_rate
    model.compile(training.dense_and_sparse(model, *rates, steps=1_000))
    step = tf.function(model.train_step, input_signature=[dataset.element_spec], autograph=False)
    batches = itertools.cycle(list(dataset.take(BATCHES_IN_MEMORY)))

    def take(count: int) -> int:
        rows = 0
        for batch in itertools.islice(batches, count):
            step(batch)["loss"].numpy()
            known = batch["mask"] if "mask" in batch else tf.ones_like(batch["ad_row"])
            rows += int(tf.math.count_nonzero(known))
        return rows

    return take


def _measured(runs: Mapping[str, Take], steps: int, repeats: int) -> dict[str, float]:
    """Returns the rows per second of processor time of each model."""
    for take in runs.values():
        take(WARM_UP_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, take in runs.items():
            started = time.process_time()
            rows = take(steps)
            rates[name].append(rows / (time.process_time() - started))
    return {name: statistics.median(values) for name, values in rates.items()}


if __name__ == "__main__":
    # Defined here because the measured processes import this file too and parse no flags.
    flags.DEFINE_integer("steps", 10, "Number of steps per block.", lower_bound=1)
    flags.DEFINE_integer("repeats", 9, "Number of blocks; results are medians.", lower_bound=1)
    flags.DEFINE_integer(
        "n_samples", 100_000, "Number of impressions of the log.", lower_bound=1_000
    )
    flags.DEFINE_boolean("quickstart", True, "Whether to time `tfrec quickstart`.")
    flags.DEFINE_string("workdir", "workdir/benchmark", "Work directory; keeps the log.")
    cli.run(main)
