"""A tower: the encoded fields of one side to an embedding of length one.

Shapes: B rows, W columns of ids, F fields, E field embedding, D embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfrec import layers, training
from tfrec.config import RetrievalConfig
from tfrecords import encoding, schema, terminal

FREQUENCY_STDDEV = 0.01
# The attribute of a tower that holds its graph.
_GRAPH = "_tfrec_graph"
# Sums of float32 in another order differ by less.
_TOLERANCE = 1e-3
_FIELDS_WIDTH, _MIN_FIELD_DIM, _MAX_FIELD_DIM = 256, 16, 128


class Tower(training.SavedAsWeights, tf.keras.Model):
    """Maps the encoded fields of one side to an embedding of length one.

    Args:
        fitted: The fitted schema.
        fields: The side's fields.
        config: Sizes, dropout and number of cross layers.
        frequency_stddev: See `layers.FieldEmbeddings`.
        ties: From `layers.find_histories`; for the query side.
        ads: The ad side's embeddings; for the query side.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        fields: Sequence[schema.Field],
        config: RetrievalConfig,
        frequency_stddev: float = FREQUENCY_STDDEV,
        ties: layers.Ties | None = None,
        ads: layers.FieldEmbeddings | None = None,
    ) -> None:
        super().__init__()
        dim = config.field_dim or automatic_field_dim(len(fields))
        self.field_embeddings = layers.FieldEmbeddings(
            fitted, fields, dim, ties, ads, frequency_stddev
        )
        users = layers.KeyIds.for_users(fitted)
        self.user_clicks = (
            layers.UserClicks(users, fitted, dim)
            if users is not None and ads is not None and not ties
            else None
        )
        self.input_layer = tf.keras.layers.Dense(config.hidden_dim)
        self.crosses = [layers.CrossLayer() for _ in range(config.num_cross_layers)]
        self.hidden_layer = tf.keras.layers.Dense(config.hidden_dim, activation="relu")
        self.output_layer = tf.keras.layers.Dense(config.embedding_dim)
        self.dropout = layers.Dropout(config.dropout)

    @property
    def ad_readers(self) -> list[tuple[int, tf.keras.layers.Dense]]:
        """Field index and map from flat ad embeddings to the field's, for fields that have one."""
        readers = self.field_embeddings.ad_readers
        if self.user_clicks is not None:
            readers = [*readers, (self.field_embeddings.num_fields, self.user_clicks.map)]
        return readers

    @property
    def later_layers(self) -> list[tf.keras.layers.Layer]:
        """The layers after the first, with the same shapes in both towers."""
        return [*self.crosses, self.hidden_layer, self.output_layer]

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds ids [B, W] int32 as [B, D] float32, L2-normalized."""
        fields = self.field_embeddings(ids)
        if self.user_clicks is not None:
            fields = with_field(fields, self.user_clicks.stored_sums(ids))
        return self.combine(fields, training)

    def combine(self, field_embeddings: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the embedding [B, D] of field embeddings [B, F, E].

        The last of the F belongs to `user_clicks`, if any.
        """
        flat = layers.flatten(field_embeddings)
        x0 = self.input_layer(self.dropout(flat, training=training))
        x = x0
        for cross in self.crosses:
            x = cross(x0, x)
        x += self.dropout(self.hidden_layer(x), training=training)
        return tf.math.l2_normalize(self.output_layer(x), axis=-1)


