"""The two-tower model: normalized embeddings and a softmax corrected for its sampling."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrec.retrieval import towers, two_tower

pytestmark = pytest.mark.slow


def build(data_set, config, **changes):
    """A two-tower model whose embeddings differ visibly."""
    config = dataclasses.replace(config, **changes)
    model = retrieval.build_two_tower(data_set, config, data_set.catalog())
    rng = np.random.default_rng(0)
    for variable in model.sparse_variables:
        variable.assign(rng.normal(scale=0.5, size=variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def clicks(data_set):
    return retrieval.read_clicks(data_set, "train")


def batch_of(data_set, query, ad_rows):
    features = np.asarray(data_set.catalog().features)
    return {
        "query": tf.constant(query),
        "ad": tf.constant(features[ad_rows]),
        "ad_row": tf.constant(ad_rows, tf.int32),
    }


def logits_of(model, data_set, query):
    """Inner products over temperature [Q, N]."""
    ads = retrieval.embed_in_batches(
        model.ad_tower, np.asarray(data_set.catalog().features)
    ).astype(np.float64)
    return retrieval.embed_in_batches(model.query_tower, query) @ ads.T / float(model.temperature)


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(data_set, retrieval_config):
    model = build(data_set, retrieval_config)
    features = np.asarray(data_set.catalog().features)
    embedded = retrieval.embed_in_batches(model.ad_tower, features)
    assert embedded.shape == (300, 16)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-5)
    pieces = retrieval.embed_in_batches(model.ad_tower, features, batch_size=7)
    np.testing.assert_allclose(pieces, embedded, atol=1e-5)


def test_the_temperature_starts_as_configured_and_every_weight_has_a_gradient(
    data_set, retrieval_config, clicks
):
    model = build(data_set, retrieval_config, initial_temperature=0.25)
    assert float(model.temperature) == pytest.approx(0.25)
    batch = batch_of(data_set, clicks.query[:16], clicks.ad_rows[:16])
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    gradients = tape.gradient(loss, model.trainable_variables)
    assert not any(variable is model.temperature for variable in model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        assert np.abs(tf.convert_to_tensor(gradient).numpy()).max() > 0, variable.name


def sampled(config, **changes):
    """A configuration under which 300 ads are more than a batch's sample."""
    return dataclasses.replace(config, **{"batch_size": 32, "uniform_negatives": 32, **changes})


def test_accidental_hits_are_not_negatives(data_set, retrieval_config, clicks):
    model = build(data_set, sampled(retrieval_config, uniform_negatives=0))
    # All negatives of each query are the ad it clicked: nothing is left to tell apart.
    same = np.full(8, clicks.ad_rows[0])
    loss = model.compute_loss(batch_of(data_set, clicks.query[:8], same), training=False)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    other = np.where(np.arange(8) % 2, clicks.ad_rows[0], (clicks.ad_rows[0] + 1) % 300)
    loss = model.compute_loss(batch_of(data_set, clicks.query[:8], other), training=False)
    assert float(loss) > 0.1


