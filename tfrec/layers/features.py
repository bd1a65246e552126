"""Field ids to embeddings, shared by towers and ranker.

All categorical fields of a side share one table, so a lookup is one gather. A value's embedding is
its own row plus a row for its frequency (ids are ranks by count): rare values share what they have
in common. A list or a history is the mean of its values' embeddings, in any order, unless it is
tied to the ad side (`histories`); an empty list is id 0, which has its own row. The last embeddings
of a side belong to tied histories by age. Vectors are scaled to length one and projected to as many
embeddings as their numbers fill, at most four. Numeric fields are quantile buckets, some of which
share an embedding. Buckets and frequencies use a thermometer code: bucket t is the sum of the
learned steps 1..t, so neighboring buckets share what they learn, and serving is still a lookup.

Shapes: B batch (any leading dimensions), F embeddings (one per field, one to four per vector,
`len(histories.AGE_CENTERS)` more per tied history, and one more than these per property of its
ads), W columns (one per field, `max_list_length` per list, two or three times `max_length` per
history, half of the length of a vector), E field embedding, T buckets, L values of a list, n values
of a vector.

References:
    Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, 2022
    (piecewise-linear, thermometer-like codes).
"""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from tfrec.layers import histories, numbers, replicas
from tfrecords import encoding, schema, vectors

FREQUENCY_BUCKETS = 64
_MAX_EMBEDDINGS_PER_VECTOR = 4
# Multiplies the projection of vectors. Adam moves a weight by about its rate in a step, so this is
# a rate ten times as high as for other layers: otherwise the tables of ids, which Adagrad moves
# fast, fit the log before the vectors have learned anything.
_KERNEL_SCALE = 10.0


