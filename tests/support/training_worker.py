"""A training worker: `training_worker.py OPTIONS`, where OPTIONS is JSON of `work`'s arguments.

Its data set is a shop whose users see lists of products; some lists are alone in their batch.
"""

import json
import os
import pathlib
import signal
import sys

import logs
import numpy as np

import tfrec  # noqa: F401  (first: it selects Keras 2)

import tensorflow as tf  # isort: skip

from tfrec import config, layers, ranking, retrieval, training
from tfrec.layers import replicas
from tfrec.training import fitting
from tfrecords import reader
from tfrecords.schema import Field, Schema

# Only the order of the data and the negatives are random; they are the same on all workers.
PLAIN = {"dropout": 0.0, "id_dropout": 0.0}
RANDOM = {"dropout": 0.2, "id_dropout": 0.3}
_SHARED = {"field_dim": 4, "num_cross_layers": 0, "epochs": 2, "batch_size": 240}


def shop(directory):
    """Converts lists of five of 200 products; each of 30 users clicks on products of a kind."""
    rng = np.random.default_rng(3)
    count = 6_000
    page = np.arange(count) // 5
    user, product = page % 30, rng.integers(200, size=count)
    clicked = rng.random(count) < np.where(product % 3 == user % 3, 0.4, 0.05)
    bought = clicked & (rng.random(count) < 0.3)
    columns = (page, user, product, product % 7, np.arange(count) % 5, clicked * 1, bought * 1)
    names = "page,user,product,brand,place,clicked,bought"
    path = directory / "log.csv"
    np.savetxt(path, np.stack(columns, axis=1), "%d", ",", header=names, comments="")
    fields = (
        Field("user", "categorical", "query", min_count=1),
        Field("product", "categorical", "ad", min_count=1),
        Field("brand", "categorical", "ad", min_count=1),
    )
    schema = Schema(
        "shop",
        fields,
        ("product",),
        "clicked",
        engagement="bought",
        request_key="page",
        position="place",
        user_key="user",
    )
    return logs.converted_table(path, directory / "data", schema)


def retrieval_config(dropouts, **options):
    return config.RetrievalConfig(
        embedding_dim=8,
        hidden_dim=8,
        refit=False,
        **{"uniform_negatives": 40, **_SHARED, **dropouts, **options},
    )


def ranker_config(dropouts, **options):
    return config.RankerConfig(
        model_dim=8, num_blocks=1, num_heads=2, feed_forward_dim=8, **_SHARED, **dropouts, **options
    )


def first_batches(strategy, data_set):
    """Returns the loss and the gradients of the first batch: name -> array.

    One batch has an odd number of rows, and one has a single row, so that a second worker has none.
    """
    found = {}
    clicked_ads = layers.ClickedAds(*retrieval.read_pairs(data_set, ("train",)))
    catalog = data_set.catalog()
    # A batch of 60 and its 40 negatives are less than the catalog of 200 ads.
    for name, size in (("sampled", 60), ("all ads", 240)):
        options = retrieval_config(PLAIN, batch_size=size)
        with strategy.scope():
            model = retrieval.build_two_tower(data_set, options, catalog, clicked_ads)
        found |= _gradients(strategy, name, model, lambda n: data_set.clicked("train", n, seed=1))
    with strategy.scope():
        model = ranking.build_ranker(data_set, ranker_config(PLAIN, negative_keep_rate=0.7))
    read = lambda n: data_set.batches_of_like_lists("train", n, 1, 0.7)  # noqa: E731
    return found | _gradients(strategy, "ranker", model, read)


def _gradients(strategy, name, model, read):
    @tf.function(autograph=False)
    def step(batches):
        def on_replica(batch):
            with tf.GradientTape() as tape:
                loss = model._own_part_of_loss(batch, training=True)
            gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
            parts = [loss, *map(tf.convert_to_tensor, gradients)]
            return replicas.total_of_replicas(parts)

        return strategy.run(on_replica, args=(next(batches),))

    sizes = (31, 1)
    first = [read(size).take(1) for size in sizes]
    batches = iter(training.shared_out(strategy, first[0].concatenate(first[1])))
    # The first part of a name depends on the layers that the process has built before.
    names = ["loss", *(v.name.rpartition("/")[2] for v in model.trainable_variables)]
    found = {}
    for size in sizes:
        for number, (variable, total) in enumerate(zip(names, step(batches), strict=True)):
            value = strategy.experimental_local_results(total)[0]
            found[f"{name}, {size} rows: {number} {variable}"] = value.numpy()
    return found


class KilledAt(tf.keras.callbacks.Callback):
    """Kills the process after a step of an epoch, both counted from 0."""

    def __init__(self, number, step):
        super().__init__()
        self.number, self.step = number, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.number, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def train(strategy, data_set, stage, dropouts, directory, callbacks=()):
    """Trains `retrieval` or `ranker`; a backup is taken in every fourth step."""
    fitting._STEPS_PER_BACKUP = 4
    options = {"callbacks": callbacks, "strategy": strategy}
    if stage == "ranker":
        ranking.train_ranker(data_set, ranker_config(dropouts), directory, **options)
    else:
        retrieval.train_two_tower(data_set, retrieval_config(dropouts), directory, **options)


def work(data, tf_config, trainings, gradients=None, killed_at=None):
    """Does the work of a worker.

    Args:
        data: Directory of the data set.
        tf_config: Value of TF_CONFIG.
        trainings: [stage, dropouts, directory] of each training.
        gradients: File for `first_batches`; None: not computed.
        killed_at: [epoch, step] after which the process is killed; None: not killed.
    """
    os.environ["TF_CONFIG"] = tf_config
    with training.joined("multi_worker") as strategy:
        # Otherwise, threads decide the last bit of a gradient.
        tf.config.experimental.enable_op_determinism()
        data_set = reader.DataSet(data)
        if gradients:
            np.savez(gradients, **first_batches(strategy, data_set))
        for stage, dropouts, directory in trainings:
            callbacks = [KilledAt(*killed_at)] if killed_at else []
            train(strategy, data_set, stage, dropouts, pathlib.Path(directory), callbacks)


if __name__ == "__main__":
    try:
        work(**json.loads(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
