"""Logarithms of numbers, and slopes of amounts in them."""

import numpy as np
import pytest
import tensorflow as tf

from tfrec import layers
from tfrec.layers import numbers
from tfrecords import encoding, schema
from tfrecords.conversion import fitting

PRICE = schema.Field("price", "numeric", "ad")
SKU = schema.Field("sku", "categorical", "ad")
AGE = schema.Field("age", "numeric", "ad")
SHOP = schema.Schema(
    "shop",
    (schema.Field("country", "categorical", "query"), AGE, SKU, PRICE),
    ("sku",),
    "clicked",
)


def fitted(prices):
    statistics = {name: encoding.FieldStatistics() for name in ("country", "sku", "age")}
    return encoding.FittedSchema(SHOP, {**statistics, "price": fitting.fit_numbers(prices, 40)})


def test_numbers_ascend_as_logarithms_with_mean_0_and_deviation_1():
    boundaries = np.geomspace(0.01, 1e5, 200).tolist()
    found = numbers.numbers_of_ids(boundaries)
    assert found[0] == 0
    assert found[1] == found[2]
    assert found[1:].mean() == pytest.approx(0, abs=1e-5)
    assert found[1:].std() == pytest.approx(1, abs=1e-5)
    steps = np.diff(found[20:])
    np.testing.assert_allclose(steps, steps[0], rtol=0.05)


@pytest.mark.parametrize("boundaries", [(), (0.0,), (-5.0, 0.0, 5.0), (-1e30, 1e30)])
def test_numbers_are_finite(boundaries):
    found = numbers.numbers_of_ids(boundaries)
    assert np.isfinite(found).all()
    assert len(found) == len(boundaries) + 2


def test_the_line_holds_for_the_most_expensive_ads_which_few_rows_have():
    rng = np.random.default_rng(0)
    prices = rng.lognormal(3.0, 1.2, 20_000).astype(np.float32)
    shop = fitted(prices)
    encoder = encoding.Encoder(shop, SHOP.ad_fields)

    def ids(ad_prices):
        count = len(ad_prices)
        return encoder(
            {
                "age": tf.fill([count], np.nan),
                "sku": tf.fill([count], ""),
                "price": tf.constant(ad_prices, tf.float32),
            }
        ).numpy()

    slopes = layers.NumericSlopes(shop, SHOP.ad_fields)
    sample = prices[:2_000]
    slopes.fit(ids(sample), 1.4 * np.log(sample) + rng.normal(0.0, 0.7, len(sample)))
    # Twenty and a hundred times the median price; nothing is extrapolated beyond the largest.
    asked = [20.0, 400.0, float(prices.max()), 1e9]
    line = slopes(tf.constant(ids(asked))[None])[0].numpy()
    assert line[1] - line[0] == pytest.approx(1.4 * np.log(20), rel=0.05)
    assert line[2] - line[0] == pytest.approx(1.4 * np.log(prices.max() / 20), rel=0.05)
    assert line[3] == line[2]


def test_before_fitting_and_without_rows_or_numbers_the_line_is_zero():
    shop = fitted(np.arange(1, 1_000, dtype=np.float32))
    ids = tf.constant([[[1, 3, 100]]])
    slopes = layers.NumericSlopes(shop, SHOP.ad_fields)
    assert slopes(ids).numpy().tolist() == [[0.0]]
    slopes.fit(np.zeros((0, 3), np.int32), np.zeros(0))
    assert slopes(ids).numpy().tolist() == [[0.0]]
    none = layers.NumericSlopes(shop, (SKU,))
    none.fit(np.ones((5, 1), np.int32), np.arange(5.0))
    assert none(tf.ones([2, 3, 1], tf.int32)).numpy().tolist() == [[0.0] * 3] * 2
