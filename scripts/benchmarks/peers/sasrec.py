"""SASRec: self-attention over the ads that a user clicked, in their order, predicts the next one.

The order comes from a history of the schema, which lists the ads clicked before each request. A
sequence is such a history and the ad clicked after it; each of its clicks is predicted from those
before. A pass draws as many sequences as hold all clicks once. The loss is a softmax over all ads
instead of the paper's one sampled negative, with which the model is far weaker.

Shapes: B sequences, L + 1 clicks of a sequence, V ids of ads, N ads, Q queries, D embedding.

References:
    Kang and McAuley, Self-Attentive Sequential Recommendation, 2018.
    Klenitskiy and Vasilev, Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?,
        2023 (the softmax over all ads).
"""

import math

import numpy as np
import tensorflow as tf

from tfrec import layers
from tfrec.evaluation import corpus_ranking
from tfrecords import encoding, reader
from tfrecords.schema import AD


class SasRec(tf.keras.Model):
    """Scores of the next ad after each click of a sequence.

    Args:
        num_ids: V, with 0, which is padding.
        length: L.
        embedding_dim: D.
        num_blocks: Blocks of self-attention.
        dropout: Dropout rate.
    """

    def __init__(
        self, num_ids: int, length: int, embedding_dim: int, num_blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.ads = tf.keras.layers.Embedding(num_ids, embedding_dim)
        self.positions = tf.keras.layers.Embedding(length, embedding_dim)
        self.dropout = tf.keras.layers.Dropout(dropout)
        self.blocks = [Block(embedding_dim, dropout) for _ in range(num_blocks)]
        self.norm = tf.keras.layers.LayerNormalization(epsilon=1e-6)

    def states(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns states [B, L, D] after each click of ids [B, L]; padding comes first."""
        x = self.ads(ids) + self.positions(tf.range(tf.shape(ids)[1]))
        x = self.dropout(x, training=training)
        present = tf.not_equal(ids, 0)
        for block in self.blocks:
            x = block(x, present, training=training)
        return self.norm(x)

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the logits [B, L, V] of the clicks after the clicks of ids [B, L]."""
        states = self.states(ids, training)
        # Multiplying a matrix is three times as fast as multiplying a batch.
        logits = tf.matmul(
            tf.reshape(states, [-1, states.shape[-1]]), self.ads.embeddings, False, True
        )
        return tf.reshape(logits, tf.concat([tf.shape(ids), [tf.shape(logits)[1]]], axis=0))


class Block(tf.keras.layers.Layer):
    """Causal self-attention and a feed-forward layer, as in the paper."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.query_norm, self.norm = (
            tf.keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)
        )
        self.attention = tf.keras.layers.MultiHeadAttention(1, dim, dropout=dropout)
        self.hidden = tf.keras.layers.Dense(dim, activation="relu")
        self.output_layer = tf.keras.layers.Dense(dim)
        self.dropout = tf.keras.layers.Dropout(dropout)

    def call(self, x: tf.Tensor, present: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Updates states x [B, L, D]; those that are not `present` [B, L] are not attended to."""
        attended = self.attention(
            self.query_norm(x),
            x,
            attention_mask=present[:, None, :],
            use_causal_mask=True,
            training=training,
        )
        x = self.norm(x + attended)
        hidden = self.dropout(self.hidden(x), training=training)
        return x + self.dropout(self.output_layer(hidden), training=training)


class Recommender:
    """Scores ads after the clicks of a query's history.

    Args:
        data_set: Its schema has a history of clicked ads.
        query: [C, Wq] encoded queries of clicks to learn from.
        ads: [C, Wa] the ads clicked.
        seed: Seed of the initialization and the order.
        embedding_dim: D.
        num_blocks: Blocks of self-attention.
        dropout: Dropout rate.
        learning_rate: Rate of Adam.
        epochs: Passes.
        batch_size: Sequences in a step.

    Raises:
        ValueError: The schema has no history of ads, or the ads no field of their ids.
    """

    def __init__(
        self,
        data_set: reader.DataSet,
        query: np.ndarray,
        ads: np.ndarray,
        seed: int,
        *,
        embedding_dim: int,
        num_blocks: int,
        dropout: float,
        learning_rate: float,
        epochs: int,
        batch_size: int,
    ) -> None:
        columns, keys = history_of_ads(data_set), layers.KeyIds.for_ads(data_set.fitted)
        if columns is None or keys is None:
            raise ValueError(
                f"The schema of {data_set.directory} has no history of ads, or no categorical "
                "field that is the ad_key; SASRec expects both."
            )
        self._columns = columns
        self._ids = keys.ids_in(np.asarray(data_set.catalog().features))
        tf.keras.backend.clear_session()  # a search builds many models
        tf.keras.utils.set_random_seed(seed)
        sequences = np.hstack([self._histories(query), keys.ids_in(ads)[:, None]])
        # The first click of a user has nothing before it.
        sequences = sequences[sequences[:, -2] > 0]
        length = sequences.shape[1] - 1
        self._model = SasRec(keys.cardinality, length, embedding_dim, num_blocks, dropout)
        if not len(sequences):
            return
        optimizer = tf.keras.optimizers.Adam(learning_rate, beta_2=0.98)
        # A step that creates variables is traced twice.
        self._model(sequences[:1, :-1])
        optimizer.build(self._model.trainable_variables)
        self._model.compile(optimizer, _softmax_of_clicks)
        mean_clicks = (sequences > 0).sum(axis=1).mean()
        per_pass = math.ceil(len(sequences) / mean_clicks)
        drawn = reader.without_tuning(tf.data.Dataset.from_tensor_slices(sequences))
        drawn = drawn.shuffle(len(sequences), seed=seed)
        batches = drawn.repeat().batch(min(batch_size, per_pass))
        self._model.fit(
            batches.map(lambda batch: (batch[:, :-1], batch[:, 1:])),
            epochs=epochs,
            steps_per_epoch=math.ceil(per_pass / batch_size),
            verbose=0,
        )

    def _histories(self, query: np.ndarray) -> np.ndarray:
        """Returns the ids [C, L] of the histories of queries, oldest first."""
        ids = query[:, self._columns.values]
        length = ids.shape[1]
        missing = length - (ids > 0).sum(axis=1, keepdims=True)
        # Histories are padded at their end.
        order = (np.arange(length) - missing) % length
        return np.take_along_axis(ids, order, axis=1)

    def __call__(self, queries: corpus_ranking.Queries) -> np.ndarray:
        """Returns the scores [Q, N] of all ads."""
        states = self._model.states(tf.constant(self._histories(queries.query)))[:, -1]
        return states.numpy() @ self._model.ads.embeddings.numpy()[self._ids].T


def _softmax_of_clicks(ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns the mean loss of ids [B, L] that are not padding."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids, logits)
    is_click = tf.cast(ids > 0, losses.dtype)
    return tf.reduce_sum(losses * is_click) / tf.reduce_sum(is_click)


def history_of_ads(data_set: reader.DataSet) -> encoding.HistoryColumns | None:
    """Returns the columns of the first history of clicked ads, or None."""
    for field, columns in encoding.columns(data_set.schema.query_fields):
        if field.kind == "history" and field.of == AD and "click" in field.event:
            return encoding.history_columns(field, columns)
    return None
