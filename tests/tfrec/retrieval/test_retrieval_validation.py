"""Validation after an epoch: recall of held-out clicks, and the temperature."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrec.retrieval import retrieval_validation


@pytest.fixture
def model(data_set, retrieval_config):
    config = dataclasses.replace(retrieval_config, batch_size=300)
    # User 1 clicked ads 0 and 1 in training.
    clicked = layers.ClickedAds(np.array([1, 1]), np.array([0, 1]))
    return retrieval.build_two_tower(data_set, config, data_set.catalog(), clicked)


# Twelve ads on a half circle, and queries that look at ad 0: ads rank by number.
ANGLE = np.linspace(0.0, 3.0, 12)
ADS = np.stack([np.cos(ANGLE), np.sin(ANGLE)], axis=1).astype(np.float32)
QUERIES = np.array([[1, 0], [1, 0]], np.float32)


def held_out(repeated, user=(1, 2)):
    query = np.zeros((2, 1), np.int32)
    users = None if user is None else np.array(user)
    return retrieval_validation.HeldOut(query, np.array([10, 9]), users, repeated)


def test_recall_counts_the_ads_that_score_higher(model):
    # Ad 10 has ten before it, ad 9 nine: one of two is in the first ten. 50 and more are all.
    measured = retrieval_validation.measure(model, held_out(1.0), QUERIES, ADS)
    assert measured == {
        "validation_corpus_recall": 0.5,
        "validation_corpus_recall_at_10": 0.5,
    }


def test_lists_leave_out_clicked_ads_if_clicks_do_not_repeat(model):
    # User 1's list lacks ads 0 and 1: ad 10 has eight before it.
    measured = retrieval_validation.measure(model, held_out(0.0), QUERIES, ADS)
    assert measured["validation_corpus_recall_at_10"] == 1.0
    # Where users are unknown nothing can be left out.
    assert not held_out(0.0, user=None).leaves_out_seen


def test_ads_that_training_never_showed_are_in_the_lists(model):
    expected = retrieval_validation.measure(model, held_out(0.0), QUERIES, ADS)
    model._was_shown = tf.range(12) > 8  # They are not negatives of the loss.
    assert retrieval_validation.measure(model, held_out(0.0), QUERIES, ADS) == expected


def test_ads_with_equal_scores_are_equally_likely_to_be_first(model):
    # All twelve ads score the same: ten of twelve are in the list. Without 0 and 1, all ten are.
    equal = np.ones((12, 2), np.float32)
    measured = retrieval_validation.measure(model, held_out(1.0), QUERIES, equal)
    assert measured["validation_corpus_recall_at_10"] == pytest.approx(10 / 12)
    measured = retrieval_validation.measure(model, held_out(0.0), QUERIES, equal)
    assert measured["validation_corpus_recall_at_10"] == pytest.approx((1 + 10 / 12) / 2)
    nothing = np.full((12, 2), np.nan, np.float32)
    measured = retrieval_validation.measure(model, held_out(1.0), QUERIES, nothing)
    assert measured["validation_corpus_recall"] == 0.0


def test_a_catalog_of_a_few_ads_has_a_measure(model):
    few = retrieval_validation.HeldOut(np.zeros((1, 1), np.int32), np.array([1]))
    measured = retrieval_validation.measure(model, few, QUERIES[:1], ADS[:3])
    assert measured["validation_corpus_recall"] == 0.0


def test_the_temperature_is_the_maximum_for_uninformative_queries(model):
    found = retrieval_validation.best_temperature(
        model, held_out(1.0), QUERIES, ADS, np.ones(12, np.int64)
    )
    # The queries know nothing: the softest there is, under which training can still learn.
    assert found == pytest.approx(0.25, rel=0.01)


@pytest.mark.trains
def test_training_stops_on_held_out_recall_and_learns_the_temperature(
    data_set, retrieval_config, learned_from_clicks
):
    model, description = retrieval.load_two_tower(data_set, learned_from_clicks)
    history = description["history"]
    best = max(history, key=lambda entry: entry[retrieval_validation.METRIC])
    assert float(model.temperature) == pytest.approx(best["temperature"])
    assert best["temperature"] != pytest.approx(retrieval_config.initial_temperature)
    assert isinstance(model.temperature, tf.Variable)