class FieldEmbeddings(tf.keras.layers.Layer):
    """Embeds the encoded fields of one side.

    Args:
        fitted: The fitted schema, with each field's number of ids.
        fields: The fields, in the order of the columns; vectors are the last.
        dim: Dimension E of a field's embedding.
        ties: Lists among the fields that are tied to the ad side, from `find_histories`.
        ads: Embeds the ad side's fields; required with ties.
        frequency_stddev: Initial standard deviation of the frequency steps. The sum of many steps
            is longer than a row; with 0, values of the same frequency are distinct from the start.
        l2: In training, adds this times the mean squared norm of the looked up rows to the losses;
            padding, whose ids are all 0, does not count.

    Attributes:
        fields: The fields.
        list_widths: The maximum number of values of each list field.
    """

    def __init__(
        self,
        fitted: encoding.FittedSchema,
        fields: Sequence[schema.Field],
        dim: int,
        ties: histories.Ties | None = None,
        ads: Optional["FieldEmbeddings"] = None,
        frequency_stddev: float = 0.01,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self._dim = dim
        self._l2 = l2
        self._frequency_stddev = frequency_stddev
        self._ads = ads
        lists = [i for i, field in enumerate(fields) if field.is_list]
        strings = [i for i, field in enumerate(fields) if field.kind == "categorical"] + lists
        numeric = [i for i, field in enumerate(fields) if field.is_bucketed]
        columns = [
            np.arange(span.start, span.stop, dtype=np.int32)
            for _, span in encoding.value_columns(fields)
        ]
        self._string_columns = _joined([columns[i] for i in strings])
        ties = ties or {}
        # (index of the list, property) of each history that is derived from a history of ads.
        self._properties = [
            (number, derived)
            for number, i in enumerate(lists)
            for derived in histories.find_properties(fitted, fields[i], ties.get(fields[i].name))
        ]
        in_table = [
            *(fields[i] for i in strings),
            *(derived.field for _, derived in self._properties),
        ]
        sizes = [fitted.cardinality(field) for field in in_table]
        self._frequency_bucket = _joined(
            [
                index * FREQUENCY_BUCKETS + frequency_buckets(size, field.num_oov_buckets)
                for index, (size, field) in enumerate(zip(sizes, in_table, strict=True))
            ]
        )
        self._first_rows = np.cumsum([0, *sizes]).astype(np.int32)
        self._num_strings, self._num_numeric = len(strings), len(numeric)
        self.list_widths = [fields[i].list_length for i in lists]
        known = dict(encoding.columns(fields))
        list_poolings = [(i, ties.get(fields[i].name)) for i in lists]
        property_poolings = [(lists[k], derived.ad_features) for k, derived in self._properties]
        self._poolings = [
            _pooling(fields[i], known[fields[i]], ad_features, ads, dim)
            for i, ad_features in (*list_poolings, *property_poolings)
        ]
        buckets = [fitted.num_coarse_buckets(fields[i]) for i in numeric]
        self._num_buckets = max(buckets, default=0)
        first = range(0, len(numeric) * self._num_buckets, max(self._num_buckets, 1))
        self._numeric_rows = numbers.coarse_rows(fitted, fields, first)
        self._lists = lists
        self.vectors = [
            VectorEmbedding(field.length, field_columns, dim)
            for field, field_columns in zip(fields, columns, strict=True)
            if field.length is not None
        ]
        self._num_ids = len(strings) + len(numeric)
        self.num_fields = self._num_ids + sum(layer.num_embeddings for layer in self.vectors)
        self._first_by_age = self.num_fields
        self.num_fields += sum(
            pooling.num_by_age
            for pooling in self._poolings
            if isinstance(pooling, histories.HistoryPooling)
        ) + len(self._properties)
        self._order = np.argsort(strings + numeric)
        self._in_order = strings + numeric == list(range(self._num_ids))
        self.output_dim = self.num_fields * dim

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the tables."""
        if self._ads is not None and not self._ads.built:
            self._ads.build(input_shape)  # the shape has no effect
        if self._num_strings:
            self.table = self.add_weight(
                "table",
                (self._first_rows[-1], self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
            self.frequency_steps = self.add_weight(
                "frequency_steps",
                (len(self._first_rows) - 1, FREQUENCY_BUCKETS, self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=self._frequency_stddev),
            )
        if self._num_numeric:
            self.steps = self.add_weight(
                "steps",
                (self._num_numeric, self._num_buckets, self._dim),
                initializer=tf.keras.initializers.RandomNormal(stddev=0.01),
            )
        super().build(input_shape)

    @property
    def sparse_variables(self) -> list[tf.Variable]:
        """The tables whose gradients are sparse."""
        return [self.table] if self._num_strings else []

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Embeds encoded rows [B, W] int32 as [B, F, E] float32."""
        embeddings = self.embed(ids)
        if training and self._l2:
            squares = tf.square(embeddings)
            norms = tf.reduce_sum(squares[..., : self._num_ids, :], axis=[-2, -1])
            norms += tf.reduce_sum(squares[..., self._first_by_age :, :], axis=[-2, -1])
            exists = tf.cast(tf.reduce_any(tf.not_equal(ids, 0), axis=-1), norms.dtype)
            self.add_loss(self._l2 * replicas.weighted_mean(norms, exists))
        return embeddings

    def embed(self, ids: tf.Tensor) -> tf.Tensor:
        """Does what `call` does, without adding to the losses."""
        parts: list[tf.Tensor] = []
        by_age: list[tf.Tensor] = []
        if self._num_strings:
            values, by_age = self._embed_strings(ids)
            parts.append(values)
        if self._num_numeric:
            table = self._thermometer(self.steps)
            parts.append(tf.gather(table, self._numeric_rows(ids)))
        if not self._in_order:
            parts = [tf.gather(tf.concat(parts, axis=-2), self._order, axis=-2)]
        return tf.concat([*parts, *(vector(ids) for vector in self.vectors), *by_age], axis=-2)

    @property
    def ad_readers(self) -> list[tuple[int, tf.keras.layers.Dense]]:
        """For each tied list, its field's index, and the map from ads' embeddings to its own."""
        return [
            (index, pooling.map)
            for index, pooling in zip(self._lists, self._poolings, strict=False)
            if isinstance(pooling, histories.HistoryPooling)
        ]

    def list_ids(self, ids: tf.Tensor, number: int) -> tf.Tensor:
        """Returns the ids [B, L] of the list field at index `number`, from ids [B, W] int32."""
        first = self._num_single + sum(self.list_widths[:number])
        columns = self._string_columns[first : first + self.list_widths[number]]
        return tf.gather(ids, columns, axis=-1)

    def count(self, ids: np.ndarray, weights: np.ndarray) -> dict[Any, np.ndarray]:
        """Counts how often each row of the tables is looked up.

        Args:
            ids: [N, W] int32 encoded rows.
            weights: [N] how often each of them is embedded.

        Returns:
            Reference of a table [V, E] -> [V]; with ties, also of the table of the ads.
        """
        if not self._num_strings:
            return {}
        widths = [1] * self._num_single + self.list_widths
        values = np.split(ids[:, self._string_columns], np.cumsum(widths)[:-1], axis=1)
        list_values = values[self._num_single :]
        values += [derived.ids[list_values[number]] for number, derived in self._properties]
        sizes = np.diff(self._first_rows)
        counts = [
            np.bincount(field_ids.ravel(), np.repeat(weights, field_ids.shape[1]), minlength=size)
            for field_ids, size in zip(values, sizes, strict=True)
        ]
        result = {self.table.ref(): np.concatenate(counts)}
        for pooling, list_counts in zip(self._poolings, counts[self._num_single :], strict=True):
            if isinstance(pooling, histories.HistoryPooling):
                assert self._ads is not None
                for table, ad_counts in self._ads.count(pooling.ad_features, list_counts).items():
                    result[table] = result.get(table, 0) + ad_counts
        return result

    def embed_values(self, ids: tf.Tensor, number: int) -> tf.Tensor:
        """Embeds the values [B, L] int32 of the list field at index `number` as [B, L, E]."""
        pooling, embed = self._poolings[number], self._own_values(number, self._by_frequency())
        return (
            pooling.embed(ids, embed)
            if isinstance(pooling, histories.HistoryPooling)
            else embed(ids)
        )

    @property
    def _num_single(self) -> int:
        return self._num_strings - len(self.list_widths)

    def _by_frequency(self) -> tf.Tensor:
        """Returns the embeddings of the frequency buckets of all string fields."""
        return self._thermometer(self.frequency_steps)

    def _embed_rows(self, rows: tf.Tensor, by_frequency: tf.Tensor) -> tf.Tensor:
        """Returns the embeddings of rows [...] of the table: their own plus their frequency's."""
        return tf.gather(self.table, rows) + tf.gather(
            by_frequency, tf.gather(self._frequency_bucket, rows)
        )

    def _own_values(self, number: int, by_frequency: tf.Tensor) -> histories.EmbedIds:
        """Returns the function from ids of a list field, by its number, to their embeddings."""
        offset = self._first_rows[self._num_single + number]
        return lambda ids: self._embed_rows(ids + offset, by_frequency)

    def _embed_strings(self, rows: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Embeds the string fields of rows [B, W], each list pooled into one embedding.

        Returns:
            The embeddings of single values, then of lists, [B, strings, E]; and those by age of
            each list [B, A, E], where A is 0 without ages, then all of each property
            [B, 1 + A, E].
        """
        by_frequency = self._by_frequency()
        ids = tf.gather(rows, self._string_columns, axis=-1)
        single, *lists = tf.split(ids, [self._num_single, *self.list_widths], axis=-1)
        values = self._embed_rows(single + self._first_rows[: self._num_single], by_frequency)
        num_lists = len(lists)
        lists += [tf.gather(derived.ids, lists[number]) for number, derived in self._properties]
        pooled = [
            pool(list_ids, rows, self._own_values(number, by_frequency))
            for number, (pool, list_ids) in enumerate(zip(self._poolings, lists, strict=True))
        ]
        pooled, properties = pooled[:num_lists], pooled[num_lists:]
        by_age = [embedded[..., 1:, :] for embedded in pooled]
        values = tf.concat([values, *(embedded[..., :1, :] for embedded in pooled)], axis=-2)
        return values, [*by_age, *properties]

    def _thermometer(self, steps: tf.Tensor) -> tf.Tensor:
        """Sums steps [F, T, E] up to each bucket as [F T, E]; bucket 0 (missing) is separate."""
        # A product is faster than a cumulative sum.
        up_to = np.tril(np.ones([steps.shape[1]] * 2, np.float32))
        up_to[1:, 0] = 0.0
        return tf.reshape(tf.matmul(up_to, steps), [-1, self._dim])


class VectorEmbedding(tf.keras.layers.Layer):
    """Projects a vector field, scaled to length one; a missing vector has its own embeddings.

    Args:
        length: Number of values n.
        columns: Columns of the field in encoded rows.
        dim: Dimension E of an embedding.
    """

    def __init__(self, length: int, columns: np.ndarray, dim: int) -> None:
        super().__init__()
        self._length, self._dim = length, dim
        self._first, self._end = int(columns[0]), int(columns[-1]) + 1
        self.num_embeddings = min(-(-length // dim), _MAX_EMBEDDINGS_PER_VECTOR)

    def build(self, input_shape: tf.TensorShape) -> None:
        """Creates the projection and the embeddings of a missing vector."""
        width = self.num_embeddings * self._dim
        self.kernel = self.add_weight(
            "kernel",
            (self._length, width),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.1 / _KERNEL_SCALE),
        )
        self.missing = self.add_weight(
            "missing", (width,), initializer=tf.keras.initializers.RandomNormal(stddev=0.1)
        )
        super().build(input_shape)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeds the field of encoded rows [B, W] int32 as [B, embeddings, E] float32."""
        codes = rows[..., self._first : self._end]
        values = tf.math.l2_normalize(vectors.decode(codes, self._length), axis=-1)
        present = tf.reduce_any(tf.not_equal(codes, 0), axis=-1, keepdims=True)
        leading = tf.shape(rows)[:-1]
        flat = _KERNEL_SCALE * tf.matmul(tf.reshape(values, [-1, self._length]), self.kernel)
        flat = tf.where(tf.reshape(present, [-1, 1]), flat, self.missing)
        shape = tf.concat([leading, [self.num_embeddings, self._dim]], axis=0)
        return tf.reshape(flat, shape)


def embedding_tables(model: tf.Module) -> list[tf.Variable]:
    """Returns the trainable tables of the built embedding layers in a model, ours and Keras's."""
    tables: list[tf.Variable] = []
    for part in model.submodules:
        if isinstance(part, FieldEmbeddings) and part.built and part.trainable:
            tables += part.sparse_variables
        elif isinstance(part, tf.keras.layers.Embedding):
            tables += part.trainable_weights
    return tables


def history_tables(model: tf.Module) -> list[tf.Variable]:
    """Returns the tables of ad features [V, Wa] that the histories of a model read."""
    poolings = (p for p in model.submodules if isinstance(p, histories.HistoryPooling))
    return [pooling.ad_table for pooling in poolings]


def _pooling(
    field: schema.Field,
    span: slice,
    ad_features: np.ndarray | None,
    ads: Optional["FieldEmbeddings"],
    dim: int,
) -> Callable[[tf.Tensor, tf.Tensor, histories.EmbedIds], tf.Tensor]:
    """Returns the pooling of a list's ids [B, L], with all columns [B, W] and embeddings of ids.

    The result is [B, 1, E], with more embeddings for a tied history.
    """
    if ad_features is None or ads is None:
        return lambda ids, _, embed: mean_of_values(embed(ids), ids)[..., None, :]
    columns = encoding.history_columns(field, span) if field.kind == "history" else None
    return histories.HistoryPooling(ad_features, ads.embed, dim, columns)


def frequency_buckets(num_ids: int, num_oov_buckets: int) -> np.ndarray:
    """Returns the frequency bucket [num_ids] int32 of each id of a categorical field.

    Bucket 0 is missing; then two buckets for each doubling of the rank; the last bucket is
    out-of-vocabulary values. No bucket is empty: otherwise all steps up to the rare values would
    learn from these at once and move them far from the others.
    """
    ranks = np.arange(1, num_ids - num_oov_buckets)
    doublings = np.minimum((2 * np.log2(ranks)).astype(np.int32), FREQUENCY_BUCKETS - 3)
    known = 1 + np.unique(doublings, return_inverse=True)[1]
    unknown = np.full(num_oov_buckets, known.max(initial=0) + 1)
    return np.concatenate([[0], known, unknown])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenates any number of index vectors as int32."""
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32)


def mean_of_values(values: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Averages the embeddings of a list's values.

    Args:
        values: [B, L, E] float32 embeddings of the ids.
        ids: [B, L] int32; 0 is padding.

    Returns:
        [B, E] float32: the mean over ids that are not 0, or the embedding of 0 for an empty list.
    """
    present = tf.not_equal(ids, 0)
    # The mean over an empty list, L times id 0, is the embedding of id 0.
    present |= tf.logical_not(tf.reduce_any(present, axis=-1, keepdims=True))
    weights = tf.cast(present, values.dtype)
    total = tf.reduce_sum(values * weights[..., None], axis=-2)
    return total / tf.reduce_sum(weights, axis=-1, keepdims=True)


def flatten(embeddings: tf.Tensor) -> tf.Tensor:
    """Reshapes [..., F, E] to [..., F * E]."""
    leading = tf.shape(embeddings)[:-2]
    width = embeddings.shape[-2] * embeddings.shape[-1]
    return tf.reshape(embeddings, tf.concat([leading, [width]], axis=0))
