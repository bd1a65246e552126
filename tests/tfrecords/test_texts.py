"""Encoders of texts."""

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import encoding, texts
from tfrecords import schema as schema_lib


class Lengths(texts.TextEncoder):
    """The number of bytes of a text, and one."""

    def encode(self, texts):
        lengths = tf.cast(tf.strings.length(texts), tf.float32)
        return tf.stack([lengths, tf.ones_like(lengths)], axis=1)


class Eager(texts.TextEncoder):
    """Needs the texts themselves, as an encoder of another framework does."""

    def encode(self, texts):
        return tf.constant([[float(len(text)), 1.0] for text in texts.numpy()])


class Doubles(Lengths):
    """Returns float64, as a table that NumPy made does."""

    def encode(self, texts):
        return tf.cast(super().encode(texts), tf.float64)


class Calling(Lengths):
    """Calls Python, which the exported models cannot."""

    def encode(self, texts):
        vectors = tf.numpy_function(np.copy, [super().encode(texts)], tf.float32)
        return tf.ensure_shape(vectors, [None, 2])


class Logarithms(Lengths):
    """Its vectors of texts of one byte are not numbers."""

    def encode(self, texts):
        vectors = tf.math.log(super().encode(texts))
        return vectors / vectors


class Centered(Lengths):
    """Subtracts the mean of the batch."""

    def encode(self, texts):
        vectors = super().encode(texts)
        return vectors - tf.reduce_mean(vectors, axis=0)


class WithoutLength(Lengths):
    """Its constructor takes no length."""

    def __init__(self):
        super().__init__(2)


class Failing(Lengths):
    """Its constructor has an error of its own."""

    def __init__(self, length):
        super().__init__(length + None)


def title(**options):
    return schema_lib.Field("title", "text", "ad", **options)


def encoder_of(field):
    query = schema_lib.Field("q", "categorical", "query")
    schema = schema_lib.Schema("s", (query, field), ad_key=("title",), click=None)
    statistics = {f.name: encoding.FieldStatistics() for f in schema.fields}
    return encoding.Encoder(encoding.FittedSchema(schema, statistics), schema.ad_fields)


def similarity(one, other):
    vectors = texts.HashedNgrams(256).encode(tf.constant([one, other])).numpy()
    return vectors[0] @ vectors[1] / np.linalg.norm(vectors, axis=1).prod()


def test_ngrams_are_counted_with_signs():
    # "ab" is the word <ab>; its n-grams are <a ab b>, <ab ab>, and <ab>; no 5-gram. <ab> counts
    # twice, as word and 4-gram: 3 + 2 + 2 = 7 in all, each +1 or -1 in one of very many buckets.
    (vector,) = texts.HashedNgrams(1 << 20).encode(tf.constant(["ab"])).numpy()
    assert sorted(np.abs(vector[vector != 0]).tolist()) == [1, 1, 1, 1, 1, 2]


def test_a_text_is_encoded_alone_as_in_a_batch_and_nothing_as_zeros():
    encoder = texts.HashedNgrams(16)
    rows = ["red shoes", "", "  ", "赤い靴", "красные туфли", "a"]
    batch = encoder.encode(tf.constant(rows)).numpy()
    alone = np.concatenate([encoder.encode(tf.constant([row])) for row in rows])
    np.testing.assert_array_equal(batch, alone)
    assert not batch[1:3].any()
    assert batch[[0, 3, 4, 5]].any(axis=1).all()
    assert encoder.encode(tf.constant([], tf.string)).shape == (0, 16)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("Red running shoes", "red shoe for runners", "garden furniture"),
        ("Кроссовки для бега", "беговые кроссовки", "садовая мебель"),
        ("北京的春天旅行", "北京旅行", "花园家具"),
        ("Laufschuhe", "Schuhe zum Laufen", "Gartenmöbel"),
    ],
)
def test_texts_that_share_parts_of_words_are_similar_in_any_language(text, near, far):
    assert similarity(text, near) > 0.2 + similarity(text, far)


def test_case_and_spaces_do_not_count():
    assert similarity("Red  SHOES ", "red shoes") == pytest.approx(1.0)


def test_a_custom_encoder_is_named_by_module_and_class():
    encoder = encoder_of(title(length=2, encoder=f"{__name__}:Lengths"))
    columns = encoder({"title": tf.constant(["abcd", "", "ä"])})
    # (4, 1) by 4, missing, and two bytes (2, 1) by 2: 0x3c00 is 1, 0x3400 is 1/4, 0x3800 is 1/2.
    assert columns.numpy().tolist() == [[0x34003C00], [0], [0x38003C00]]


def test_an_encoder_that_is_not_a_graph_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"(?s)not a TensorFlow graph.*kind \"dense\""):
        texts.encoder_of(title(length=2, encoder=f"{__name__}:Eager"))


def test_an_encoder_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r'returns vectors of shape .None, 2..*"length": 2'):
        texts.encoder_of(title(length=3, encoder=f"{__name__}:Lengths"))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("Doubles", r"'title': .*Doubles' returns vectors of type float64; expected float32"),
        ("Calling", r"Calling' calls Python, which a model server cannot run.*kind \"dense\""),
        ("WithoutLength", r"cannot be built: .* Expected a constructor with the argument length"),
    ],
)
def test_an_encoder_that_the_towers_could_not_contain_is_refused(encoder, message):
    with pytest.raises(ValueError, match=message):
        texts.encoder_of(title(length=2, encoder=f"{__name__}:{encoder}"))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("Logarithms", r"'title': .*Logarithms' returns a .* nan for 'abc'.* Return zeros"),
        ("Centered", r"Centered' returns .* for 'abc' that changes by .* Encode each text in"),
    ],
)
def test_vectors_that_a_request_alone_would_not_have_are_refused(encoder, message):
    field = title(length=2, encoder=f"{__name__}:{encoder}")
    encoder = encoder_of(field)
    with pytest.raises(ValueError, match=message):
        encoder.encode_texts(field, np.array(["", "abc", "de"], object))


def test_an_error_in_the_constructor_of_an_encoder_is_shown_as_it_is():
    with pytest.raises(TypeError, match="unsupported operand"):
        texts.encoder_of(title(length=2, encoder=f"{__name__}:Failing"))


def test_an_unknown_encoder_names_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown text encoder 'hashed_ngram'.*hashed_ngrams"):
        texts.encoder_of(title(encoder="hashed_ngram"))
