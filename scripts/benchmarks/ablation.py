"""Measures the contribution of the ranker's parts: attention blocks, crosses, products of fields.

    python scripts/benchmarks/ablation.py --data=workdir/quickstart/data,workdir/shop/data

Trains the default ranker with and without each part on converted data sets, for --seeds, with the
flags of `tfrec train_ranker`; a minute or two for each model of 100,000 rows on two cores. Reports
the AUC of each head and the normalized entropy of probabilities (log loss over that of the mean
rate; less is better) on the test split, as means over the seeds. Finished models are kept in
--workdir, so that a run that was stopped goes on. Prints a table, and JSON as the last line.
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
from workload import harness

from serving import cli
from tfrec import config, metrics, ranking
from tfrec.heads import HEADS
from tfrecords import files, reader


class NoProducts(ranking.Ranker):
    """The ranker without the inner products of query and ad fields."""

    def products(self, query_embeddings: tf.Tensor, ad_embeddings: tf.Tensor) -> tf.Tensor:
        """Returns zeros."""
        return tf.zeros_like(super().products(query_embeddings, ad_embeddings))


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no blocks": {"num_blocks": 0},
    "no crosses": {"num_cross_layers": 0},
    "no products": {"ranker": "ablation:NoProducts"},
    "no blocks, no products": {"num_blocks": 0, "ranker": "ablation:NoProducts"},
}
OPTIONS = tuple(f for f in config.RankerConfig.__dataclass_fields__ if f not in ("seed", "ranker"))


def main() -> None:
    seeds = harness.flag_numbers("seeds", "1,2")
    workdir = pathlib.Path(flags.FLAGS.workdir)
    rows = []
    for directory in map(pathlib.Path, flags.FLAGS.data):
        data_set = reader.DataSet(directory)
        for variant in flags.FLAGS.variants:
            measured = [measure(data_set, variant, seed, workdir) for seed in seeds]
            names = [name for name in measured[0] if all(name in one for one in measured)]
            means = {name: float(np.mean([one[name] for one in measured])) for name in names}
            rows.append({"data": directory.parent.name, "variant": variant, **means})
    columns = dict.fromkeys(["data", "variant"], "")
    numbers = dict.fromkeys([name for name in rows[0] if name not in columns], ".4f")
    harness.print_rows(rows, {**columns, **numbers, "cpu_seconds": ",.0f"})
    harness.print_json({"seeds": seeds, "rows": rows})


def measure(
    data_set: reader.DataSet, variant: str, seed: int, workdir: pathlib.Path
) -> dict[str, float]:
    """Trains a variant and measures it on the test split, or reads what was measured before."""
    options = dataclasses.replace(
        cli.from_flags(config.RankerConfig), seed=seed, **VARIANTS[variant]
    )
    key = f"{data_set.fingerprint}-{variant.replace(', ', '-').replace(' ', '_')}-{seed}"
    path = workdir / key / "measured.json"
    inputs = dataclasses.asdict(options)
    if path.is_file() and (stored := json.loads(path.read_text()))["options"] == inputs:
        return stored["measured"]
    started = time.process_time()
    ranking.train_ranker(data_set, options, path.parent)
    seconds = time.process_time() - started
    model, calibrators, _ = ranking.load_ranker(data_set, path.parent)
    predictions = ranking.predict_split(model, data_set, "test")
    served = ranking.served_values(predictions, calibrators)
    measured = {}
    for head in model.heads:
        labels, known, _ = predictions.labeled(head)
        values = served[HEADS[head].output][known]
        positive = (labels > 0).astype(np.float32)
        auc = metrics.auc(positive, values)
        if auc is not None:
            measured[f"{head}_auc"] = auc
        if not HEADS[head].is_amount:
            measured[f"{head}_entropy"] = metrics.normalized_entropy(positive, values)
    measured["cpu_seconds"] = seconds
    files.write_json(path, {"options": inputs, "measured": measured})
    return measured


if __name__ == "__main__":
    flags.DEFINE_list("data", None, "Directories of converted data sets.", required=True)
    flags.DEFINE_list("seeds", ["1", "2"], "Seeds of the models.")
    flags.DEFINE_multi_enum("variants", list(VARIANTS), list(VARIANTS), "Variant; may be repeated.")
    flags.DEFINE_string("workdir", "workdir/benchmark_ablation", "Work directory for the models.")
    cli.define_flags(config.RankerConfig, names=OPTIONS)
    cli.run(main)
