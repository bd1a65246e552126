"""The worlds other than the bilinear one: what all have in common, and what is special in each."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from tfrec import metrics
from tfrecords import schema as schema_lib
from tfrecords import synthetic
from tfrecords.synthetic import log as log_lib

pytestmark = pytest.mark.slow

NUM_ROWS = 12_000
SIZES = {"seed": 3, "num_users": 400, "num_ads": 600}


@pytest.fixture(scope="module", params=["shop", "drift", "sequence"])
def config(request):
    # The log is too short for more users to come back as often as those of the default.
    sizes = SIZES | ({"num_users": 120} if request.param == "sequence" else {})
    return dataclasses.replace(synthetic.WORLDS[request.param], **sizes)


@pytest.fixture(scope="module")
def log(config, tmp_path_factory):
    return synthetic.write_log(tmp_path_factory.mktemp("log"), NUM_ROWS, config)


@pytest.fixture(scope="module")
def world(log):
    return synthetic.load_world(log.directory)


def read(path, world):
    """Returns the columns of a file: strings where the world has values, else numbers."""
    options = csv.ConvertOptions(
        column_types=dict.fromkeys(world.population.vocabularies, pa.string()),
        strings_can_be_null=False,
    )
    table = csv.read_csv(
        path, parse_options=csv.ParseOptions(delimiter="\t"), convert_options=options
    )
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture(scope="module")
def rows(log, world):
    return read(log.log, world)


@pytest.fixture(scope="module")
def truth(log):
    with pa.memory_map(str(log.truth)) as source:
        table = pa.ipc.open_file(source).read_all()
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        return {
            name: np.array(own.to_pylist(), float)
            if name == "click_ages"
            else own.to_numpy().copy()
            for name, own in columns.items()
        }


@pytest.fixture(scope="module")
def sides(world, rows, truth):
    """The query-side columns of the log and its truth, and the ad-side ones of its ads."""
    query = {name: ({**truth, **rows})[name] for name in world.population.query_columns}
    index = {ad: number for number, ad in enumerate(world.ads["ad"])}
    shown = np.array([index[ad] for ad in rows["ad"]])
    return query, {name: values[shown] for name, values in world.ads.items()}


def test_the_log_has_the_columns_of_its_schema_and_the_table_of_ads_the_others(log, world, rows):
    schema = schema_lib.load_schema(log.schema)
    assert schema == world.schema
    ads = read(log.ads, world)
    for name in schema.columns:
        assert name in rows or name in ads, name
    np.testing.assert_array_equal(ads["ad"], world.ads["ad"])
    np.testing.assert_allclose(ads["price"], world.ads["price"])
    assert ads["title"].tolist() == world.population.titles(world.ads)
    assert set(rows["ad"]) < set(ads["ad"])


def test_requests_follow_each_other_in_time(rows):
    same = np.diff(rows["request"]) == 0
    np.testing.assert_array_equal(np.diff(rows["request"]), np.where(same, 0, 1))
    assert (np.diff(rows["time"]) >= 0).all()
    assert (np.diff(rows["time"])[same] == 0).all()
    hour = rows["time"] // 3_600 % 24
    known = rows["hour"] != ""
    np.testing.assert_array_equal(rows["hour"][known].astype(int), hour[known])
    # 1 January 2026, on which the log starts, is a Thursday.
    assert rows["weekday"][0] == "Thu"


def test_the_same_seed_gives_the_same_bytes_and_a_longer_log_starts_with_a_shorter(
    log, config, tmp_path
):
    short = synthetic.write_log(tmp_path / "short", 777, config)
    lines = short.log.read_bytes().splitlines()
    assert len(lines) == 778  # with the header
    assert lines == log.log.read_bytes().splitlines()[:778]
    for name in ("ads", "schema", "world"):
        assert getattr(short, name).read_bytes() == getattr(log, name).read_bytes()
    other = synthetic.write_log(tmp_path / "other", 777, dataclasses.replace(config, seed=4))
    assert other.log.read_bytes() != short.log.read_bytes()


def test_the_world_is_rebuilt_from_its_file(world, config):
    assert world.config == config


@pytest.mark.parametrize(
    ("label", "score"),
    [("clicked", "click_probability"), ("ordered", "engagement_probability")],
)
def test_labels_agree_with_their_probabilities_by_decile(rows, truth, label, score):
    order = np.argsort(truth[score])
    for decile in np.array_split(order, 10):
        expected = truth[score][decile]
        deviation = np.sqrt((expected * (1 - expected)).sum())
        assert abs(rows[label][decile].sum() - expected.sum()) < 4 * deviation


def test_rates_and_revenue_are_those_of_the_config(rows, truth, config):
    clicks = rows["clicked"] == 1
    assert clicks.mean() == pytest.approx(config.click_rate, abs=0.06)
    assert rows["ordered"][clicks].mean() == pytest.approx(config.engagement_rate, abs=0.06)
    assert not rows["ordered"][~clicks].any()
    np.testing.assert_array_equal(rows["order_value"] > 0, rows["ordered"] == 1)
    error = rows["order_value"] - truth["expected_revenue"]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(NUM_ROWS)


def test_amounts_are_written_with_cents(rows):
    amounts = rows["order_value"][rows["ordered"] == 1]
    assert (amounts > 0).all()
    assert (amounts % 1 != 0).mean() > 0.9


def test_the_truth_follows_from_the_columns(world, rows, truth, sides):
    click = world.click_probability(*sides, rows["position"])
    engagement = click * world.engagement_probability(*sides)
    revenue = engagement * world.expected_revenue_given_engagement(*sides)
    np.testing.assert_allclose(click, truth["click_probability"], rtol=1e-9)
    np.testing.assert_allclose(engagement, truth["engagement_probability"], rtol=1e-9)
    np.testing.assert_allclose(revenue, truth["expected_revenue"], rtol=1e-9)


def test_values_of_all_ads_are_those_of_rows(world, sides):
    # 150 requests: more than one internal block.
    query = {name: values[:150] for name, values in sides[0].items()}
    values = world.value_matrices(query)
    columns = np.random.default_rng(0).integers(len(world.ads["ad"]), size=150)
    ads = {name: own[columns] for name, own in world.ads.items()}
    click = world.click_probability(query, ads)
    engagement = click * world.engagement_probability(query, ads)
    revenue = engagement * world.expected_revenue_given_engagement(query, ads)
    for head, expected in (("click", click), ("engagement", engagement), ("revenue", revenue)):
        assert values[head].shape == (150, 600)
        np.testing.assert_allclose(values[head][np.arange(150), columns], expected, rtol=1e-9)


def test_first_positions_are_filled_as_the_exposure_weights_say(world, rows, sides):
    first = rows["position"] == 0
    weights = world.exposure_weight_matrix({name: own[first] for name, own in sides[0].items()})
    expected = (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    index = {ad: number for number, ad in enumerate(world.ads["ad"])}
    shown = np.bincount([index[ad] for ad in rows["ad"][first]], minlength=len(index))
    popular = expected > 4
    deviation = (shown - expected)[popular] / np.sqrt(expected[popular])
    assert popular.sum() > 50
    assert 0.6 < np.mean(deviation**2) < 1.4
    assert 0 < (expected == 0).sum() < 40  # 3 % of 600 ads
    assert shown[expected == 0].sum() == 0


def test_price_decides_much_of_the_value(world):
    utility = sum(
        world.value_matrices(world.sample_requests(np.random.default_rng(1), 200)).values()
    )
    ten = np.sort(utility, axis=1)[:, -10:].mean()
    assert ten > 8 * utility.mean()
    # Users buy neither what is far too expensive nor what is cheap: prices of the best ads differ.
    best = world.ads["price"][utility.argmax(axis=1)]
    assert np.quantile(best, 0.9) > 4 * np.quantile(best, 0.1)


def test_queries_and_ads_interact_beyond_a_few_dimensions(world):
    # A truth of inner products in five dimensions leaves nothing after five singular values.
    probability = world.click_probability(world.sample_requests(np.random.default_rng(1), 200))
    logit = np.log(probability / (1 - probability))
    rest = logit - logit.mean(axis=0) - logit.mean(axis=1, keepdims=True) + logit.mean()
    assert np.var(rest) > 0.3 * np.var(logit)
    strength = np.linalg.svd(rest, compute_uv=False) ** 2
    assert strength[:5].sum() < 0.8 * strength.sum()


def test_an_unknown_user_counts_as_anonymous(world, sides):
    query, ads = ({name: values[:5] for name, values in side.items()} for side in sides)
    unknown = world.click_probability({**query, "user": np.full(5, "somebody")}, ads)
    missing = world.click_probability({**query, "user": np.full(5, "")}, ads)
    np.testing.assert_array_equal(unknown, missing)


def test_only_drift_changes_values_and_exposure_over_time(world, sides):
    query = {name: values[:40] for name, values in sides[0].items()}
    later = {**query, "time": query["time"] + 20 * 86_400}
    for measure in (world.click_probability, world.exposure_weight_matrix):
        change = np.abs(np.log(measure(later) + 1e-9) - np.log(measure(query) + 1e-9)).mean()
        assert (change > 0.1) == (world.config.drift > 0)


def test_titles_say_brand_and_thing(world):
    for brand, title in zip(world.ads["brand"], world.population.titles(world.ads), strict=True):
        assert title.startswith(brand)
        assert len(title.split()) >= 2


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    """A log with long histories, its rows, the ages of its truth, and its world."""
    config = dataclasses.replace(synthetic.WORLDS["sequence"], seed=3, num_users=30, num_ads=600)
    # Three chunks of requests: clicks in one count in the next.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_lib, "_REQUESTS_PER_CHUNK", 1_024)
        log = synthetic.write_log(tmp_path_factory.mktemp("sequence"), 12_500, config)
    world = synthetic.load_world(log.directory)
    with pa.memory_map(str(log.truth)) as source:
        ages = pa.ipc.open_file(source).read_all()["click_ages"].combine_chunks()
        ages = ages.flatten().to_numpy().reshape(len(ages), -1).copy()
    return read(log.log, world), ages, world


def test_ages_are_those_since_the_last_click_on_each_category_in_the_log(sequence):
    rows, ages, world = sequence
    category = dict(zip(world.ads["ad"], world.encode(world.ads)["category"], strict=True))
    last = {user: np.full(21, np.nan) for user in np.unique(rows["user"])}
    request, expected = -1, None
    for i in range(len(ages)):
        user, time = rows["user"][i], rows["time"][i]
        if rows["request"][i] != request:
            request, expected = rows["request"][i], time - last[user]
        np.testing.assert_array_equal(ages[i], expected)
        clicked = category[rows["ad"][i]]
        if rows["clicked"][i] and user and clicked:
            last[user][clicked] = time
    assert np.isnan(ages[rows["user"] == ""]).all()
    assert np.isfinite(ages[-1, 1:]).sum() > 10


def test_a_click_raises_the_categories_that_follow_it_a_day_later_and_lowers_its_own(sequence):
    rows, _, world = sequence
    query = {n: rows[n][:1] for n in world.population.query_columns if n != "click_ages"}
    logit = {}
    for days in (np.nan, 0.01, 1.0, 20.0):
        ages = np.full((1, 21), np.nan)
        ages[0, 5] = days * 86_400
        probability = world.click_probability({**query, "click_ages": ages})[0]
        logit[days] = np.log(probability / (1 - probability))
    category = world.encode(world.ads)["category"]
    # At the age of a day: 3 for what follows, and -exp(-1) for the category itself.
    change = logit[1.0] - logit[np.nan]
    assert change[category == 5] == pytest.approx(-np.exp(-1))
    followers = {int(own) for own in category[change > 1.0]}
    assert len(followers) == 2
    assert 5 not in followers
    assert change[np.isin(category, list(followers))] == pytest.approx(3.0)
    assert change[~np.isin(category, [5, *followers])] == pytest.approx(0.0, abs=1e-9)
    following = np.isin(category, list(followers))
    # Just after a click and weeks later, there is hardly any effect.
    assert (logit[0.01] - logit[np.nan])[following].max() < 0.1
    assert (logit[20.0] - logit[np.nan])[following].max() < 0.1


def test_earlier_clicks_predict_the_next_click(sequence):
    rows, ages, world = sequence
    query = {n: {**rows, "click_ages": ages}[n] for n in world.population.query_columns}
    index = {ad: number for number, ad in enumerate(world.ads["ad"])}
    shown = np.array([index[ad] for ad in rows["ad"]])
    ads = {name: values[shown] for name, values in world.ads.items()}
    known = world.click_probability(query, ads)
    unknown = world.click_probability({**query, "click_ages": np.full_like(ages, np.nan)}, ads)
    clicks = rows["clicked"].astype(np.float32)
    assert metrics.auc(clicks, known) > metrics.auc(clicks, unknown) + 0.05


def test_a_file_of_an_unknown_world_is_refused(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "world.json").write_text('{"world": "desert"}')
    with pytest.raises(ValueError, match=r"world\.json: 'desert'"):
        synthetic.load_world(tmp_path)


def test_another_world_replaces_all_files_of_a_log(tmp_path):
    bilinear = synthetic.WorldConfig(num_users=50, num_ads=40, num_campaigns=10)
    shop = dataclasses.replace(synthetic.WORLDS["shop"], **SIZES)
    for config in (bilinear, shop):
        log = synthetic.write_log(tmp_path, 100, config)
        assert len(log.log.read_text().splitlines()) == 1 + 100
    assert synthetic.load_world(tmp_path).config == shop
