"""The encoder: ids of known, unknown and missing values, and its two callers."""

import json
import math

import logs
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tfrecords import encoding
from tfrecords import schema as schema_lib
from tfrecords.conversion import fitting

COUNTRY = schema_lib.Field("country", "categorical", "query", min_count=2, num_oov_buckets=3)
AGE = schema_lib.Field("age", "numeric", "query", num_buckets=4)
SKU = schema_lib.Field("sku", "categorical", "ad", min_count=1)
SCHEMA = schema_lib.Schema("shop", (COUNTRY, AGE, SKU), ad_key=("sku",), click="clicked")
LOG = pa.table(
    {
        "country": pa.chunked_array([["CH", "DE", None, "CH", "", "DE"], ["DE", "FR", "AT", "AT"]]),
        "age": pa.chunked_array([[1.0, 2.0, None, 3.0, 4.0, 4.0], [4.0, None, -7.0, 4.0]]),
        "sku": pa.chunked_array([["a"] * 6, ["b"] * 4]),
    }
)


@pytest.fixture(scope="module")
def fitted():
    return logs.fit(SCHEMA, [LOG])


@pytest.fixture(scope="module")
def encoder(fitted):
    return encoding.Encoder(fitted, SCHEMA.query_fields)


def encode_country(encoder, *values):
    return encoder.encode_column(COUNTRY, tf.constant(values, tf.string)).numpy().tolist()


def encode_age(encoder, *values):
    return encoder.encode_column(AGE, tf.constant(values, tf.float32)).numpy().tolist()


def test_vocabulary_is_by_falling_count_then_value_and_drops_rare_and_missing(fitted):
    # DE three times; AT and CH twice; FR once, below min_count 2; null and "" never count.
    assert fitted.statistics["country"].vocabulary == ("DE", "AT", "CH")


def test_known_values_get_their_rank_and_missing_is_id_zero(encoder):
    assert encode_country(encoder, "DE", "AT", "CH", "") == [1, 2, 3, 0]
    assert encode_age(encoder, math.nan) == [0]


def test_unknown_values_fall_into_the_oov_range_always_the_same(encoder):
    unknown = [f"unknown {i}" for i in range(100)]
    ids = encode_country(encoder, *unknown)
    # Ids 1..3 are the vocabulary, so three OOV buckets are 4, 5 and 6.
    assert set(ids) == {4, 5, 6}
    assert ids == encode_country(encoder, *unknown)


def test_a_boundary_belongs_to_the_bucket_above_it(fitted, encoder):
    # Values −7 1 2 3 4 4 4 4: with so few of them, each has a bucket.
    assert fitted.statistics["age"].boundaries == (1.0, 2.0, 3.0, 4.0)
    assert encode_age(encoder, -1e9, -7, 1.9, 2, 3.9, 4, 1e9) == [1, 1, 2, 3, 4, 5, 5]
    assert encode_age(encoder, -math.inf, math.inf) == [1, 5]


def test_as_many_buckets_are_embedded_as_the_schema_says(fitted):
    # Quantiles 1/4, 2/4, 3/4 at positions 1.75, 3.5, 5.25 of 0..7, rounded up to observed values:
    # index 2 → 2, index 4 → 4, index 6 → 4.
    statistics = fitted.statistics["age"]
    assert [statistics.boundaries[index] for index in statistics.coarse] == [2.0, 4.0]
    # Missing; below 1 and from 1; from 2 and from 3; from 4.
    assert statistics.coarse_buckets().tolist() == [0, 1, 1, 2, 2, 3]
    # By default, each has an embedding.
    plain = encoding.FieldStatistics(boundaries=(1.0, 2.0))
    assert plain.coarse_buckets().tolist() == [0, 1, 2, 3]


def test_the_ids_of_a_numeric_field_fit_a_byte():
    values = np.random.default_rng(0).lognormal(3.0, 1.5, 50_000).astype(np.float32)
    assert fitting.fit_numbers(values, 1) == encoding.FieldStatistics()
    for num_buckets in (2, 40, 250):
        statistics = fitting.fit_numbers(values, num_buckets)
        assert 0 < len(statistics.coarse) < num_buckets
        assert len(statistics.coarse_buckets()) <= 256


