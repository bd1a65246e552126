"""Measures the gain and the cost of attention to the tokens of histories.

    python scripts/benchmarks/attention.py --world=sequence --n_samples=100000

Trains the ranker with and without attention blocks on the log of a world, about five minutes on a
core, and measures on its test split the AUC of clicks and the NDCG of the lists, next to those of
the true probabilities; `share` is (AUC - 0.5) / (AUC of the truth - 0.5). Then times the exported
rankers in turns, in this process: 500 candidates of a request whose histories are full. Prints a
table, and JSON as the last line.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from workload import full_requests, harness

from serving import cli, export
from tfrec import config, evaluation, exported, metrics, ranking
from tfrec.heads import CLICK
from tfrecords import encoding, reader, synthetic

NUM_CANDIDATES, LIST_LENGTH, WARM_UP_CALLS = 500, 10, 20


def main() -> None:
    values = flags.FLAGS
    steps = export.Pipeline(pathlib.Path(values.workdir))
    world = dataclasses.replace(synthetic.WORLDS[values.world], seed=values.world_seed)
    data_set = steps.convert(steps.synthesize(values.n_samples, world), config.ConvertConfig())
    truth = evaluation.load_ground_truth(steps.path("synthetic"), data_set)
    tensors = full_request(data_set)
    rows, calls = [], {}
    for blocks in (config.RankerConfig().num_blocks, 0):
        options = dataclasses.replace(cli.from_flags(config.RankerConfig), num_blocks=blocks)
        directory = steps.path("ranker").with_name(f"ranker-{blocks}-blocks")
        rows.append({"blocks": blocks, **train(data_set, options, directory, truth)})
        model, calibrators, _ = ranking.load_ranker(data_set, directory)
        module = exported.RankerModule(data_set.fitted, model, calibrators)
        calls[blocks] = lambda module=module: module.serve(**tensors)[CLICK.output].numpy()
    for blocks, seconds in harness.timed(calls, values.calls, WARM_UP_CALLS).items():
        own = next(row for row in rows if row["blocks"] == blocks)
        own |= harness.percentiles([1e3 * second for second in seconds])
    predictions = ranking.predict_split(model, data_set, "test")
    rows.append({"blocks": "truth", **quality(predictions, truth.rows[CLICK.output])})
    for row in rows:
        row["share"] = metrics.share_of_achievable(row["auc"], 0.5, rows[-1]["auc"])
    events = [f"{field.name} of {field.max_length}" for field in data_set.schema.histories]
    print(f"p50 ms: {NUM_CANDIDATES} candidates, {', '.join(events) or 'no history'}")
    formats = {"blocks": "", "auc": ".4f", "share": ".3f", "ndcg": ".4f"}
    formats |= {"cpu_seconds": ",.0f", "ms_per_step": ".1f", "p50_ms": ".2f"}
    harness.print_rows(rows, formats)
    harness.print_json({"world": values.world, "n_samples": values.n_samples, "rows": rows})


def train(
    data_set: reader.DataSet,
    options: config.RankerConfig,
    directory: pathlib.Path,
    truth: evaluation.GroundTruth,
) -> dict[str, Any]:
    """Trains a ranker and measures it; times are CPU times for batches of 512."""
    started = time.process_time()
    ranking.train_ranker(data_set, options, directory)
    seconds = time.process_time() - started
    passes = len(json.loads((directory / "history.json").read_text()))
    num_steps = passes * data_set.num_rows("train") / options.batch_size
    model, calibrators, _ = ranking.load_ranker(data_set, directory)
    predictions = ranking.predict_split(model, data_set, "test")
    served = ranking.served_values(predictions, calibrators)[CLICK.output]
    return {
        **quality(predictions, served),
        "cpu_seconds": seconds,
        "ms_per_step": 1e3 * seconds / num_steps,
    }


def quality(predictions: ranking.Predictions, values: np.ndarray) -> dict[str, float | None]:
    """Returns the AUC of click probabilities [L] of all shown ads, and the mean NDCG of lists."""
    labels, known, lengths = predictions.labeled(CLICK.label)
    ndcg = metrics.ndcg_of_lists(labels, values[known], lengths, LIST_LENGTH)
    return {
        "auc": metrics.auc(labels, values[known].astype(np.float32)),
        "ndcg": float(np.nanmean(ndcg)),
    }


def full_request(data_set: reader.DataSet) -> dict[str, tf.Tensor]:
    """Returns inputs of the exported ranker, for a request with full histories."""
    sample = full_requests.with_full_histories(data_set)
    tensors = {}
    for name, spec in encoding.input_signature(data_set.schema.query_fields).items():
        value = sample.get(name)
        if spec.shape.rank > 1:
            tensors[name] = tf.constant([value or []], spec.dtype)
        else:
            missing = "" if spec.dtype == tf.string else np.nan
            tensors[name] = tf.constant([missing if value is None else value], spec.dtype)
    features = np.asarray(data_set.catalog().features)
    chosen = np.random.default_rng(1).integers(len(features), size=(1, NUM_CANDIDATES))
    return {**tensors, "ad_features": tf.constant(features[chosen])}


if __name__ == "__main__":
    flags.DEFINE_enum("world", "sequence", list(synthetic.WORLDS), "World of the log.")
    flags.DEFINE_integer("world_seed", 7, "Seed of the world.")
    flags.DEFINE_integer("n_samples", 100_000, "Number of impressions of the log.", lower_bound=1)
    flags.DEFINE_integer("calls", 200, "Number of timed calls of each ranker.", lower_bound=1)
    flags.DEFINE_string("workdir", "workdir/benchmark_attention", "Work directory.")
    options = [name for name in config.RankerConfig.__dataclass_fields__ if name != "num_blocks"]
    cli.define_flags(config.RankerConfig, names=options)
    cli.run(main)
