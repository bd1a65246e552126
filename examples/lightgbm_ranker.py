"""Trains LightGBM on a converted data set, and publishes it behind tfrec's towers and index.

    python examples/lightgbm_ranker.py --workdir=workdir/quickstart --bundle=workdir/lightgbm

Takes seconds, and needs the extra `benchmark`. WORKDIR has a data set and a release, as tfrec
quickstart makes them; tfrec serve --bundle=workdir/lightgbm serves the result. The trees become
tensors, so a model server needs TensorFlow alone; the scores equal LightGBM's within 1e-6.

Shapes: L shown ads, B requests, C candidates, R pairs of both, W columns of ids, T trees.
"""

import math
import pathlib
import tempfile

import tfrec  # noqa: F401  (first: it selects Keras 2 and lets TensorFlow start quietly)

# isort: split
import lightgbm
import numpy as np
import pyarrow as pa
import tensorflow as tf
from absl import flags

from serving import releases
from serving.cli import command_line
from tfrecords import encoding, reader

flags.DEFINE_string("workdir", "workdir/quickstart", "Work directory with data set and release.")
flags.DEFINE_string("bundle", "workdir/lightgbm", "Base directory of bundles to publish into.")
FLAGS = flags.FLAGS


def train(data_set: reader.DataSet) -> lightgbm.Booster:
    """Trains on the ids [L, W] of requests and their ads, and the clicks [L]."""
    windows = list(data_set.windows("train").as_numpy_iterator())
    queries = np.concatenate([np.repeat(w["query"], w["list_lengths"], axis=0) for w in windows])
    ads, clicks = (np.concatenate([w[name] for w in windows]) for name in ("ad", "click"))
    known = ~np.isnan(clicks)
    rows = lightgbm.Dataset(np.hstack([queries, ads])[known], clicks[known])
    return lightgbm.train({"objective": "binary", "seed": 1, "verbose": -1}, rows)


class TreeRanker(tf.Module):
    """Raw query fields and ad_features [B, C, F] to click_probability [B, C]."""

    def __init__(self, booster: lightgbm.Booster, fitted: encoding.FittedSchema) -> None:
        super().__init__()
        nodes: list[tuple[int, float, int, int, float]] = []

        def add(node: dict, depth: int = 0) -> tuple[int, int]:
            """Adds a subtree; returns the position of its root, and its depth."""
            at = len(nodes)
            nodes.append((0, math.inf, at, at, node.get("leaf_value", 0.0)))  # leads to itself
            if "split_feature" in node:
                left, right = (add(node[f"{s}_child"], depth + 1) for s in ("left", "right"))
                nodes[at] = (node["split_feature"], node["threshold"], left[0], right[0], 0.0)
                depth = max(left[1], right[1])
            return at, depth

        trees = [add(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
        feature, threshold, left, right, value = map(np.array, zip(*nodes, strict=True))
        encoder = encoding.Encoder(fitted, fitted.schema.query_fields)

        def serve(ad_features: tf.Tensor, **fields: tf.Tensor) -> dict[str, tf.Tensor]:
            query = tf.repeat(encoder(fields)[:, None], tf.shape(ad_features)[1], axis=1)
            ids = tf.concat([query, ad_features], axis=2)  # [B, C, W]
            rows = tf.cast(tf.reshape(ids, [-1, booster.num_feature()]), tf.float64)  # [R, W]
            at = tf.tile([[root for root, _ in trees]], [tf.shape(rows)[0], 1])  # [R, T]
            for _ in range(max(depth for _, depth in trees)):
                values = tf.gather(rows, tf.gather(feature, at), batch_dims=1)
                goes_left = values <= tf.gather(threshold, at)
                at = tf.where(goes_left, tf.gather(left, at), tf.gather(right, at))
            # The logarithm corrects for the unclicked rows that the log left out.
            logits = tf.reduce_sum(tf.gather(value, at), 1)
            logits += math.log(fitted.schema.negative_keep_rate)
            probability = tf.cast(tf.sigmoid(logits), tf.float32)
            return {"click_probability": tf.reshape(probability, tf.shape(ids)[:2])}

        features = tf.TensorSpec([None, None, encoding.width(fitted.schema.ad_fields)], tf.int32)
        fields = encoding.input_signature(fitted.schema.query_fields)
        function = tf.function(serve, autograph=False)
        self.serve = function.get_concrete_function(ad_features=features, **fields)


def main() -> None:
    data_set = reader.DataSet(pathlib.Path(FLAGS.workdir) / "data")
    ranker = TreeRanker(train(data_set), data_set.fitted)
    released = pathlib.Path(FLAGS.workdir) / "bundle"
    version = str(releases.stable(released))
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(ranker, saved, signatures={"serving_default": ranker.serve})
        release = releases.publish_models(
            FLAGS.bundle,
            query_tower=released / "query_tower" / version,
            ad_tower=released / "ad_tower" / version,
            ranker=saved,
            ads=pa.ipc.open_file(released / "ad_index" / version / "ads.arrow").read_all(),
            schema=data_set.schema,
            sample_requests=data_set.sample_requests(),
        )
    print(f"release {release.version} is published in {FLAGS.bundle}")


if __name__ == "__main__":
    command_line.run(main)
