"""The task of retrieval, called as that of TFRS."""

import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from tfrec import retrieval

B, C, D = 3, 5, 4


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    return [tf.constant(rng.normal(size=(rows, D)), tf.float32) for rows in (B, C)]


def test_without_sampling_it_is_the_mean_of_the_loss_of_tfrs(embeddings):
    stock = tfrs.tasks.Retrieval(temperature=0.5)
    expected = float(stock(*embeddings)) / B
    ours = retrieval.SampledSoftmax(temperature=0.5)
    assert float(ours(*embeddings)) == pytest.approx(expected, rel=1e-5)


def test_masks_and_ids_leave_out_what_they_do_in_tfrs(embeddings):
    mask = np.ones((B, C), bool)
    mask[0, 3] = mask[2, 1] = False
    # Candidate 4 is the own candidate of query 0 once more, and candidate 2 that of query 1.
    ids = tf.constant([7, 8, 8, 9, 7])
    stock = tfrs.tasks.Retrieval(remove_accidental_hits=True)
    ours = retrieval.SampledSoftmax()
    options = {"candidate_ids": ids, "score_mask": tf.constant(mask)}
    expected = float(stock(*embeddings, **options)) / B
    assert float(ours(*embeddings, **options)) == pytest.approx(expected, rel=1e-5)


def test_negatives_count_by_their_expected_number_of_draws(embeddings):
    probability = np.array([0.1, 0.3, 0.2, 0.3, 0.1], np.float32)
    scores = (embeddings[0].numpy() @ embeddings[1].numpy().T).astype(np.float64)
    losses = []
    for row in range(B):
        # Four draws: a candidate is drawn 4 p times. The own candidate is not sampled.
        negatives = np.exp(scores[row]) / (4 * probability)
        negatives[row] = np.exp(scores[row, row])
        losses.append(np.log(negatives.sum()) - scores[row, row])
    ours = retrieval.SampledSoftmax()
    sampled = ours(*embeddings, candidate_sampling_probability=tf.constant(probability))
    assert float(sampled) == pytest.approx(np.mean(losses), rel=1e-5)
    weighted = ours(
        *embeddings,
        sample_weight=tf.constant([1.0, 0.0, 2.0]),
        candidate_sampling_probability=tf.constant(probability),
    )
    assert float(weighted) == pytest.approx((losses[0] + 2 * losses[2]) / B, rel=1e-5)


def test_own_candidates_can_be_in_any_column(embeddings):
    query, candidates = embeddings
    order = [4, 2, 0, 1, 3]
    moved = tf.gather(candidates, order)
    # Column of the candidates 0, 1 and 2.
    own = tf.constant([2, 3, 1])
    ours = retrieval.SampledSoftmax()
    assert float(ours(query, moved, own_columns=own)) == pytest.approx(
        float(ours(query, candidates)), rel=1e-5
    )


def test_it_takes_every_keyword_of_the_stock_call(embeddings):
    parameters = inspect.signature(tfrs.tasks.Retrieval.call).parameters
    ours = inspect.signature(retrieval.SampledSoftmax.call).parameters
    assert list(ours)[: len(parameters)] == list(parameters)
    loss = retrieval.SampledSoftmax()(*embeddings, compute_metrics=False)
    assert float(loss) == float(retrieval.SampledSoftmax()(*embeddings))


@pytest.mark.trains
def test_the_stock_task_drops_in_and_trains(data_set, retrieval_config):
    model = retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog())
    model.task = tfrs.tasks.Retrieval(temperature=0.1)
    model.compile(tf.keras.optimizers.Adagrad(0.1))
    batches = data_set.clicked("train", 64, seed=1).take(8).cache()
    losses = model.fit(batches, epochs=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.trains
def test_the_metrics_of_a_stock_task_rank_the_clicked_ads(data_set, retrieval_config):
    catalog = data_set.catalog()
    config = dataclasses.replace(retrieval_config, uniform_negatives=32)
    model = retrieval.build_two_tower(data_set, config, catalog)
    ads = retrieval.embed_in_batches(model.ad_tower, np.asarray(catalog.features))
    corpus = tf.data.Dataset.from_tensor_slices(
        (np.arange(len(catalog), dtype=np.int32), ads)
    ).batch(128)
    top_k = tfrs.metrics.FactorizedTopK(corpus, ks=(10,))
    model.task = tfrs.tasks.Retrieval(metrics=top_k)
    model.compile("sgd")
    found = model.evaluate(data_set.clicked("validation", 64), verbose=0, return_dict=True)
    hits = []
    for clicks in data_set.clicked("validation", 64):
        scores = retrieval.embed_in_batches(model.query_tower, clicks["query"].numpy()) @ ads.T
        best = np.argsort(-scores, axis=1)[:, :10]
        hits += list((best == clicks["ad_row"].numpy()[:, None]).any(axis=1))
    name = "factorized_top_k/top_10_categorical_accuracy"
    assert found[name] == pytest.approx(np.mean(hits), abs=1e-6)
