"""The second pass: what it compares, what it leaves alone, and that it learns what lists decide."""

import dataclasses

import logs
import numpy as np
import pytest
import tensorflow as tf

from tfrec import config as config_lib
from tfrec import exported, layers, metrics, ranking
from tfrecords import schema as schema_lib

SIZES = dataclasses.replace(
    config_lib.RankerConfig(), model_dim=8, num_heads=2, feed_forward_dim=8, rerank_candidates=3
)
SHOWN = np.array([[True, True, True, True, False]])
CLICKS = np.array([[0.1, 3.0, -1.0, 2.0, 9.0]], np.float32)


@pytest.fixture
def layer():
    """A pass over five candidates whose corrections are not zero."""
    tf.keras.utils.set_random_seed(4)
    made = layers.SecondPass(SIZES, {"click": 1, "revenue": 3})
    made(tf.zeros([1, 5, 8]), tf.constant(CLICKS), tf.constant(SHOWN))
    for correction in made._corrections.values():
        correction.kernel.assign(tf.random.normal(correction.kernel.shape))
    return made


def corrections(layer, candidates, clicks=CLICKS, shown=SHOWN):
    added = layer(tf.constant(candidates), tf.constant(clicks), tf.constant(shown))
    return {head: values.numpy() for head, values in added.items()}


def candidates_of(seed):
    return np.random.default_rng(seed).normal(size=(1, 5, 8)).astype(np.float32)


def test_the_best_of_those_shown_are_corrected_and_no_others(layer):
    added = corrections(layer, candidates_of(0))
    assert added["click"].shape == (1, 5, 1)
    assert added["revenue"].shape == (1, 5, 3)
    # Three of the four shown: not number 2, which scores least, nor number 4, which fills up.
    assert (added["click"][0, :, 0] != 0).tolist() == [True, True, False, True, False]


def test_what_is_not_in_the_short_list_has_no_say_and_what_is_has(layer):
    one = candidates_of(0)
    others = one.copy()
    others[0, [2, 4]] *= -1.0
    np.testing.assert_allclose(
        corrections(layer, others)["click"], corrections(layer, one)["click"], atol=1e-6
    )
    neighbour = one.copy()
    neighbour[0, 0] *= -1.0
    changed = corrections(layer, neighbour)["click"] - corrections(layer, one)["click"]
    assert np.abs(changed[0, [1, 3]]).min() > 1e-5


def test_what_fills_a_list_up_is_attended_to_by_none(layer):
    # Two were shown; with those that fill up, the short list has its three.
    one, clicks = candidates_of(0)[:, :2], CLICKS[:, :2]
    alone = corrections(layer, one, clicks, np.array([[True, True]]))
    for seed in (1, 2):
        padded = np.concatenate([one, 5.0 * candidates_of(seed)], axis=1)
        shown = np.arange(7)[None] < 2
        found = corrections(layer, padded, np.append(clicks, CLICKS, axis=1), shown)
        for head, values in alone.items():
            np.testing.assert_allclose(found[head][:, :2], values, atol=1e-6)


def test_the_order_of_candidates_does_not_matter(layer):
    one, order = candidates_of(0), np.array([3, 0, 4, 1, 2])
    turned = corrections(layer, one[:, order], CLICKS[:, order], SHOWN[:, order])
    np.testing.assert_allclose(
        turned["revenue"], corrections(layer, one)["revenue"][:, order], atol=1e-6
    )


def test_it_starts_as_no_correction():
    made = layers.SecondPass(SIZES, {"click": 1})
    assert not corrections(made, candidates_of(1))["click"].any()


def test_one_candidate_is_no_list():
    with pytest.raises(ValueError, match="expected 0, or at least 2 to be compared, got 1"):
        config_lib.RankerConfig(rerank_candidates=1)


@pytest.fixture(scope="module")
def cheapest(tmp_path_factory):
    """Lists of four ads of 20 prices; of each the cheapest is clicked, nine times of ten."""
    directory = tmp_path_factory.mktemp("cheapest")
    rng = np.random.default_rng(5)
    lines = ["list,country,price,clicked"]
    for number in range(1_500):
        prices = rng.choice(20, 4, replace=False)
        for price in prices:
            clicked = rng.random() < (0.9 if price == prices.min() else 0.02)
            lines.append(f"{number},CH,p{price},{int(clicked)}")
    (directory / "log.csv").write_text("\n".join(lines) + "\n")
    fields = (
        schema_lib.Field("country", "categorical", "query", min_count=1),
        schema_lib.Field("price", "categorical", "ad", min_count=1),
    )
    schema = schema_lib.Schema("cheapest", fields, ("price",), click="clicked", request_key="list")
    return logs.converted_table(directory / "log.csv", directory / "data", schema)


def auc_of(model, data_set):
    predictions = ranking.predict_split(model, data_set, "test")
    labels, known, _ = predictions.labelled("click")
    return metrics.auc(labels, predictions.logits["click"][known])


def auc_of_prices(data_set):
    """Returns what the best model reaches that knows each ad's own price: the less, the better."""
    prices = np.array([int(price[1:]) for price in data_set.catalogue().ad_ids.to_pylist()])
    windows = list(data_set.windows("test"))
    rows, clicks = (np.concatenate([w[name] for w in windows]) for name in ("ad_row", "click"))
    return metrics.auc(clicks, -prices[rows].astype(np.float32))


def test_what_fills_lists_up_is_in_no_short_list_when_ids_are_hidden(
    data_set, ranker_config, monkeypatch
):
    config = dataclasses.replace(ranker_config, rerank_candidates=3, id_dropout=1.0, dropout=0.0)
    model = ranking.build_ranker(data_set, config)
    batch = next(iter(data_set.batches("train", 16)))
    seen = []
    second = model._second_pass

    def look(candidates, clicks, shown, training):
        seen.append(shown.numpy())
        return second(candidates, clicks, shown, training=training)

    monkeypatch.setattr(model, "_second_pass", look)
    model(batch["query"], batch["ad"], training=True)
    np.testing.assert_array_equal(seen[0], batch["mask"])


@pytest.mark.trains
def test_what_neighbours_decide_is_learnt_by_the_second_pass_alone(
    cheapest, ranker_config, tmp_path
):
    config = dataclasses.replace(
        ranker_config,
        num_blocks=1,
        model_dim=32,
        epochs=3,
        learning_rate=0.01,
        rerank_candidates=4,
    )
    ranking.train_ranker(cheapest, config, tmp_path)
    model, calibrators, _ = ranking.load_ranker(cheapest, tmp_path)
    compared = auc_of(model, cheapest)
    corrections = model._second_pass._corrections["click"]
    learnt = corrections.get_weights()
    corrections.set_weights([np.zeros_like(weight) for weight in learnt])
    alone = auc_of(model, cheapest)
    corrections.set_weights(learnt)
    # A price alone says how often it is the least of four; the list says whether it is.
    assert compared > alone + 0.05
    assert compared > auc_of_prices(cheapest) + 0.05
    batch = next(iter(cheapest.batches("test", 8)))
    module = exported.RankerModule(cheapest.fitted, model, calibrators)
    countries = tf.fill([len(batch["query"])], "CH")
    served = module.serve(country=countries, ad_features=batch["ad"])
    expected = calibrators.apply(model(batch["query"], batch["ad"]))
    np.testing.assert_allclose(
        served["click_probability"], expected["click_probability"], atol=1e-5
    )
