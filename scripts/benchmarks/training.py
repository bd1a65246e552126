"""Measures the training speed of both stages, next to plain Keras models, and of `quickstart`.

    python scripts/benchmarks/training.py
    python scripts/benchmarks/training.py --table_rows=10000,1000000 --steps=10 --repeats=3

Takes about nine minutes on two cores. With 10,000,000 rows it needs up to 6 GB of memory, and 13 GB
for the baseline. Converts a synthetic log and trains both models at their default sizes with the
`train_step` of the models: Adam for dense layers, Adagrad for the tables. The baseline trains the
same models and batches with one `tf.keras.optimizers.Adam` for all variables, as plain Keras does.

Rows per second of processor time compare the ranker's step with that of a DNN and of DCN-V2
(`peers/networks.py`), which predict clicks only, from the same rows: each in batches of its default
size, one step of `Model.fit` a batch, alternating. `quickstart_seconds` is a whole `tfrec
quickstart`, without installing; --noquickstart leaves it out.

Examples/s (clicks for the two-tower model, impressions for the ranker) are measured with batches
read from the data set, alternating the two optimizers. The dependence on table size is measured
with a small and a large table per side (`wide_tables`), alternating, with batches in memory, in one
process per model and optimizer. Initialization, tracing and the first steps are not timed.
`step_time_ratio_…` is the larger ratio of the two models, and the smaller one for the baseline; the
ratios of the models are reported too. Prints a table, and JSON as the last line.
"""

import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import tensorflow as tf
from absl import flags
from peers import networks, peer_data
from workload import fresh_process, harness, wide_tables

from serving import cli, export
from tfrec import config, ranking, retrieval, training
from tfrec.heads import CLICK
from tfrecords import reader

MODELS = ("retrieval", "ranker")
OPTIMIZERS = {"": "ours", "baseline_": "Adam for everything"}
WARM_UP_STEPS = 3
BATCHES_IN_MEMORY = 20
Measured = dict[str, Any]
Step = Callable[[reader.Batch], tf.Tensor]


def main() -> None:
    small, large = _sizes(flags.FLAGS.table_rows)
    steps, repeats, samples = flags.FLAGS.steps, flags.FLAGS.repeats, flags.FLAGS.n_samples
    log = export.Pipeline(pathlib.Path(flags.FLAGS.workdir) / f"training-{samples}", False)
    log.convert(log.synthesize(samples), config.ConvertConfig())
    directory = log.path("data")
    models = [model for model in MODELS if model in flags.FLAGS.models]
    result: Measured = {"table_rows": [small, large], "steps": steps, "repeats": repeats}
    for model in models:
        result.update(fresh_process.call(measure_rates, directory, model, steps, repeats))
    if "ranker" in models:
        result.update(fresh_process.call(measure_peers, directory, steps, repeats))
    if flags.FLAGS.quickstart:
        result["quickstart_seconds"] = quickstart_seconds()
    for prefix in OPTIMIZERS:
        for model in models:
            sizes = (small, large)
            arguments = (directory, model, prefix, sizes, steps, repeats)
            result.update(fresh_process.call(measure_growth, *arguments))
        worst = min if prefix else max
        key = f"step_time_ratio_{_short(large)}_to_{_short(small)}"
        result[prefix + key] = worst(result[f"{prefix}{model}_step_time_ratio"] for model in models)
    print_table(result, models)
    harness.print_json(result)


def measure_rates(directory: pathlib.Path, model: str, steps: int, repeats: int) -> Measured:
    """Measures examples/s of both optimizers; call it in a fresh process."""
    data_set = reader.DataSet(directory)
    rates: dict[str, list[float]] = {prefix: [] for prefix in OPTIMIZERS}
    runs: dict[str, tuple[Step, Iterator[reader.Batch]]] = {}
    for prefix in OPTIMIZERS:
        dataset, step = _prepare(data_set, model, prefix)
        runs[prefix] = step, iter(dataset.repeat())
    _warm_up(runs.values())
    for _ in range(repeats):
        for prefix, run in runs.items():
            started = time.perf_counter()
            examples = _take_steps(*run, steps)
            rates[prefix].append(examples / (time.perf_counter() - started))
    return {
        f"{prefix}{model}_examples_per_second": statistics.median(values)
        for prefix, values in rates.items()
    }


