"""The two-tower model: normalised embeddings and a softmax corrected for its sampling."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfrec import retrieval, retrieval_training
from tfrecords import catalogue as catalogue_lib
from tfrecords import reader


def build(data_set, config, **changes):
    """A two-tower model whose embeddings differ visibly."""
    config = dataclasses.replace(config, **changes)
    model = retrieval_training.build(data_set, config, data_set.catalogue())
    rng = np.random.default_rng(0)
    for variable in model.sparse_variables:
        variable.assign(rng.normal(scale=0.5, size=variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def clicks(data_set):
    return retrieval_training.read_clicks(data_set, "train")


def batch_of(data_set, query, ad_rows):
    features = np.asarray(data_set.catalogue().features)
    return {
        "query": tf.constant(query),
        "ad": tf.constant(features[ad_rows]),
        "ad_row": tf.constant(ad_rows, tf.int32),
    }


def logits_of(model, data_set, query):
    """Inner products over temperature [Q, N]."""
    ads = retrieval.embed_in_batches(
        model.ad_tower, np.asarray(data_set.catalogue().features)
    ).astype(np.float64)
    return retrieval.embed_in_batches(model.query_tower, query) @ ads.T / float(model.temperature)


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(data_set, retrieval_config):
    model = build(data_set, retrieval_config)
    features = np.asarray(data_set.catalogue().features)
    embedded = retrieval.embed_in_batches(model.ad_tower, features)
    assert embedded.shape == (300, 16)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-5)
    pieces = retrieval.embed_in_batches(model.ad_tower, features, batch_size=7)
    np.testing.assert_allclose(pieces, embedded, atol=1e-5)


def test_the_temperature_starts_as_configured_and_is_learnt(data_set, retrieval_config, clicks):
    model = build(data_set, retrieval_config, initial_temperature=0.25)
    assert float(model.temperature) == pytest.approx(0.25)
    batch = batch_of(data_set, clicks.query[:16], clicks.ad_rows[:16])
    with tf.GradientTape() as tape:
        loss = model.loss(batch)
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        assert np.abs(tf.convert_to_tensor(gradient).numpy()).max() > 0, variable.name


def test_accidental_hits_are_no_negatives(data_set, retrieval_config, clicks):
    model = build(data_set, retrieval_config, uniform_negatives=0)
    # All negatives of each query are the ad it clicked: nothing is left to tell apart.
    same = np.full(8, clicks.ad_rows[0])
    loss = model.loss(batch_of(data_set, clicks.query[:8], same), training=False)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    other = np.where(np.arange(8) % 2, clicks.ad_rows[0], (clicks.ad_rows[0] + 1) % 300)
    loss = model.loss(batch_of(data_set, clicks.query[:8], other), training=False)
    assert float(loss) > 0.1


def test_the_loss_is_a_softmax_of_logits_less_log_q(data_set, retrieval_config, clicks):
    model = build(data_set, retrieval_config, uniform_negatives=0)
    _, first = np.unique(clicks.ad_rows, return_index=True)  # distinct ads: no accidental hits
    query, ad_rows = clicks.query[first[:20]], clicks.ad_rows[first[:20]]
    log_q = np.log(data_set.catalogue().clicks[ad_rows])
    logits = logits_of(model, data_set, query)[:, ad_rows] - log_q
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - np.diag(logits))
    loss = model.loss(batch_of(data_set, query, ad_rows), training=False)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_log_q_and_mixed_negatives_agree_with_a_full_softmax(data_set, retrieval_config, clicks):
    batch_size, uniform = 32, 32
    model = build(
        data_set,
        retrieval_config,
        batch_size=batch_size,
        uniform_negatives=uniform,
        initial_temperature=0.5,
    )
    counts = data_set.catalogue().clicks
    # In the sampled loss of a click on y, each ad stands with weight count / expected count, so
    # its expectation is the full softmax's sum; the click itself adds log(expected count of y).
    draws = batch_size * counts / counts.sum() + uniform / len(counts)
    full_logits = logits_of(model, data_set, clicks.query)
    own = np.take_along_axis(full_logits, clicks.ad_rows[:, None], axis=1)[:, 0]
    full = np.log(np.exp(full_logits).sum(axis=1)) - own
    rng = np.random.default_rng(3)
    loss = tf.function(lambda batch: model.loss(batch, training=False))
    differences = []
    for _ in range(300):
        chosen = rng.choice(len(clicks.ad_rows), batch_size, replace=False)
        batch = batch_of(data_set, clicks.query[chosen], clicks.ad_rows[chosen])
        expected = np.mean(full[chosen] + np.log(draws[clicks.ad_rows[chosen]]))
        differences.append(float(loss(batch)) - expected)
    # The full softmax is near ln 300 = 5.7 nats.
    assert abs(np.mean(differences)) < 0.05


def test_log_q_lets_an_unconditional_model_learn_how_popular_ads_are(data_set, retrieval_config):
    catalogue = data_set.catalogue()
    # Forty ads with clicks falling as 1 / rank and the same query for every click.
    table = catalogue.table.slice(0, 40)
    counts = np.round(1_000 / np.arange(1, 41)).astype(np.int64)
    index = table.column_names.index(catalogue_lib.CLICKS)
    small = reader.Catalogue(
        table.set_column(index, catalogue_lib.CLICKS, [counts]), np.asarray(catalogue.features[:40])
    )
    config = dataclasses.replace(
        retrieval_config, batch_size=4, uniform_negatives=4, dropout=0.0, embedding_dim=32
    )
    tf.keras.utils.set_random_seed(0)
    model = retrieval.TwoTower(data_set.fitted, config, small)
    query = np.zeros((4, len(data_set.schema.query_fields)), np.int32)
    optimizer = tf.keras.optimizers.Adam(0.003)

    @tf.function
    def step(ad_rows):
        batch = {
            "query": tf.constant(query),
            "ad": tf.gather(tf.constant(small.features), ad_rows),
            "ad_row": ad_rows,
        }
        with tf.GradientTape() as tape:
            loss = model.loss(batch)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    rng = np.random.default_rng(0)
    share = counts / counts.sum()
    for _ in range(1_500):
        step(tf.constant(rng.choice(40, 4, p=share), tf.int32))
    embedded = retrieval.embed_in_batches(model.ad_tower, small.features)
    logits = (retrieval.embed_in_batches(model.query_tower, query[:1]) @ embedded.T)[0]
    logits /= float(model.temperature)
    # Without the correction every ad would end near the same logit.
    correlation = np.corrcoef(logits, np.log(share))[0, 1]
    slope = np.polyfit(np.log(share), logits, 1)[0]
    assert correlation > 0.8
    assert 0.6 < slope < 1.5


def test_exact_top_k_are_the_largest_inner_products_best_first():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(9, 8)).astype(np.float32)
    ads = rng.normal(size=(50, 8)).astype(np.float32)
    expected = np.argsort(-(queries @ ads.T), axis=1)
    np.testing.assert_array_equal(retrieval.exact_top_k(queries, ads, 7), expected[:, :7])
    np.testing.assert_array_equal(
        retrieval.exact_top_k(queries, ads, 7, batch_size=4), expected[:, :7]
    )
    np.testing.assert_array_equal(retrieval.exact_top_k(queries, ads, 1_000), expected)


def test_clicks_are_read_in_log_order_up_to_a_limit(data_set):
    everything = retrieval_training.read_clicks(data_set, "test")
    assert len(everything.ad_rows) == data_set.label_sum("test", "click")
    limited = retrieval_training.read_clicks(data_set, "test", 10)
    np.testing.assert_array_equal(limited.ad_rows, everything.ad_rows[:10])
    np.testing.assert_array_equal(limited.query, everything.query[:10])
