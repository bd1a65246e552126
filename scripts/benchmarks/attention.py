"""Measures the gain and the cost of attention and other parts of the ranker.

    python scripts/benchmarks/attention.py --world=sequence --n_samples=100000
    python scripts/benchmarks/attention.py --data=workdir/a/data,workdir/b/data --seeds=1,2

Trains the ranker with and without attention blocks on the log of a world, about five minutes on a
core. With --data, trains it on converted data sets, also without crosses and without products of
fields. Other flags are the same as for `tfrec train_ranker`.

Measures on the test split, as means over --seeds, the AUC of each head, the normalized entropy of
probabilities (log loss divided by the log loss of the mean rate; less is better) and the NDCG of
the lists. On a world, the true probabilities are measured in the same way: `share` is
(AUC - 0.5) / (AUC of the truth - 0.5) of clicks. Then times the exported rankers of the last seed
in turns, in this process: 500 candidates of a request whose histories are full. Finished models are
kept in --workdir, so a run that was stopped resumes. Prints a table for each data set, and JSON as
the last line.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from workload import finished_cells, full_requests, harness

from serving import cli, export
from tfrec import config, evaluation, exported, metrics, ranking
from tfrec.heads import CLICK, HEADS
from tfrecords import reader, synthetic


class NoProducts(ranking.Ranker):
    """The ranker without the inner products of query and ad fields."""

    def products(self, query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
        """Returns zeros."""
        return tf.zeros_like(super().products(query_embeddings, ad_embeddings))


NUM_CANDIDATES, LIST_LENGTH, WARM_UP_CALLS = 500, 10, 20
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no blocks": {"num_blocks": 0},
    "no crosses": {"num_cross_layers": 0},
    "no products": {"ranker": "attention:NoProducts"},
    "no blocks, no products": {"num_blocks": 0, "ranker": "attention:NoProducts"},
}
OPTIONS = tuple(f for f in config.RankerConfig.__dataclass_fields__ if f not in ("seed", "ranker"))
TIMES = {"cpu_seconds": ",.0f", "p50_ms": ".2f", "p99_ms": ".2f"}


def main() -> None:
    values = flags.FLAGS
    seeds = harness.flag_numbers("seeds", "1,2")
    workdir = pathlib.Path(values.workdir)
    rows: list[dict[str, Any]] = []
    if values.data:
        for directory in map(pathlib.Path, values.data):
            data_set = reader.DataSet(directory)
            variants = values.variants or list(VARIANTS)
            rows += measure(directory.parent.name, data_set, variants, seeds, workdir)
    else:
        steps = export.Pipeline(workdir)
        world = dataclasses.replace(synthetic.WORLDS[values.world], seed=values.world_seed)
        data_set = steps.convert(steps.synthesize(values.n_samples, world), config.ConvertConfig())
        truth = evaluation.load_ground_truth(steps.path("synthetic"), data_set)
        variants = values.variants or ["default", "no blocks"]
        rows += measure(values.world, data_set, variants, seeds, workdir, truth)
    harness.print_json({"seeds": seeds, "rows": rows})


def measure(
    name: str,
    data_set: reader.DataSet,
    variants: Sequence[str],
    seeds: Sequence[int],
    workdir: pathlib.Path,
    truth: evaluation.GroundTruth | None = None,
) -> list[dict[str, Any]]:
    """Measures variants of the ranker on a data set, prints a table and returns its rows."""
    inputs = full_requests.as_arrays(*full_requests.draw(data_set, NUM_CANDIDATES))
    tensors = {name: tf.constant(values) for name, values in inputs.items()}
    rows: list[dict[str, Any]] = []
    calls = {}
    for variant in variants:
        measured = []
        for seed in seeds:
            options = dataclasses.replace(
                cli.from_flags(config.RankerConfig), seed=seed, **VARIANTS[variant]
            )
            cell = f"{data_set.fingerprint}-{variant.replace(', ', '-').replace(' ', '_')}-{seed}"
            directory = workdir / "rankers" / finished_cells.key_of(cell, options)
            train_this = functools.partial(train, data_set, options, directory)
            measured.append(finished_cells.stored(workdir / "cells", cell, options, train_this))
        common = [key for key in measured[0] if all(key in run for run in measured)]
        means = {key: float(np.mean([run[key] for run in measured])) for key in common}
        rows.append({"data": name, "variant": variant, **means})
        model, calibrators, _ = ranking.load_ranker(data_set, directory)
        module = exported.RankerModule(data_set.fitted, model, calibrators)
        calls[variant] = lambda module=module: module.serve(**tensors)[CLICK.output].numpy()
    times = harness.timed(calls, flags.FLAGS.calls, WARM_UP_CALLS)
    for row, seconds in zip(rows, times.values(), strict=True):
        row |= harness.percentiles([1e3 * second for second in seconds])
    figures = {key: ".4f" for key in common if key not in TIMES}
    if truth is not None:
        predictions = ranking.predict_split(model, data_set, "test")
        rows.append({"data": name, "variant": "truth", **quality(predictions, truth.rows)})
        best = rows[-1]["click_auc"]
        for row in rows:
            row["share"] = metrics.share_of_achievable(row["click_auc"], 0.5, best)
        figures["share"] = ".3f"
    events = [f"{field.name} of {field.max_length}" for field in data_set.schema.histories]
    print(f"p50 ms: {NUM_CANDIDATES} candidates, {', '.join(events) or 'no history'}")
    harness.print_rows(rows, {"data": "", "variant": "", **figures, **TIMES})
    return rows


def train(
    data_set: reader.DataSet, options: config.RankerConfig, directory: pathlib.Path
) -> dict[str, float]:
    """Trains a ranker, and measures its quality and the processor time of its training."""
    started = time.process_time()
    ranking.train_ranker(data_set, options, directory)
    seconds = time.process_time() - started
    model, calibrators, _ = ranking.load_ranker(data_set, directory)
    predictions = ranking.predict_split(model, data_set, "test")
    return {
        **quality(predictions, ranking.served_values(predictions, calibrators)),
        "cpu_seconds": seconds,
    }


def quality(predictions: ranking.Predictions, values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the metrics of values [L] of all shown ads by output; undefined ones are left out."""
    found: dict[str, float | None] = {}
    for head in predictions.logits:
        labels, known, lengths = predictions.labeled(head)
        scores = values[HEADS[head].output][known].astype(np.float32)
        positive = (labels > 0).astype(np.float32)
        found[f"{head}_auc"] = metrics.auc(positive, scores)
        if not HEADS[head].is_amount:
            found[f"{head}_entropy"] = metrics.normalized_entropy(positive, scores)
        if head == CLICK.label:
            ndcg = metrics.ndcg_of_lists(labels, scores, lengths, LIST_LENGTH)
            found["ndcg"] = float(np.nanmean(ndcg))
    return {name: value for name, value in found.items() if value is not None}


if __name__ == "__main__":
    flags.DEFINE_list("data", [], "Directories of converted data sets, instead of a world.")
    flags.DEFINE_enum("world", "sequence", list(synthetic.WORLDS), "World of the log.")
    flags.DEFINE_integer("world_seed", 7, "Seed of the world.")
    flags.DEFINE_integer("n_samples", 100_000, "Number of impressions of the log.", lower_bound=1)
    flags.DEFINE_list("seeds", ["1"], "Seeds of the models.")
    flags.DEFINE_multi_enum("variants", [], list(VARIANTS), "Variant; may be repeated.")
    flags.DEFINE_integer("calls", 200, "Number of timed calls of each ranker.", lower_bound=1)
    flags.DEFINE_string("workdir", "workdir/benchmark_attention", "Work directory.")
    cli.define_flags(config.RankerConfig, names=OPTIONS)
    cli.run(main)