def test_a_small_catalog_is_learned_by_the_softmax_over_all_of_it(
    data_set, retrieval_config, clicks
):
    model = build(data_set, retrieval_config, batch_size=200, uniform_negatives=100)
    query, ad_rows = clicks.query[:20], clicks.ad_rows[:20]
    logits = logits_of(model, data_set, query)
    clicked = logits[np.arange(20), ad_rows]
    expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - clicked)
    loss = model.compute_loss(batch_of(data_set, query, ad_rows), training=False)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_in_batch_negatives_count_by_how_often_they_are_drawn(data_set, retrieval_config, clicks):
    model = build(data_set, sampled(retrieval_config, uniform_negatives=0))
    _, first = np.unique(clicks.ad_rows, return_index=True)  # distinct ads: no accidental hits
    query, ad_rows = clicks.query[first[:20]], clicks.ad_rows[first[:20]]
    counts = data_set.catalog().clicks
    # Each of the 19 others of a batch is ad j with probability share(j).
    draws = 19 * counts[ad_rows] / counts.sum()
    logits = logits_of(model, data_set, query)[:, ad_rows]
    clicked = np.diag(logits)
    rest = np.exp(logits) / draws
    np.fill_diagonal(rest, 0.0)
    expected = np.mean(np.log(np.exp(clicked) + rest.sum(axis=1)) - clicked)
    loss = model.compute_loss(batch_of(data_set, query, ad_rows), training=False)
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_ads_that_the_user_clicked_elsewhere_are_not_negatives(data_set, retrieval_config, clicks):
    model = build(data_set, sampled(retrieval_config, batch_size=300))
    query = np.repeat(clicks.query[:1], 4, axis=0)
    logits = logits_of(model, data_set, query)
    # The ads that the query is nearest to: what they add to the loss is much of it.
    a, b, c, d, e = np.argsort(-logits[0])[:5]
    # User 10 clicked a and b, user 20 c and e; user 30 is unknown to training.
    model.clicked_ads = layers.ClickedAds(np.array([10, 20, 10, 20]), np.array([a, c, b, e]))
    ad_rows = np.array([a, b, c, d])
    batch = batch_of(data_set, query, ad_rows)
    batch["user"] = tf.constant([10, 10, 20, 30], tf.int64)
    losses = []
    for row, other in enumerate(([b], [a], [e], [])):
        rest = np.delete(logits[row], [ad_rows[row], *other])
        clicked = logits[row, ad_rows[row]]
        losses.append(np.log(np.exp(clicked) + np.exp(rest).sum()) - clicked)
    assert float(model.compute_loss(batch, training=False)) == pytest.approx(
        np.mean(losses), rel=1e-4
    )


def test_clicks_of_one_request_are_not_negatives_of_each_other(data_set, retrieval_config, clicks):
    query = np.repeat(clicks.query[:1], 4, axis=0)
    for changes in ({"batch_size": 300}, {"batch_size": 32, "uniform_negatives": 0}):
        model = build(data_set, sampled(retrieval_config, **changes))
        logits = logits_of(model, data_set, query)[0]
        # Ads without clicks are never drawn from a batch.
        logits[data_set.catalog().clicks == 0] = -np.inf
        a, b, c = np.argsort(-logits)[:3]
        batch = batch_of(data_set, query, np.array([a, b, c, b]))
        alone = float(model.compute_loss({**batch, "request": tf.constant([1, 2, 3, 4])}))
        assert float(model.compute_loss(batch)) == pytest.approx(alone, rel=1e-5)
        # Ad b, clicked in request 1 too, is not a negative of its first click in any column.
        found = model._are_negatives(
            {**batch, "request": tf.constant([1, 1, 3, 4])}, batch["ad_row"]
        )
        assert (~found.numpy()).tolist() == [
            [True, True, False, True],
            [True, True, False, True],
            [False, False, True, False],
            [False, True, False, True],
        ]
        together = float(model.compute_loss({**batch, "request": tf.constant([1, 1, 3, 4])}))
        assert together < alone - 0.01


def gradient_of(model, training):
    """A function from a batch to the loss's gradient by the ad tower's output layer, flat."""

    @tf.function
    def gradient(batch):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch, training)
        return tf.reshape(tape.gradient(loss, model.ad_tower.output_layer.kernel), [-1])

    return gradient


def test_the_sampled_gradient_is_that_of_the_softmax_over_all_ads(
    data_set, retrieval_config, clicks
):
    config = sampled(
        retrieval_config, batch_size=64, uniform_negatives=128, initial_temperature=0.5, dropout=0.0
    )
    model = build(data_set, config)
    everything = build(data_set, config, batch_size=300)
    for ours, theirs in zip(everything.trainable_variables, model.trainable_variables, strict=True):
        ours.assign(theirs)
    sampled_gradient, whole_gradient = gradient_of(model, True), gradient_of(everything, False)
    rng = np.random.default_rng(3)
    sums = np.zeros((2, model.ad_tower.output_layer.kernel.shape.num_elements()))
    for _ in range(300):
        chosen = rng.choice(len(clicks.ad_rows), 64, replace=False)
        batch = batch_of(data_set, clicks.query[chosen], clicks.ad_rows[chosen])
        gradient = sampled_gradient(batch).numpy()
        sums += [gradient, whole_gradient(batch).numpy()]
    lengths = np.linalg.norm(sums, axis=1)
    assert sums[0] @ sums[1] / np.prod(lengths) > 0.97
    assert 0.85 < lengths[0] / lengths[1] < 1.15


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


