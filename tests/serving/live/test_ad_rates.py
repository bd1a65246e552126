"""Rates in the ad features of models that tfrec did not train."""

import types

import numpy as np
import pyarrow as pa
import pytest

from serving import errors
from serving.index import AD_ID
from serving.live import ad_rates

RATE = {"name": "brand_rate", "of": "brand", "event": ["click"]}
BRANDS = {"acme": 2_000_000_000, "bolt": -7}
SCHEMA = pa.schema({AD_ID: pa.string(), "brand": pa.string(), "brand_rate": pa.float64()})


def brand_ids(ads):
    """Returns ids of brands, which may be any int32; unknown and missing brands have 0."""
    return np.array([BRANDS.get(brand, 0) for brand in ads["brand"].to_pylist()], np.int32)


def buckets(ads):
    rates = ads["brand_rate"].to_pylist()
    return np.array([0 if r is None else 1 + int(100 * r) for r in rates], np.int32)


def encoded(rates, *columns):
    """Encodes rates with a tower whose ad features are a constant column and then `columns`."""

    def embed(ads):
        own = [np.full(ads.num_rows, 7, np.int32), *(column(ads) for column in columns)]
        return np.zeros((ads.num_rows, 1), np.float32), np.stack(own, axis=1)

    released = pa.table({AD_ID: ["1", "2"], "brand": ["acme", "bolt"], "brand_rate": [0.1, 0.2]})
    index = types.SimpleNamespace(
        num_ads=2,
        table_schema=SCHEMA,
        column=lambda rows, name: released[name].combine_chunks().take(pa.array(rows)),
        features=lambda rows: embed(released.take(pa.array(rows)))[1],
    )
    (update,) = ad_rates.AdRates([RATE], index).encode({"brand_rate": rates}, embed)
    return update


def test_rates_are_set_for_any_ids_and_not_for_missing_values():
    # An unknown value has the id of a missing one, so its rate would apply to all such ads.
    update = encoded({"acme": 0.9, "unknown": 0.5, "bolt": 0.25}, brand_ids, buckets)
    assert (update.columns, update.numbers) == ((1, 2), {"acme": 0.9, "bolt": 0.25})
    features = np.array([[[7, 2_000_000_000, 11], [7, -7, 21], [7, 0, 0], [7, 5, 3]]], np.int32)
    update.apply(features)
    np.testing.assert_array_equal(
        features, [[[7, 2_000_000_000, 91], [7, -7, 26], [7, 0, 0], [7, 5, 3]]]
    )


def test_rates_of_unknown_values_are_left_out():
    update = encoded({"unknown": 0.5}, brand_ids, buckets)
    assert update.numbers == {}
    features = np.array([[7, 0, 0]], np.int32)
    update.apply(features)
    np.testing.assert_array_equal(features, [[7, 0, 0]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((buckets,), "puts brand into one column of the ad features, got 0 columns"),
        ((brand_ids, brand_ids, buckets), "puts brand into one column .*, got 2 columns"),
        ((brand_ids,), "puts brand_rate into one column of the ad features, got 0 columns"),
        (
            (lambda ads: brand_ids(ads) + buckets(ads),),
            "puts brand and brand_rate into two columns of the ad features, got both in column 1",
        ),
    ],
)
def test_a_rate_that_has_no_column_of_its_own_is_refused(columns, message):
    with pytest.raises(errors.InvalidAdError, match=message):
        encoded({"acme": 0.9}, *columns)