def measure_peers(directory: pathlib.Path, steps: int, repeats: int) -> Measured:
    """Measures rows/s of processor time of the ranker and its peers; call it in a fresh process."""
    data_set = reader.DataSet(directory)
    dataset, step = _prepare(data_set, "ranker", "")
    batches = itertools.cycle(list(dataset.take(BATCHES_IN_MEMORY)))
    runs: dict[str, Callable[[int], int]] = {
        "ranker": lambda count: _take_steps(step, batches, count)
    }
    rows = peer_data.read(data_set, ranking.knows_positions(data_set), (CLICK.label,))
    for name, kind in (("dnn", "dnn"), ("dcn", "dcn_v2")):
        runs[name] = networks.training_steps(rows, networks.NetworkOptions(kind))
    for take in runs.values():
        take(WARM_UP_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, take in runs.items():
            started = time.process_time()
            examples = take(steps)
            rates[name].append(examples / (time.process_time() - started))
    return {
        f"{name}_rows_per_cpu_second": statistics.median(values) for name, values in rates.items()
    }


def quickstart_seconds() -> float:
    """Returns the duration of `tfrec quickstart` in a new work directory."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tfrec", "quickstart", f"--workdir={directory}/quickstart"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - started


def measure_growth(
    directory: pathlib.Path,
    model: str,
    prefix: str,
    table_rows: tuple[int, int],
    steps: int,
    repeats: int,
) -> Measured:
    """Measures steps with small and large tables; call it in a fresh process."""
    runs: dict[int, tuple[Step, Iterator[reader.Batch]]] = {}
    for num_rows in table_rows:
        data_set = wide_tables.open_widened(directory, num_rows)
        dataset, step = _prepare(data_set, model, prefix)
        batches = [
            wide_tables.draw_ids(data_set, batch, seed)
            for seed, batch in enumerate(dataset.repeat().take(BATCHES_IN_MEMORY))
        ]
        runs[num_rows] = step, itertools.cycle(batches)
    _warm_up(runs.values())
    seconds: dict[int, list[float]] = {num_rows: [] for num_rows in table_rows}
    for _ in range(repeats):
        for num_rows, run in runs.items():
            # Adam takes seconds per step on large tables.
            count = 1 if prefix and num_rows == max(table_rows) else steps
            for _ in range(count):
                started = time.perf_counter()
                _take_steps(*run, 1)
                seconds[num_rows].append(time.perf_counter() - started)
    small, large = (1_000 * statistics.median(seconds[num_rows]) for num_rows in table_rows)
    name = f"{prefix}{model}"
    return {
        f"{name}_step_ms": [small, large],
        f"{name}_step_time_ratio": large / small,
        f"{name}_peak_rss_mb": fresh_process.peak_rss_mb(),
    }


def _sizes(values: list[str]) -> tuple[int, int]:
    """Reads --table_rows.

    Raises:
        ValueError: The flag does not have two different numbers.
    """
    if len(set(values)) != 2 or not all(map(str.isdecimal, values)):
        raise ValueError(
            f"--table_rows takes two different sizes, got {' and '.join(values)!r}; write them as "
            "--table_rows=10000,10000000."
        )
    small, large = sorted(map(int, values))
    return small, large


def _prepare(data_set: reader.DataSet, model: str, prefix: str) -> tuple[tf.data.Dataset, Step]:
    """Returns the batches of a stage and the step of an untrained model."""
    built: training.StageModel
    if model == "retrieval":
        options = config.RetrievalConfig()
        built = retrieval.build_two_tower(data_set, options, data_set.catalog())
        dataset = data_set.clicked("train", options.batch_size, seed=1)
    else:
        options = config.RankerConfig()
        built = ranking.build_ranker(data_set, options)
        dataset = data_set.batches_of_like_lists("train", options.batch_size, seed=1)
    rates = options.learning_rate, options.embedding_learning_rate
    built.compile(
        tf.keras.optimizers.Adam(options.learning_rate)
        if prefix
        else training.dense_and_sparse(built, *rates, steps=1_000)
    )
    step = tf.function(built.train_step, input_signature=[dataset.element_spec], autograph=False)
    return dataset, lambda batch: step(batch)["loss"]


def _warm_up(runs: Iterable[tuple[Step, Iterator[reader.Batch]]]) -> None:
    """Runs the first steps, after all models are built.

    Building a model sets the seed, which clears TensorFlow's caches of compiled functions.
    """
    for run in runs:
        _take_steps(*run, WARM_UP_STEPS)


def _take_steps(step: Step, batches: Iterator[reader.Batch], count: int) -> int:
    """Trains on `count` batches and returns their number of examples."""
    examples = 0
    for _ in range(count):
        batch = next(batches)
        step(batch).numpy()
        examples += (
            int(tf.math.count_nonzero(batch["mask"])) if "mask" in batch else len(batch["ad"])
        )
    return examples


def _short(number: int) -> str:
    """Writes 10,000 as 10k and 10,000,000 as 10m."""
    for unit, letter in ((1_000_000, "m"), (1_000, "k")):
        if number % unit == 0:
            return f"{number // unit}{letter}"
    return str(number)


def print_table(result: Measured, models: list[str]) -> None:
    """Prints rates, step times and memory."""
    small, large = result["table_rows"]
    print(f"medians of {result['repeats']} blocks of {result['steps']} steps")
    sizes = _short(small), _short(large)
    rows = [
        {
            "model": f"{model}, {name}",
            "examples_per_second": result[f"{prefix}{model}_examples_per_second"],
            **dict(zip(sizes, result[f"{prefix}{model}_step_ms"], strict=True)),
            "ratio": result[f"{prefix}{model}_step_time_ratio"],
            "peak_mb": result[f"{prefix}{model}_peak_rss_mb"],
        }
        for model in models
        for prefix, name in OPTIMIZERS.items()
    ]
    columns = {"examples_per_second": ",.0f", **dict.fromkeys(sizes, ",.1f"), "ratio": ".2f"}
    harness.print_rows(rows, {"model": "", **columns, "peak_mb": ",.0f"})
    peers = {"ranker": "ranker", "dnn": "Keras DNN", "dcn": "Keras DCN-V2"}
    rates = {text: result.get(f"{name}_rows_per_cpu_second") for name, text in peers.items()}
    harness.print_rows(
        [{"model": text, "rows_per_cpu_second": rate} for text, rate in rates.items() if rate],
        {"model": "", "rows_per_cpu_second": ",.0f"},
    )
    print(f"{' and '.join(sizes)}: ms of a step with two tables of so many rows")


if __name__ == "__main__":
    # Defined here because the measured processes import this file too and parse no flags.
    flags.DEFINE_multi_enum("models", list(MODELS), MODELS, "Model to measure; may be repeated.")
    flags.DEFINE_list(
        "table_rows", ["10000", "10000000"], "Numbers of rows of a small and a large table."
    )
    flags.DEFINE_integer("steps", 10, "Number of steps per block.", lower_bound=1)
    flags.DEFINE_integer("repeats", 9, "Number of blocks; results are medians.", lower_bound=1)
    flags.DEFINE_integer(
        "n_samples", 100_000, "Number of impressions of the log.", lower_bound=1_000
    )
    flags.DEFINE_boolean("quickstart", True, "Whether to time `tfrec quickstart`.")
    flags.DEFINE_string("workdir", "workdir/benchmark", "Work directory; keeps the log.")
    cli.run(main)