def test_cardinality_bounds_every_id(fitted, encoder):
    # 1 missing + 3 known + 3 OOV; 1 missing + 5 buckets.
    assert fitted.cardinality(COUNTRY) == 7
    assert fitted.cardinality(AGE) == 6


@pytest.mark.parametrize("values", [[], [None, None], [5.0, 5.0, 5.0]])
def test_a_numeric_field_without_spread_has_one_bucket(values):
    column = pa.chunked_array([pa.array(values, pa.float64())])
    countries = pa.array([None] * len(values), pa.string())
    skus = pa.array(["a"] * len(values), pa.string())
    fitted = logs.fit(SCHEMA, [pa.table({"country": countries, "age": column, "sku": skus})])
    encoder = encoding.Encoder(fitted, SCHEMA.query_fields)
    assert fitted.cardinality(AGE) == 2
    assert encode_age(encoder, -3.0, 5.0, math.nan) == [1, 1, 0]
    # An empty vocabulary: only missing (0) and three OOV buckets (1, 2, 3).
    assert encode_country(encoder, "") == [0]
    assert set(encode_country(encoder, *map(str, range(50)))) == {1, 2, 3}


def test_values_above_an_overwhelming_smallest_one_keep_their_buckets():
    # All quartiles of 97 zeros, 5, 6 and 7 are 0; of the rest, thirds begin at 5, 6 and 7.
    values = np.array([0.0] * 97 + [5, 6, 7], np.float32)
    assert fitting.bucket_boundaries(values, 4) == (5.0, 6.0, 7.0)
    assert fitting.bucket_boundaries(values, 2) == (5.0,)
    assert fitting.bucket_boundaries(values, 1) == ()
    assert fitting.bucket_boundaries(values[:97], 4) == ()


def test_table_encoding_equals_a_tf_function_on_raw_tensors(encoder):
    rng = np.random.default_rng(0)
    countries = rng.choice(np.array(["CH", "DE", "AT", "FR", "ZZ", "ä", ""]), 500)
    ages = np.where(rng.random(500) < 0.2, np.nan, rng.normal(3, 4, 500)).astype(np.float32)
    table = pa.table(
        {
            "country": pa.chunked_array([[c or None for c in countries]]),
            "age": pa.chunked_array([pa.array(ages.astype(np.float64), from_pandas=True)]),
        }
    )
    offline = encoder.encode_table(table)
    signature = encoding.input_signature(SCHEMA.query_fields)
    online = tf.function(encoder.__call__, input_signature=[signature])(
        {"country": tf.constant(countries.tolist()), "age": tf.constant(ages)}
    ).numpy()
    assert offline.dtype == online.dtype == np.int32
    np.testing.assert_array_equal(offline, online)
    assert (offline.min(), offline[:, 0].max(), offline[:, 1].max()) == (0, 6, 5)


def test_an_exported_encoder_needs_neither_assets_nor_tables(encoder, tmp_path):
    signature = encoding.input_signature(SCHEMA.query_fields)
    module = tf.Module()
    module.encoder = encoder
    module.encode = tf.function(encoder.__call__, input_signature=[signature])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    ids = loaded.encode({"country": tf.constant(["DE", ""]), "age": tf.constant([4.0, math.nan])})
    np.testing.assert_array_equal(ids, [[1, 5], [0, 0]])
    assert not list((tmp_path / "assets").iterdir())


@pytest.mark.parametrize("max_at_once", [1, 3, 1_000])
def test_max_vocabulary_size_keeps_the_most_frequent(max_at_once):
    # a once, b three times, c twice, and the missing value four times.
    chunks = [["a", "b", ""], ["c", "b", ""]]
    counts = [np.array([1, 2, 4]), np.array([2, 1, 0])]
    prints = [encoding.fingerprint(tf.constant(chunk)).numpy() for chunk in chunks]
    words, distinct = fitting.vocabulary(
        list(zip(prints, counts, strict=True)),
        lambda chunk, places: pa.array(chunks[chunk]).take(places),
        min_count=1,
        max_size=2,
        max_at_once=max_at_once,
    )
    assert words == ("b", "c")
    assert distinct == 3