def test_exact_top_k_refuses_embeddings_that_are_not_finite():
    finite, ads = np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)
    ads[3, 0] = np.nan
    with pytest.raises(ValueError, match="The ad tower returned NaN or infinity; expected finite"):
        retrieval.exact_top_k(finite, ads, 2, ads_at_once=2)
    with pytest.raises(ValueError, match="The query tower returned NaN or infinity"):
        retrieval.exact_top_k(ads, finite, 2)


def test_exact_top_k_does_not_depend_on_batch_sizes_even_with_ties():
    rng = np.random.default_rng(3)
    # Small integers: inner products are exact, and many are equal.
    queries, ads = (rng.integers(-2, 3, (count, 4)).astype(np.float32) for count in (9, 200))
    for k in (1, 30, 200):
        whole = retrieval.exact_top_k(queries, ads, k)
        for ads_at_once in (7, 64, 199):
            by_pieces = retrieval.exact_top_k(
                queries, ads, k, batch_size=4, ads_at_once=ads_at_once
            )
            np.testing.assert_array_equal(by_pieces, whole)


def test_clicks_are_read_in_log_order_and_of_many_some_evenly_spaced(data_set):
    everything = retrieval.read_clicks(data_set, "test")
    assert len(everything.ad_rows) == data_set.label_sum("test", "click")
    limited = retrieval.read_clicks(data_set, "test", 10)
    numbers = np.arange(10) * len(everything.ad_rows) // 10
    assert limited.number.tolist() == numbers.tolist()
    np.testing.assert_array_equal(limited.ad_rows, everything.ad_rows[numbers])
    np.testing.assert_array_equal(limited.query, everything.query[numbers])


def test_the_candidates_of_clicks_have_the_latest_features(data_set, retrieval_config):
    model = build(data_set, sampled(retrieval_config, uniform_negatives=8))
    batch = next(iter(data_set.clicked("train", 16)))
    embedded, embed_batch = [], model.embed_batch

    def recorded(inputs, query, ads, *others):
        embedded.append(ads)
        return embed_batch(inputs, query, ads, *others)

    model.embed_batch = recorded
    # As if every ad had changed since it was clicked.
    model.compute_loss({**batch, "ad": batch["ad"] + 1})
    features, count = np.asarray(data_set.catalog().features), len(batch["ad_row"])
    np.testing.assert_array_equal(embedded[0][:count], features[batch["ad_row"].numpy()])
    assert len(embedded[0]) == count + 8


@pytest.mark.parametrize(("num_fields", "dim"), [(1, 128), (2, 128), (4, 64), (16, 16), (39, 16)])
def test_fewer_fields_have_longer_embeddings(num_fields, dim):
    assert towers.automatic_field_dim(num_fields) == dim


def test_exact_search_does_not_prefer_early_ads_among_equal_ones():
    # A better ad, and 1,000 ads of one embedding: five hundred of them in a list of 501.
    ads = np.concatenate([np.full((500, 2), 0.5), [[1.0, 1.0]], np.full((500, 2), 0.5)])
    (found,) = two_tower.exact_top_k(np.ones((1, 2), np.float32), ads.astype(np.float32), 501)
    assert found[0] == 500
    assert len(set(found)) == 501
    # 250 of the first half, with a standard deviation of 8 (hypergeometric).
    assert np.count_nonzero(found < 500) == pytest.approx(250, abs=32)
