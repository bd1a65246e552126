"""Stage one: the two-tower retrieval model.

The query tower and the ad tower map their fields to L2-normalised embeddings; their inner
product, over a learnt temperature, is the logit of a softmax over in-batch and uniform
negatives with logQ correction and accidental hits removed (`tfrs.tasks.Retrieval`).

Shapes: B clicks, U uniform negatives, D embedding, Wq and Wa columns of ids of the query and
the ad side.

References:
    Yi et al., Sampling-Bias-Corrected Neural Modeling, 2019.
    Yang et al., Mixed Negative Sampling, 2020.
"""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import config as config_lib
from tfrec import features, sampling
from tfrecords import encoding, reader
from tfrecords import schema as schema_lib


class Tower(tf.keras.Model):
    """Maps the encoded fields of one side to an embedding of length one."""

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        fields: Sequence[schema_lib.Field],
        config: config_lib.RetrievalConfig,
    ) -> None:
        super().__init__()
        self.field_embeddings = features.FieldEmbeddings(fitted, fields, config.field_dim)
        self._input = tf.keras.layers.Dense(config.hidden_dim)
        self._crosses = [features.CrossLayer() for _ in range(config.num_cross_layers)]
        self._hidden = tf.keras.layers.Dense(config.hidden_dim, activation="relu")
        self._output = tf.keras.layers.Dense(config.embedding_dim)
        self._dropout = tf.keras.layers.Dropout(config.dropout)
        self.embed = tf.function(
            self.call, input_signature=[tf.TensorSpec([None, encoding.width(fields)], tf.int32)]
        )

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds ids [B, W] int32 as [B, D] float32, L2-normalised."""
        flat = features.flatten(self.field_embeddings(ids))
        x0 = self._input(self._dropout(flat, training=training))
        x = x0
        for cross in self._crosses:
            x = cross(x0, x)
        x += self._dropout(self._hidden(x), training=training)
        return tf.math.l2_normalize(self._output(x), axis=-1)


class TwoTower(tf.keras.Model):
    """The retrieval model.

    Args:
        fitted: The fitted schema.
        config: Sizes and sampling.
        catalogue: All ads, with click counts; the uniform negatives come from it.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        config: config_lib.RetrievalConfig,
        catalogue: reader.Catalogue,
    ) -> None:
        super().__init__()
        schema = fitted.schema
        self.query_tower = Tower(fitted, schema.query_fields, config)
        self.ad_tower = Tower(fitted, schema.ad_fields, config)
        self._log_inverse_temperature = tf.Variable(
            -math.log(config.initial_temperature), name="log_inverse_temperature", dtype=tf.float32
        )
        self._num_uniform = config.uniform_negatives
        self._num_ads = len(catalogue)
        # The catalogue and its counts are data, not weights: checkpoints leave them out.
        self._ad_features = tf.constant(np.asarray(catalogue.features))
        self._sampling_probability = tf.constant(
            sampling.mixture_probability(
                catalogue.clicks, config.batch_size, config.uniform_negatives
            )
        )
        self.task = tfrs.tasks.Retrieval(remove_accidental_hits=True)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The embedding tables, which take sparse updates."""
        towers = (self.query_tower, self.ad_tower)
        return [v for tower in towers for v in tower.field_embeddings.sparse_variables]

    @property
    def temperature(self) -> tf.Tensor:
        return tf.exp(-self._log_inverse_temperature)

    def loss(self, batch: reader.Batch, training: bool = True) -> tf.Tensor:
        """Returns the mean sampled-softmax loss of clicks.

        Args:
            batch: `query` [B, Wq], `ad` [B, Wa] and `ad_row` [B], int32.
            training: Whether dropout is on.
        """
        uniform_rows = tf.random.uniform([self._num_uniform], maxval=self._num_ads, dtype=tf.int32)
        ad_rows = tf.concat([batch["ad_row"], uniform_rows], axis=0)  # [B + U]
        ads = tf.concat([batch["ad"], tf.gather(self._ad_features, uniform_rows)], axis=0)
        query_embeddings = self.query_tower(batch["query"], training=training)
        ad_embeddings = self.ad_tower(ads, training=training)
        summed = self.task(
            query_embeddings * tf.exp(self._log_inverse_temperature),
            ad_embeddings,
            candidate_sampling_probability=tf.gather(self._sampling_probability, ad_rows),
            candidate_ids=ad_rows,
            compute_metrics=False,
            compute_batch_metrics=False,
        )
        return summed / tf.cast(tf.shape(batch["query"])[0], tf.float32)

    def embedding_penalty(self, batch: reader.Batch) -> tf.Tensor:
        """Returns the mean squared norm of the field embeddings that a batch uses."""
        query = self.query_tower.field_embeddings(batch["query"])
        ad = self.ad_tower.field_embeddings(batch["ad"])
        return tf.reduce_mean(tf.reduce_sum(tf.square(query), axis=[-2, -1])) + tf.reduce_mean(
            tf.reduce_sum(tf.square(ad), axis=[-2, -1])
        )


def embed_in_batches(tower: Tower, ids: np.ndarray, batch_size: int = 8192) -> np.ndarray:
    """Embeds ids [N, W] int32 as [N, D] float32."""
    parts = [
        tower.embed(tf.constant(ids[first : first + batch_size])).numpy()
        for first in range(0, len(ids), batch_size)
    ]
    return np.concatenate(parts)


def exact_top_k(
    query_embeddings: np.ndarray, ad_embeddings: np.ndarray, k: int, batch_size: int = 256
) -> np.ndarray:
    """Returns the rows [N, min(k, ads)] of the largest inner products, best first."""
    ads = tf.constant(ad_embeddings)
    k = min(k, len(ad_embeddings))
    rows = [
        tf.math.top_k(
            tf.matmul(query_embeddings[first : first + batch_size], ads, transpose_b=True), k
        ).indices.numpy()
        for first in range(0, len(query_embeddings), batch_size)
    ]
    return np.concatenate(rows)
