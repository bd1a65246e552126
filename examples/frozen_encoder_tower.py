"""Your own retrieval model, whose ad tower reads vectors that are not trained.

    python examples/frozen_encoder_tower.py --data=workdir/own_tower/data --output=ad_vectors.npz

writes stand-ins for the vectors of a text or image encoder. Then, in this folder or with it in
PYTHONPATH, and with the file in the current directory:

    tfrec train --use_synthetic --retrieval_model=frozen_encoder_tower:FrozenEncoder

Shapes: V ads, D vector, B ads of a batch, W columns of ids, F fields, E field embedding.
"""

import argparse
import hashlib

from tfrec import layers, retrieval  # First: it selects Keras 2.
from tfrecords import encoding, reader

import numpy as np  # isort: skip
import tensorflow as tf  # isort: skip

VECTORS = "ad_vectors.npz"  # `ids` [V], strings, and `vectors` [V, D] float32


class FrozenTower(tf.keras.layers.Layer):
    """Vectors of ads from a file, and learned embeddings of their fields."""

    def __init__(self, fitted, config):
        super().__init__()
        schema, stored = fitted.schema, np.load(VECTORS)
        (self.column, field), *_ = (
            (columns.start, field)
            for field, columns in encoding.columns(schema.ad_fields)
            if field.source == schema.ad_key[0]
        )
        # Ads that are not in the file, or were rare in training, have the vector 0.
        vectors = dict(zip(stored["ids"].tolist(), stored["vectors"], strict=True))
        table = np.zeros((fitted.cardinality(field), stored["vectors"].shape[1]), np.float32)
        for id_, value in enumerate(fitted.statistics[field.name].vocabulary, start=1):
            table[id_] = vectors.get(value, 0.0)
        self.frozen = self.add_weight(
            "frozen", table.shape, initializer=tf.constant_initializer(table), trainable=False
        )
        self.fields = layers.FieldEmbeddings(fitted, schema.ad_fields, 16)
        self.from_vector = tf.keras.layers.Dense(config.hidden_dim)
        self.from_fields = tf.keras.layers.Dense(config.hidden_dim)
        self.output_layer = tf.keras.layers.Dense(config.embedding_dim)

    def call(self, ids):
        vector = self.from_vector(tf.gather(self.frozen, ids[:, self.column]))  # [B, hidden]
        fields = self.from_fields(layers.flatten(self.fields(ids)))
        return tf.math.l2_normalize(self.output_layer(tf.nn.relu(vector + fields)), axis=-1)


class FrozenEncoder(retrieval.RetrievalModel):
    """The query tower of tfrec and an ad tower with a frozen encoder."""

    def __init__(self, fitted, config, catalog):
        query_tower = retrieval.Tower(fitted, fitted.schema.query_fields, config)
        super().__init__(fitted, config, catalog, query_tower, FrozenTower(fitted, config))


def write_vectors(data_set, path, dim=32):
    """Writes the mean of a fixed random vector for each value of an ad, in place of an encoder."""
    catalog = data_set.catalog()
    rows = catalog.fields.to_pylist()
    vectors = [np.mean([_vector(f"{k}={v}", dim) for k, v in row.items()], axis=0) for row in rows]
    np.savez(path, ids=np.array(catalog.ad_ids.to_pylist()), vectors=np.float32(vectors))


def _vector(text, dim):
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=dim)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="A converted data set.")
    parser.add_argument("--output", default=VECTORS)
    options = parser.parse_args()
    write_vectors(reader.DataSet(options.data), options.output)