def test_buckets_are_finer_at_both_ends():
    boundaries = fitting.bucket_boundaries(np.arange(32_000, dtype=np.float32), 40)
    shares = np.diff([0, *boundaries, 32_000]) / 1_000
    # Thirty equal shares of 1,000, and at each end one that is halved four times.
    tail = [0.0625, 0.0625, 0.125, 0.25, 0.5]
    np.testing.assert_allclose(shares, [*tail, *[1.0] * 30, *tail[::-1]], atol=0.002)


def test_fitting_does_not_depend_on_how_the_rows_are_cut(fitted):
    parts = [LOG.slice(first, 3) for first in range(0, LOG.num_rows, 3)]
    assert logs.fit(SCHEMA, parts) == fitted


def test_sampled_quantiles_do_not_depend_on_how_the_rows_are_cut(monkeypatch):
    monkeypatch.setattr(fitting, "_NUMERIC_SAMPLE", 100)
    ages = np.random.default_rng(1).normal(size=1_000)
    table = pa.table({"country": ["CH"] * 1_000, "age": ages, "sku": ["a"] * 1_000})

    def boundaries(rows_at_once):
        parts = [table.slice(first, rows_at_once) for first in range(0, 1_000, rows_at_once)]
        return logs.fit(SCHEMA, parts).statistics["age"].boundaries

    assert boundaries(1_000) == boundaries(7) == boundaries(64)
    # The sample is every tenth row.
    assert set(boundaries(7)) <= set(ages[::10].astype(np.float32).tolist())


def test_a_list_keeps_its_last_values_both_in_a_table_and_in_a_tensor():
    tags = schema_lib.Field("tags", "categorical_list", "query", min_count=1, max_list_length=2)
    schema = schema_lib.Schema("s", (tags, SKU), ad_key=("sku",), click="clicked")
    raw = ["a|b|a", "c", "", " a | c ", "b||a", None]
    fitted = logs.fit(schema, [pa.table({"tags": raw, "sku": ["x"] * 6})])
    # a four times, then b and c twice each.
    assert fitted.statistics["tags"].vocabulary == ("a", "b", "c")
    encoder = encoding.Encoder(fitted, schema.query_fields)
    lists = [["a", "b", "a"], ["c"], [], ["a", "c"], ["b", "a"], None]
    expected = [[2, 1], [3, 0], [0, 0], [1, 3], [2, 1], [0, 0]]
    offline = encoder.encode_table(pa.table({"tags": pa.array(lists, pa.list_(pa.string()))}))
    assert offline.tolist() == expected
    # A tensor is filled up with "", before or after.
    padded = [(["", *(values or [])] + [""] * 4)[:5] for values in lists]
    online = encoder({"tags": tf.constant(padded)})
    assert online.numpy().tolist() == expected


def test_save_and_load_give_the_same_encoder(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = encoding.load(tmp_path)
    assert loaded == fitted
    assert loaded.fingerprint() == fitted.fingerprint()


def test_fingerprint_changes_with_a_vocabulary_and_with_a_boundary(fitted):
    def changed(name, statistics):
        return encoding.FittedSchema(SCHEMA, {**fitted.statistics, name: statistics})

    swapped = changed("country", encoding.FieldStatistics(vocabulary=("AT", "DE", "CH")))
    moved = changed("age", encoding.FieldStatistics(boundaries=(2.0, 4.5)))
    assert len({f.fingerprint() for f in (fitted, swapped, moved)}) == 3


def test_a_changed_encoder_file_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / "encoder.json"
    description = json.loads(path.read_text())
    description["boundaries"]["age"] = [2.0, 4.5]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"have fingerprint \w+; encoder.json expects \w+"):
        encoding.load(tmp_path)


def test_a_missing_encoder_and_missing_statistics_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No encoder at .*; convert the log first"):
        encoding.load(tmp_path)
    with pytest.raises(ValueError, match=r"No statistics for the fields \['country', 'age', 'sku'"):
        encoding.FittedSchema(SCHEMA, {})


def test_a_schema_of_another_version_is_refused_with_its_file(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / "encoder.json"
    description = json.loads(path.read_text())
    description["schema"]["cart"] = "added"
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"encoder.json: .* key 'cart'.* Convert the log again"):
        encoding.load(tmp_path)
