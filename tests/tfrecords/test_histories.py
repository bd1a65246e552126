"""The raw values of histories that follow from a user's events, and how they are encoded."""

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import encoding, histories
from tfrecords.schema import Field, Schema

DAY = 86_400.0
BRAND = Field("brand", "categorical", "ad")
COUNTRY = Field("country", "categorical", "query")


def schema_with(*fields: Field) -> Schema:
    return Schema(
        "shop", (COUNTRY, BRAND, *fields), ("sku",), "clicked", engagement="bought",
        time="t", user_key="u",
    )  # fmt: skip


def history(name: str, of: str, event: object, **options: object) -> Field:
    return Field(name, "history", "query", of=of, event=event, **options)


def event(kind: str, time: float, ad: str, brand: str = "", event_id: str | None = None):
    return histories.UserEvent(kind, time, ad, {"brand": brand}, event_id)


def test_latest_events_before_the_request_are_listed_last():
    schema = schema_with(history("recent", "ad", "click"))
    events = [event("click", 30, "c"), event("click", 10, "a"), event("impression", 20, "b")]
    # The click at the time of the request is not before it.
    assert histories.raw_values(schema, [*events, event("click", 40, "d")], 40) == {
        "recent": ["a", "c"],
        "recent__age_seconds": [30, 10],
    }


def test_several_events_have_their_kind_and_ties_an_order():
    schema = schema_with(history("recent", "ad", ["engagement", "impression", "click"]))
    events = [event(kind, 5, ad) for kind in ("engagement", "click", "impression") for ad in "ba"]
    assert histories.raw_values(schema, events, 6) == {
        "recent": ["a", "b"] * 3,
        "recent__age_seconds": [1] * 6,
        "recent__events": ["impression"] * 2 + ["click"] * 2 + ["engagement"] * 2,
    }


def test_values_of_a_field_are_those_of_the_event_and_missing_ones_are_left_out():
    schema = schema_with(history("brands", "brand", "click"))
    events = [event("click", 1, "a", "old"), event("click", 2, "b"), event("click", 3, "a", "new")]
    assert histories.raw_values(schema, events, 9)["brands"] == ["old", "new"]
    assert histories.listed_fields(schema) == ("brand",)


def test_max_length_and_max_age_drop_the_oldest_events():
    schema = schema_with(
        history("two", "ad", "click", max_length=2), history("day", "ad", "click", max_age_days=1)
    )
    events = [event("click", time, str(time)) for time in (0, 1, 2, 3)]
    raw = histories.raw_values(schema, events, DAY + 2)
    assert raw["two"] == ["2", "3"]
    assert raw["day"] == ["2", "3"]  # An event of exactly a day counts.


def test_an_event_that_was_sent_twice_counts_once():
    schema = schema_with(history("recent", "ad", "click"))
    events = [event("click", 1, "a", event_id="x"), event("click", 1, "a", event_id="x")]
    assert histories.raw_values(schema, events, 2)["recent"] == ["a"]
    without_ids = [event("click", 1, "a"), event("click", 1, "a")]
    assert histories.raw_values(schema, without_ids, 2)["recent"] == ["a", "a"]


def test_age_buckets_are_eighths_of_doublings():
    ages = np.array([np.nan, -1, 0, 0.99, 1, 1.124, 1.125, 2, 3600, 1e20])
    # 3600 = 2^11 * 1.7578: 11 doublings of 8, and the sixth eighth; 1 begins bucket 2.
    assert histories.age_buckets(ages).tolist() == [0, 1, 1, 1, 2, 2, 3, 10, 2 + 11 * 8 + 6, 255]
    buckets = np.arange(2, 256, dtype=np.uint8)
    lowest = histories.bucket_seconds(buckets)
    assert histories.age_buckets(lowest).tolist() == buckets.tolist()
    assert (lowest[1:] / lowest[:-1]).max() == pytest.approx(1.125)
    assert histories.bucket_seconds(np.array([0, 1])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (dict(of="ad", event="view"), "event must be one of .* got 'view'"),
        (dict(of="ad", event=()), "event must be one of"),
        (dict(of="ad", event=None), "event must be one of .* got None"),
        (dict(of="ad", event=[["click"]]), "event must be one of"),
        (dict(of="ad", event="click", max_age_days=10**400), "max_age_days must be a number"),
        (dict(event="click"), "of must be 'ad' or the name of an ad-side categorical"),
        (dict(of="ad", event="click", max_age_days=0), "max_age_days must be a number above 0"),
        (dict(of="ad", event="click", max_length=0), "max_length must be a positive integer"),
        (dict(of="ad", event="click", column="c"), "expected side 'query' and no column"),
    ],
)
def test_a_bad_option_is_refused(field, message):
    with pytest.raises(ValueError, match=message):
        Field(**{"name": "h", "kind": "history", "side": "query", **field})


def encoder_of(*fields: Field) -> encoding.Encoder:
    schema = schema_with(*fields)
    words = {"country": (), "brand": ("acme", "bolt", "cone")}
    words |= {field.name: ("a", "b", "c") for field in fields if field.of == "ad"}
    statistics = {name: encoding.FieldStatistics(vocabulary) for name, vocabulary in words.items()}
    fitted = encoding.FittedSchema(schema, statistics)
    return encoding.Encoder(fitted, schema.histories)


def test_an_encoded_history_has_ids_ages_and_events_of_the_last_values():
    encoder = encoder_of(history("h", "brand", ["click", "engagement"], max_length=2))
    encoded = encoder(
        {
            "h": tf.constant([["bolt", "", "acme", "cone"], ["acme", "", "", ""]]),
            "h__age_seconds": tf.constant([[9.0, 8.0, 2.0, 1.0], [np.nan] * 4]),
            "h__events": tf.constant([["click", "click", "engagement", "click"], [""] * 4]),
        }
    )
    # The ids are those of `brand`; a missing value is skipped with its age and its event.
    assert encoded.numpy().tolist() == [[1, 3, 10, 2, 3, 2], [1, 0, 0, 0, 0, 0]]


def test_a_request_may_lack_ages_and_events():
    encoder = encoder_of(history("h", "ad", ["click", "engagement"], max_length=3))
    encoded = encoder(
        {
            "h": tf.constant([["a", "c"]]),
            "h__age_seconds": tf.constant([[np.nan]]),
            "h__events": tf.constant([[""]]),
        }
    )
    assert encoded.numpy().tolist() == [[1, 3, 0] + [0] * 6]


def test_numpy_and_tensorflow_give_the_same_age_buckets():
    ages = np.random.default_rng(0).exponential(1, 5000).astype(np.float32)
    ages = np.concatenate([ages * 10.0 ** np.arange(-2, 8).repeat(500), [np.nan, np.inf, -1, 0, 1]])
    ages = ages.astype(np.float32)
    encoder = encoder_of(history("h", "ad", "click", max_length=len(ages)))
    values = tf.fill([1, len(ages)], "a")
    encoded = encoder({"h": values, "h__age_seconds": tf.constant(ages[None])}).numpy()
    assert encoded[0, len(ages) :].tolist() == histories.age_buckets(ages).tolist()