def check(tower: tf.keras.layers.Layer, ids: tf.Tensor, where: str) -> int:
    """Checks the output of a tower, and returns the length of its embeddings.

    Args:
        tower: The tower; its weights are created.
        ids: [B, W] int32.
        where: Name of the tower, for messages.

    Raises:
        ValueError: It is not a layer, fails for these ids, or does not return [B, D] float32
            embeddings of length one; an embedding depends on other rows; or a call changes a
            variable, reads one that is not a weight, or calls Python.
    """
    if not isinstance(tower, tf.keras.layers.Layer):
        raise ValueError(
            f"{where}: expected a tf.keras.layers.Layer, got {type(tower).__name__}. Make a layer "
            "or a tf.keras.Model of it."
        )
    try:
        embeddings, size = tower(ids), ids.shape[0]
    except tf.errors.InvalidArgumentError as error:
        raise layers.ids_error(where, error) from error
    if not tf.is_tensor(embeddings):
        raise ValueError(
            f"{where}: expected a tensor of embeddings, got {type(embeddings).__name__}. Return "
            "one vector for each row."
        )
    if embeddings.shape.rank != 2 or embeddings.shape[0] != size:
        raise ValueError(
            f"{where}: expected embeddings of shape [{size}, D] of {size} rows of ids, got "
            f"{list(embeddings.shape)}. Return one vector for each row."
        )
    if embeddings.dtype != tf.float32:
        raise ValueError(
            f"{where}: expected embeddings of type float32, got {embeddings.dtype.name}. Return "
            "tf.cast(x, tf.float32)."
        )
    length = float(tf.reduce_max(tf.norm(embeddings, axis=-1)))
    if not length <= 1.001:
        raise ValueError(
            f"{where}: expected finite embeddings of length one, got {length:.4g}. Return "
            "tf.math.l2_normalize(x, axis=-1)."
        )
    with layers.check_stateless(tower, where):
        alone = tf.concat([tower(ids[row : row + 1]) for row in range(size)], axis=0)
    difference = float(tf.reduce_max(tf.abs(embeddings - alone)))
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"{where}: the embedding of a row changes by {difference:.3g} if other rows are in the "
            "batch, or between two calls; expected it to depend on its own row alone."
        )
    if layers.needs_autograph(tower):
        traced = tf.function(lambda ids: tower(ids)).get_concrete_function(ids)
        layers.check_operations(traced.graph, where)
    return int(embeddings.shape[1])


def graph_of(tower: tf.keras.layers.Layer, width: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a tower of ids [B, width] as a graph, without dropout; traced once."""
    held = vars(tower)
    if _GRAPH not in held:
        function = tf.function(lambda ids: tower(ids), autograph=layers.needs_autograph(tower))
        # Traced here: TensorFlow would warn of retracing, since the towers share the lambda's code.
        held[_GRAPH] = function.get_concrete_function(tf.TensorSpec([None, width], tf.int32))
    return held[_GRAPH]


def embed_in_batches(
    tower: tf.keras.layers.Layer, ids: np.ndarray, batch_size: int = 8192
) -> np.ndarray:
    """Embeds ids in batches.

    Args:
        tower: The tower of the ids' side.
        ids: [N, W] int32.
        batch_size: Rows embedded at once.

    Returns:
        [N, D] float32, L2-normalized.
    """
    embed = graph_of(tower, ids.shape[1])
    found, starts = np.empty((0, 0), np.float32), range(0, len(ids), batch_size)
    parts = terminal.map_with_progress(
        lambda first: embed(tf.constant(ids[first : first + batch_size])).numpy(),
        starts,
        "embedding",
        "batches",
    )
    for first, part in zip(starts, parts, strict=True):
        if not first:
            # Filled in place: a list of parts would be in memory twice.
            found = np.empty((len(ids), part.shape[1]), part.dtype)
        found[first : first + len(part)] = part
    return found


def with_field(fields: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
    """Appends an embedding [B, E] to field embeddings [B, F, E]."""
    return tf.concat([fields, more[..., None, :]], axis=-2)


def automatic_field_dim(num_fields: int) -> int:
    """Returns the embedding length of a side's fields: longer for fewer fields.

    A side with a single id has only its embedding to distinguish users, or ads; with many fields,
    long embeddings overfit.
    """
    return min(max(_FIELDS_WIDTH // num_fields, _MIN_FIELD_DIM), _MAX_FIELD_DIM)
