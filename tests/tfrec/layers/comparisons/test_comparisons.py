"""Comparisons of a query's fields with an ad's, and the fields that are compared."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from tfrec.layers import comparisons
from tfrec.layers.comparisons import field_pairs
from tfrecords import encoding, reader
from tfrecords import histories as ages
from tfrecords.schema import Field, Schema

INTEREST = Field("interest", "categorical", "query", num_oov_buckets=1)
PAGES = Field("pages", "categorical_list", "query", num_oov_buckets=1, max_list_length=3)
BUDGET = Field("budget", "numeric", "query")
CATEGORY = Field("category", "categorical", "ad", num_oov_buckets=1)
PRICE = Field("price", "numeric", "ad")
CATEGORIES = ("shoes", "bags", "toys")
SCHEMA = Schema(
    "shop",
    (INTEREST, PAGES, BUDGET, CATEGORY, PRICE),
    ad_key=("sku",),
    click="clicked",
)
# Values are in another order on each side.
FITTED = encoding.FittedSchema(
    SCHEMA,
    {
        "interest": encoding.FieldStatistics(("toys", "none", "shoes", "bags")),
        "pages": encoding.FieldStatistics(("home", "bags", "toys")),
        "budget": encoding.FieldStatistics(boundaries=(1.0, 10.0, 100.0)),
        "category": encoding.FieldStatistics(CATEGORIES),
        "price": encoding.FieldStatistics(boundaries=(1.0, 10.0, 100.0)),
    },
)


def encoded(fields, **columns):
    """Rows [N, W] of raw columns."""
    tensors = {name: tf.constant(values) for name, values in columns.items()}
    return encoding.Encoder(FITTED, fields)(tensors)


def queries(interest, pages, budget):
    return encoded(SCHEMA.query_fields, interest=interest, pages=pages, budget=budget)


def ads(category, price):
    return encoded(SCHEMA.ad_fields, category=category, price=price)


def test_equal_values_match_across_ids_and_missing_values_match_nothing():
    compare = comparisons.Comparisons(FITTED, [(INTEREST, CATEGORY), (PAGES, CATEGORY)])
    query = queries(
        ["toys", "none", "", "unknown"],
        [["home", "toys", ""], ["bags", "", ""], ["", "", ""], ["unknown", "", ""]],
        [1.0] * 4,
    )
    ad = ads(["toys", "bags", "", "unknown"], [1.0] * 4)
    match = np.log(2.0)
    np.testing.assert_allclose(compare(query, ad), [[match, match], [0, match], [0, 0], [0, 0]])


def test_case_and_punctuation_around_words_do_not_matter():
    search, title = (
        Field(name, "categorical_list", side, num_oov_buckets=1, max_list_length=3)
        for name, side in (("search", "query"), ("title", "ad"))
    )
    schema = Schema("shop", (search, title), ad_key=("sku",), click="clicked")
    statistics = {
        "search": encoding.FieldStatistics(("shoes", "red", "-1", "c")),
        "title": encoding.FieldStatistics(("Red", "(Shoes)", "red,", "1", "C++")),
    }
    fitted = encoding.FittedSchema(schema, statistics)
    rows = [("red", "shoes", ""), ("red", "", ""), ("-1", "c", "")]
    query = encoding.Encoder(fitted, [search])({"search": tf.constant(rows)})
    rows = [("Red", "(Shoes)", ""), ("red,", "Red", ""), ("1", "C++", "")]
    ad = encoding.Encoder(fitted, [title])({"title": tf.constant(rows)})
    compare = comparisons.Comparisons(fitted, [(search, title)])
    # Two words of the title are equal in the first two rows: red, and (Shoes) or Red again.
    np.testing.assert_allclose(compare(query, ad), [[np.log(3.0)], [np.log(3.0)], [0.0]])


def test_an_ad_value_counts_once_however_often_the_query_has_it():
    compare = comparisons.Comparisons(FITTED, [(PAGES, CATEGORY)])
    query = queries([""], [["bags", "bags", "toys"]], [1.0])
    np.testing.assert_allclose(compare(query, ads(["bags"], [1.0])), [[np.log(2.0)]])


def test_numbers_are_compared_by_their_logarithms_and_missing_ones_count_as_the_mean():
    compare = comparisons.Comparisons(FITTED, [(BUDGET, PRICE)])
    nothing = [""] * 7, [["", "", ""]] * 7
    # Buckets from 1, 10 and 100 on; 10 is near the mean, and a step of ten about a deviation.
    query = queries(*nothing, [10.0, 10.0, 100.0, np.nan, np.nan, 100.0, np.nan])
    prices = [10.0, 100.0, 1.0, 100.0, 1.0, np.nan, np.nan]
    found = compare(query, ads([""] * 7, prices)).numpy()
    np.testing.assert_allclose(found[0], 0.0)
    assert found[1, 0] > 1.0
    assert found[1, 1] == pytest.approx(found[1, 0] - 1.0)
    assert found[1, 2] == 0.0
    assert found[2, 2] > 1.5
    assert not found[2, :2].any()
    # From 1 to the mean, and from the mean to 100.
    assert found[4, 2] > 0.5
    assert found[3, 0] == pytest.approx(found[2, 2] - found[4, 2])
    assert found[5, 2] == found[3, 0]
    np.testing.assert_allclose(found[6], 0.0)


def test_the_number_of_a_history_is_the_mean_of_its_ads():
    history = Field("recent", "history", "query", of="ad", event=("click",), max_length=3)
    sku = Field("sku", "categorical", "ad", num_oov_buckets=1)
    schema = Schema(
        "shop",
        (history, BUDGET, sku, PRICE),
        ad_key=("sku",),
        click="clicked",
        time="time",
        user_key="user",
    )
    statistics = {name: FITTED.statistics[name] for name in ("budget", "price")}
    skus = encoding.FieldStatistics(("a", "b", "c"))
    fitted = encoding.FittedSchema(schema, {**statistics, "sku": skus})
    # Ids: missing, a, b, c, out of the vocabulary; prices of 1, 100, none and none.
    ad_features = np.array([[0, 0], [1, 2], [2, 4], [3, 0], [4, 0]], np.int32)
    columns = {field.name: span.start for field, span in encoding.columns(schema.query_fields)}
    query = np.zeros((4, encoding.width(schema.query_fields)), np.int32)
    query[:, columns["recent"] : columns["recent"] + 3] = [[1, 2, 0], [1, 3, 4], [3, 0, 0], [0] * 3]
    query[:, columns["budget"]] = [2, 2, 2, 0]  # 1, and missing
    ad = np.array([[1, 4]] * 4, np.int32)  # a price of 100
    by_history, by_budget = (
        comparisons.Comparisons(fitted, [(field, PRICE)], {"recent": ad_features})(query, ad)[:, 0]
        for field in schema.query_fields
    )
    # 100 is above 1 and 100 by half as much as above 1. Ads without a price do not count.
    assert by_budget[0] > 1.0
    np.testing.assert_allclose(by_history[:2], np.array([0.5, 1]) * by_budget[0], rtol=1e-5)
    np.testing.assert_allclose(by_history[2:], by_budget[3], rtol=1e-5)


SKU = Field("sku", "categorical", "ad", num_oov_buckets=1)
KINDS = ("impression", "click")
HISTORIES = Schema(
    "shop",
    (
        Field("recent", "history", "query", of="ad", event=KINDS, max_length=3),
        Field("seen", "history", "query", of="category", event=("impression",), max_length=3),
        SKU,
        CATEGORY,
    ),
    ("sku",),
    "clicked",
    time="time",
    user_key="user",
)
RECENT, SEEN = HISTORIES.histories
SKUS = tuple(f"sku{number}" for number in range(24))
OF_HISTORIES = encoding.FittedSchema(
    HISTORIES,
    {
        "sku": encoding.FieldStatistics(SKUS),
        "category": encoding.FieldStatistics(tuple(f"category{number}" for number in range(10))),
    },
)
# The SKU and the category of each id of a SKU: missing, the vocabulary, and one out of it.
OF_SKUS = np.array([[sku, (1 + sku % 10) * (0 < sku < 25)] for sku in range(26)], np.int32)


def with_events(recent, ages, kinds, seen=(0, 0, 0), seen_ages=(0, 0, 0)):
    """The query ids [1, W] of histories: ids, age buckets and codes of kinds."""
    return np.array([[*recent, *ages, *kinds, *seen, *seen_ages]], np.int32)


def bucket(seconds):
    return int(ages.age_buckets(np.array([seconds], np.float32))[0])


def test_events_of_the_ad_are_counted_by_kind_and_recent_ones_count_more():
    compare = comparisons.Comparisons(OF_HISTORIES, [(RECENT, SKU)], {"recent": OF_SKUS})
    day = bucket(86_400.0)  # with its neighbors, from 81,920 seconds on
    query = with_events([7, 7, 3], [day, bucket(0.0), day], [1, 2, 1])
    ad = np.array([[[7, 8], [3, 4], [5, 6], [0, 0]]], np.int32)
    half = 0.5 ** (81_920 / 86_400)
    # One impression a day ago and one click just now; one impression a day ago; none; padding.
    expected = [[1, half, 1, 1], [1, half, 0, 0], [0] * 4, [0] * 4]
    found = compare(query[:, None], ad)[..., :4]
    np.testing.assert_allclose(found, [np.log1p(expected)], rtol=1e-6)


def test_the_latest_event_of_the_ad_has_an_age_for_each_kind_of_event():
    compare = comparisons.Comparisons(OF_HISTORIES, [(RECENT, SKU)], {"recent": OF_SKUS})
    # 2 ** 5.5 - 1 hours are between the ages 31 and 63 hours; buckets are exact to an eighth.
    hours = 2**5.5 - 1
    query = with_events([7, 7, 7], [bucket(9e8), bucket(3_600 * hours), bucket(0.0)], [1, 1, 2])
    found = compare(query[:, None], np.array([[[7, 8], [3, 4]]], np.int32)).numpy()[0]
    impression, click = found[0, 4:12], found[0, 12:]
    np.testing.assert_allclose(impression, [0, 0, 0.5, 0.5, 0, 0, 0, 0], atol=0.15)
    np.testing.assert_allclose(impression.sum(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(click, [1, 0, 0, 0, 0, 0, 0, 0])
    assert not found[1].any()
    # Years ago is the last age, and no age is none.
    (only,) = compare(with_events([7, 0, 0], [bucket(9e8), 0, 0], [1, 0, 0]), np.array([[7, 8]]))
    np.testing.assert_array_equal(only[4:12], [0, 0, 0, 0, 0, 0, 0, 1])
    unknown = compare(with_events([7, 0, 0], [0, 0, 0], [1, 0, 0]), np.array([[7, 8]]))
    assert not np.any(unknown[:, 4:])


def test_events_without_ages_are_counted_but_are_not_recent():
    compare = comparisons.Comparisons(OF_HISTORIES, [(RECENT, SKU)], {"recent": OF_SKUS})
    found = compare(with_events([7, 7, 7], [0, 0, 0], [2, 2, 2]), np.array([[7, 8]]))
    np.testing.assert_allclose(found[:, :4], np.log1p([[0, 0, 3, 0]]), rtol=1e-6)


def test_events_of_ads_with_the_same_property_are_counted_and_unknown_ads_match_nothing():
    pairs = [(RECENT, CATEGORY), (SEEN, CATEGORY), (RECENT, SKU)]
    compare = comparisons.Comparisons(OF_HISTORIES, pairs, {"recent": OF_SKUS})
    now = bucket(0.0)
    # SKUs 3 and 13 have category 4; 25 is out of the vocabulary, as category 11 is.
    query = with_events([3, 13, 25], [now] * 3, [1] * 3, [4, 11, 4], [now] * 3)
    known, unknown = compare(np.repeat(query, 2, axis=0), np.array([[1, 4], [25, 11]])).numpy()
    # Two numbers for each kind of event, and then eight ages.
    numbers = known[[0, 1, 2, 3, 20, 21, 30, 31, 32, 33]]
    np.testing.assert_allclose(numbers, np.log1p([2, 2, 0, 0, 2, 2, 0, 0, 0, 0]), rtol=1e-6)
    assert not unknown.any()


GENRES = Field(
    "genres", "categorical_list", "ad", min_count=1, num_oov_buckets=1, max_list_length=3
)
OF_FILMS = encoding.FittedSchema(
    dataclasses.replace(
        HISTORIES,
        fields=(dataclasses.replace(RECENT, event=("click",), max_length=2), SKU, GENRES),
    ),
    {
        "sku": encoding.FieldStatistics(SKUS),
        "genres": encoding.FieldStatistics(tuple(f"genre{number}" for number in range(10))),
    },
)
# Each film has one genre or two; the last one is out of the vocabulary.
OF_ALL_FILMS = np.array(
    [[sku, *((1 + sku % 5, 6 * (sku % 2), 0) if 0 < sku < 25 else (0, 0, 0))] for sku in range(26)],
    np.int32,
)


def test_events_of_ads_that_share_values_of_a_list_count_by_their_share():
    (history,), now = OF_FILMS.schema.histories, bucket(0.0)
    compare = comparisons.Comparisons(OF_FILMS, [(history, GENRES)], {"recent": OF_ALL_FILMS})
    # Film 3 has the genres 4 and 6, and film 8 has genre 4.
    query = np.array([[[3, 8, now, now]]], np.int32)
    ad = [[9, 4, 0, 0], [7, 6, 3, 0], [1, 6, 4, 2], [2, 3, 0, 0], [25, 11, 0, 0], [0, 0, 0, 0]]
    found = compare(query, np.array([ad], np.int32))[0, :, 0]
    np.testing.assert_allclose(found, np.log1p([2, 1 / 2, 2 / 3 + 1 / 3, 0, 0, 0]), rtol=1e-6)


def test_lists_of_the_ads_of_a_history_are_compared_unless_they_have_many_values(monkeypatch):
    query = np.array([[3, 8, 1, 1]] * 200, np.int32)
    ad = np.array([[9, 4, 6, 0]] * 200, np.int32)

    def compared():
        clicks = Clicks(OF_FILMS, query, ad, 0)
        found = comparisons.find_comparisons(clicks, {"recent": OF_ALL_FILMS})
        return [field.name for _, field in found]

    assert compared() == ["genres"]
    monkeypatch.setattr(field_pairs, "_MAX_VALUES_OF_LISTS", 10)
    assert compared() == []


def test_each_query_is_compared_with_each_of_its_candidates():
    compare = comparisons.Comparisons(FITTED, [(INTEREST, CATEGORY)])
    query = queries(["toys", "bags"], [["", "", ""]] * 2, [1.0, 1.0])
    ad = tf.reshape(ads(["toys", "bags", "toys", "toys"], [1.0] * 4), [2, 2, -1])
    assert compare(query[:, None], ad).numpy().astype(bool).tolist() == [[[1], [0]], [[0], [0]]]


def test_without_pairs_there_are_no_columns():
    assert comparisons.Comparisons(FITTED, [])(tf.zeros([2, 1, 5]), tf.zeros([2, 3, 2])).shape == (
        2,
        3,
        0,
    )


class Clicks(reader.DataSet):
    """A data set of clicked rows, one of each request."""

    def __init__(self, fitted, query, ad, sampled=0, users_return=False):
        self.fitted, self.schema = fitted, fitted.schema
        self.description = types.SimpleNamespace(
            splits={"train": types.SimpleNamespace(sampled=sampled)}, users_return=users_return
        )
        self._rows = {"query": tf.constant(query), "ad": tf.constant(ad)}

    def clicked(self, split, batch_size, seed):
        assert split == "train"
        return [self._rows]

    def batches(self, split, batch_size, seed):
        assert split == "train"
        ads = self._rows["ad"][:, None]
        yield {"query": self._rows["query"], "ad": ads, "mask": tf.ones(ads.shape[:2], tf.bool)}


def related(interest, category, budget, price, fitted=FITTED):
    count = len(interest)
    query = queries(interest, [["", "", ""]] * count, budget)
    pairs = comparisons.find_comparisons(Clicks(fitted, query, ads(category, price)), {})
    return [(query_field.name, ad_field.name) for query_field, ad_field in pairs]


def test_only_fields_that_are_related_in_clicked_rows_are_compared():
    rng = np.random.default_rng(0)
    category = rng.choice(CATEGORIES, 2_000)
    other = rng.choice(CATEGORIES, 2_000)
    price = np.exp(rng.normal(2, 2, 2_000)).astype(np.float32)
    budget = (price * np.exp(rng.normal(0, 2, 2_000))).astype(np.float32)
    any_budget = rng.permutation(budget)
    often = np.where(rng.random(2_000) < 0.5, category, other)
    assert related(often, category, budget, price) == [
        ("interest", "category"),
        ("budget", "price"),
    ]
    assert related(other, category, budget, price) == [("budget", "price")]
    assert related(often, category, any_budget, price) == [("interest", "category")]
    # If users with large budgets click cheap ads, a difference of the two says nothing.
    assert related(other, category, (1 / budget).astype(np.float32), price) == []


def test_few_rows_and_keys_are_not_compared():
    same = ["toys", "bags", "shoes"] * 3
    numbers = np.array([1.0, 10.0, 100.0] * 3, np.float32)
    assert related(same, same, numbers, numbers) == []
    many = same * 100
    keyed = dataclasses.replace(SCHEMA, ad_key=("category",))
    fitted = encoding.FittedSchema(keyed, FITTED.statistics)
    budget = np.ones(900, np.float32)
    assert related(many, many, budget, budget) == [("interest", "category")]
    assert related(many, many, budget, budget, fitted) == []


@pytest.mark.parametrize(("num_own", "is_compared"), [(6, True), (9, False)])
def test_a_fifth_of_the_frequent_values_must_be_on_both_sides(num_own, is_compared):
    # Two shared values of eight are a quarter, of eleven less than a fifth.
    shared = ("toys", "bags")
    statistics = {
        name: encoding.FieldStatistics((*shared, *(f"{name} {n}" for n in range(num_own))))
        for name in ("interest", "category")
    }
    fields = (INTEREST, CATEGORY)
    schema = Schema("shop", fields, ad_key=("sku",), click="clicked")
    fitted = encoding.FittedSchema(schema, statistics)
    values = tf.constant([*shared] * 500)
    rows = [encoding.Encoder(fitted, [field])({field.name: values}) for field in fields]
    pairs = comparisons.find_comparisons(Clicks(fitted, *rows), {})
    assert pairs == ([fields] if is_compared else [])


def test_fields_that_are_mostly_equal_by_chance_are_judged_by_unequal_rows():
    rng = np.random.default_rng(0)
    ones = np.ones(2_000, np.float32)
    category = np.where(rng.random(2_000) < 0.95, "toys", "bags")
    interest = np.where(rng.random(2_000) < 0.9, category, "toys")
    assert related(interest, category, ones, ones) == [("interest", "category")]
    assert related(rng.permutation(interest), category, ones, ones) == []


def test_unrelated_fields_with_the_same_values_are_seldom_compared():
    # About eight equal pairs by chance: the noise of one random pairing would pass in 5 of 1,000.
    rng = np.random.default_rng(0)
    for query_has_value, ad_has_value in rng.random((1_000, 2, 400)) < 0.14:
        assert not field_pairs._are_often_equal(np.logical_and, query_has_value, ad_has_value)


def pairs_of_histories(rows_of_sku, rows_of_category, **negatives):
    """The compared pairs of a log of 200 rows with events of the ad's SKU and category."""
    # SKU 3 is of category 4, as SKU 13 is.
    recent = [[3 if row < rows_of_sku else 5, 0, 0] for row in range(200)]
    seen = [[4 if row < rows_of_category else 5, 0, 0] for row in range(200)]
    nothing = np.zeros((200, 3), np.int32)
    query = np.concatenate([recent, nothing, np.ones((200, 3)), seen, nothing], axis=1)
    ad = np.array([[3, 4]] * 200, np.int32)
    log = Clicks(OF_HISTORIES, query.astype(np.int32), ad, **negatives)
    found = comparisons.find_comparisons(log, {"recent": OF_SKUS})
    return [(history.name, field.name) for history, field in found]


def test_histories_are_compared_with_what_they_list_and_its_properties():
    pairs = [("recent", "sku"), ("recent", "category"), ("seen", "category")]
    assert pairs_of_histories(200, 200) == pairs
    # In a log without repetitions nothing is known of the effect of one.
    assert pairs_of_histories(100, 99) == pairs[:2]
    assert pairs_of_histories(0, 0) == []


def test_the_ad_itself_is_not_compared_if_no_negative_is_an_ad_that_its_user_clicked():
    pairs = [("recent", "category"), ("seen", "category")]
    assert pairs_of_histories(200, 200, sampled=800) == pairs
    every = [("recent", "sku"), *pairs]
    assert pairs_of_histories(200, 200, sampled=800, users_return=True) == every
