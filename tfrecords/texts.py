"""Encoders of texts: a text field is a vector that an encoder computes from a string.

Your own encoder is a subclass of `TextEncoder`. A schema names it as MODULE:CLASS, or by the
name of an entry point of the group `tfrec.text_encoders`:

    {"name": "title", "kind": "text", "side": "ad", "length": 300,
     "encoder": "our_package:WordVectors"}

An encoder is a TensorFlow graph. The conversion calls it and the exported towers contain it, so a
new ad or a request needs only its text. Vectors from any other encoder go into a `dense` field.

Shapes: B texts, n values of a vector, W words, G n-grams.

References:
    Bojanowski et al., Enriching Word Vectors with Subword Information, 2017 (n-grams of characters
    between word boundaries).
    Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009 (signed buckets).
"""

import functools
import traceback

import tensorflow as tf

from tfrecords import plugins
from tfrecords.schema import Field

_NGRAMS = (2, 3, 4, 5)
_GRAPH_REMEDY = (
    "The exported models run it on new ads and on requests. Write it in TensorFlow; or compute its "
    'vectors before the conversion, name them as a field of kind "dense", and send the vector with '
    "new ads and requests."
)


class TextEncoder(plugins.Plugin, tf.Module):
    """Turns texts into vectors.

    Variables, tables and assets that are attributes are saved with the exported models.

    Args:
        length: Number of values n of a vector, from the schema.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def encode(self, texts: tf.Tensor) -> tf.Tensor:
        """Encodes each text independently of the others, in TensorFlow.

        Args:
            texts: [B] string, UTF-8; "" is missing, and its vector is not used.

        Returns:
            [B, n] float32. Only the direction counts.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `encode`.")


class HashedNgrams(TextEncoder):
    """Counts n-grams of 2 to 5 characters, and words, in hashed buckets with signs.

    It needs no training and no vocabulary, works in any language, and gives texts that share words
    or parts of words similar vectors. In scripts without spaces, n-grams replace words.
    """

    def encode(self, texts: tf.Tensor) -> tf.Tensor:
        """See `TextEncoder`."""
        words = tf.strings.split(tf.strings.lower(texts, encoding="utf-8"))  # [B, (words)]
        word = tf.strings.join(["<", words.flat_values, ">"])  # [W]
        characters = tf.strings.unicode_split(word, "UTF-8")  # [W, (characters)]
        grams, owners = [word], [words.value_rowids()]
        for n in _NGRAMS:
            ngrams = tf.strings.ngrams(characters, n, separator="")  # [W, (n-grams)]
            grams.append(ngrams.flat_values)
            owners.append(tf.gather(words.value_rowids(), ngrams.value_rowids()))
        hashed = tf.strings.to_hash_bucket_fast(tf.concat(grams, axis=0), 2 * self.length)  # [G]
        sign = tf.where(hashed < self.length, 1.0, -1.0)
        cell = tf.concat(owners, axis=0) * self.length + hashed % self.length
        num_texts = tf.shape(texts, out_type=tf.int64)[0]
        counts = tf.math.unsorted_segment_sum(sign, cell, num_texts * self.length)
        return tf.reshape(counts, [-1, self.length])


TEXT_ENCODERS: plugins.Registry[type[TextEncoder]] = plugins.Registry(
    "text encoder",
    "tfrec.text_encoders",
    {"hashed_ngrams": "tfrecords.texts:HashedNgrams"},
    "a subclass of tfrecords.texts.TextEncoder",
    plugins.subclass_of(TextEncoder),
)


def encoder_of(field: Field) -> TextEncoder:
    """Returns the encoder of a text field, which is built once per process and source.

    Raises:
        ValueError: There is no such encoder; it cannot be built; it is not a TensorFlow graph; or
            its vectors have another type, or a length other than the field's.
    """
    return _built(field, TEXT_ENCODERS.digest(field.encoder))


@functools.cache
def _built(field: Field, source: str | None) -> TextEncoder:
    assert field.length is not None
    kind = TEXT_ENCODERS.get(field.encoder)
    where = f"Field {field.name!r}: the text encoder {field.encoder!r}"
    try:
        encoder = kind(field.length)
    except TypeError as error:
        if traceback.extract_tb(error.__traceback__)[1:]:
            raise  # The call is valid, but the constructor fails.
        raise ValueError(
            f"{where} cannot be built: {error}. Expected a constructor with the argument length."
        ) from error
    encode = tf.function(encoder.encode, input_signature=[tf.TensorSpec([None], tf.string)])
    try:
        graph = encode.get_concrete_function()
        shape, dtype = graph.structured_outputs.shape, graph.structured_outputs.dtype
    except (AttributeError, TypeError, NotImplementedError, tf.errors.OpError) as error:
        raise ValueError(
            f"{where} is not a TensorFlow graph from [B] strings to [B, length] float32 "
            f"({type(error).__name__}: {error}). {_GRAPH_REMEDY}"
        ) from error
    if any(op.type in plugins.PYTHON_OPERATIONS for op in graph.graph.get_operations()):
        raise ValueError(f"{where} calls Python, which a model server cannot run. {_GRAPH_REMEDY}")
    if dtype != tf.float32:
        raise ValueError(
            f"{where} returns vectors of type {dtype.name}; expected float32. Return "
            "tf.cast(vectors, tf.float32)."
        )
    if shape.rank != 2 or shape[1] not in (None, field.length):
        raise ValueError(
            f"{where} returns vectors of shape {shape}; the schema expects [B, {field.length}]. "
            f'Write "length": {shape[-1] if shape.rank == 2 else "its length"}.'
        )
    return encoder
