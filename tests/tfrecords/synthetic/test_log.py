"""The synthetic world and the log written from it."""

import dataclasses
import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from tfrec import metrics
from tfrecords import schema as schema_lib
from tfrecords import synthetic

pytestmark = pytest.mark.slow

NUM_ROWS = 20_000
CONFIG = synthetic.WorldConfig(seed=3, num_users=3_000, num_ads=2_000, num_campaigns=300)
NUMERIC = [f"I{i}" for i in range(1, 14)]
CATEGORICAL = [f"C{i}" for i in range(1, 27)]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return synthetic.write_log(tmp_path_factory.mktemp("synthetic"), NUM_ROWS, CONFIG)


@pytest.fixture(scope="module")
def world(log):
    return synthetic.load_world(log.directory)


@pytest.fixture(scope="module")
def rows(log):
    """Columns as read back from log.tsv."""
    types = {name: pa.string() for name in CATEGORICAL} | {n: pa.float64() for n in NUMERIC}
    table = csv.read_csv(
        log.log,
        parse_options=csv.ParseOptions(delimiter="\t"),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.fixture(scope="module")
def truth(log):
    with pa.memory_map(str(log.truth)) as source:
        table = pa.ipc.open_file(source).read_all()
        return {name: table[name].to_numpy().copy() for name in table.column_names}


@pytest.fixture(scope="module")
def sides(rows):
    """The query-side and the ad-side columns of the log."""
    schema = synthetic.schema()
    query = {field.name: rows[field.name] for field in schema.query_fields}
    return query, {field.name: rows[field.name] for field in schema.ad_fields}


def test_log_has_criteo_columns_and_those_of_requests_and_labels(log):
    lines = log.log.read_bytes().split(b"\n")
    assert lines.pop() == b""
    more = ["request_id", "position", "engagement", "revenue"]
    assert lines.pop(0).decode().split("\t") == ["label", *NUMERIC, *CATEGORICAL, *more]
    assert len(lines) == NUM_ROWS
    number, string = rb"(-?\d+)?", rb"([0-9a-f]{8})?"
    line = rb"[01]" + (rb"\t" + number) * 13 + (rb"\t" + string) * 26
    line = re.compile(line + rb"\t\d+\t\d+\t[01]\t\d+(\.\d+)?")
    assert all(line.fullmatch(value) for value in lines)


def test_numeric_columns_hold_some_negative_numbers(rows):
    assert any(np.nanmin(rows[name]) < 0 for name in NUMERIC)


def test_requests_are_adjacent_and_their_positions_count_up(rows):
    request, position = rows["request_id"], rows["position"]
    same = np.diff(request) == 0
    np.testing.assert_array_equal(np.diff(request), np.where(same, 0, 1))
    np.testing.assert_array_equal(position[1:], np.where(same, position[:-1] + 1, 0))
    lengths = np.bincount(request)[:-1]
    assert lengths.min() == 1
    assert lengths.max() == 12
    assert 4.5 < lengths.mean() < 5.5


def test_a_request_shows_no_ad_twice_and_has_one_query(rows):
    shown = list(zip(rows["request_id"], rows["C7"], strict=True))
    assert len(set(shown)) == len(shown)
    same = np.diff(rows["request_id"]) == 0
    for field in synthetic.schema().query_fields:
        values = rows[field.name][:-1][same], rows[field.name][1:][same]
        np.testing.assert_array_equal(*values, err_msg=field.name)


def test_rows_are_in_time_order(rows):
    # 400 requests a day, so the weekday changes with each 400th request and never between.
    first = rows["position"] == 0
    weekday = rows["C6"][first][: 9 * 400].reshape(9, 400)
    assert (weekday == weekday[:, :1]).all()
    assert len(set(weekday[:7, 0])) == 7
    np.testing.assert_array_equal(weekday[:2, 0], weekday[7:9, 0])


def _hashes(log):
    files = (log.log, log.ads, log.schema, log.truth, log.world)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    small = synthetic.WorldConfig(num_users=500, num_ads=300, num_campaigns=50)
    first = synthetic.write_log(tmp_path / "a", 1_000, small)
    again = synthetic.write_log(tmp_path / "b", 1_000, small)
    other = synthetic.write_log(tmp_path / "c", 1_000, dataclasses.replace(small, seed=8))
    assert _hashes(first) == _hashes(again)
    for name in ("log", "ads", "truth", "world"):
        assert getattr(first, name).read_bytes() != getattr(other, name).read_bytes()


def test_writing_leaves_no_temporary_files(log):
    names = sorted(str(path.relative_to(log.directory)) for path in log.directory.rglob("*"))
    assert names == [
        "ads.tsv",
        "log.tsv",
        "schema.json",
        "truth",
        "truth/truth.arrow",
        "truth/world.json",
    ]


def test_write_log_refuses_a_log_without_rows(tmp_path):
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        synthetic.write_log(tmp_path, 0)


def test_load_world_names_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No world at .*world\.json"):
        synthetic.load_world(tmp_path)


def test_load_world_refuses_a_file_that_is_not_a_config(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "world.json").write_text('{"color": "red"}')
    with pytest.raises(ValueError, match=r"world\.json: .*color"):
        synthetic.load_world(tmp_path)


def test_config_survives_json(log, world):
    assert world.config == CONFIG
    assert json.loads(log.world.read_text()) == dataclasses.asdict(CONFIG)


def test_schema_on_disk_is_the_schema_and_names_the_ad_side(log):
    assert schema_lib.load_schema(log.schema) == synthetic.schema()
    ad_side = {field.name for field in synthetic.schema().ad_fields}
    assert ad_side == {"C7", "C8", "C11", "C13", "C17", "C18", "I10", "I11", "I12", "I13"}
    assert len(synthetic.schema().fields) == 39


def test_rates_are_those_of_a_click_log(rows):
    clicks = rows["label"] == 1
    assert 0.20 < clicks.mean() < 0.25
    assert 0.10 < rows["engagement"][clicks].mean() < 0.20


def test_engagement_follows_a_click_and_revenue_an_engagement(rows):
    assert (rows["label"][rows["engagement"] == 1] == 1).all()
    np.testing.assert_array_equal(rows["revenue"] > 0, rows["engagement"] == 1)


def test_ceiling_auc_is_in_range(rows, truth):
    assert 0.78 < metrics.auc(rows["label"], truth["click_probability"]) < 0.85


@pytest.mark.parametrize(
    ("label", "score"),
    [("label", "click_probability"), ("engagement", "engagement_probability")],
)
def test_labels_agree_with_true_probabilities_by_decile(rows, truth, label, score):
    order = np.argsort(truth[score])
    for decile in np.array_split(order, 10):
        expected = truth[score][decile]
        deviation = np.sqrt((expected * (1 - expected)).sum())
        assert abs(rows[label][decile].sum() - expected.sum()) < 4 * deviation


def test_revenue_agrees_with_its_true_mean(rows, truth):
    error = rows["revenue"] - truth["expected_revenue"]
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(NUM_ROWS)


def test_truth_follows_from_the_columns_of_the_log(world, rows, truth, sides):
    click = world.click_probability(*sides, rows["position"])
    engagement = click * world.engagement_probability(*sides)
    revenue = engagement * world.expected_revenue_given_engagement(*sides)
    np.testing.assert_allclose(click, truth["click_probability"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(engagement, truth["engagement_probability"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(revenue, truth["expected_revenue"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["click_probability", "engagement_probability", "expected_revenue_given_engagement"],
)
def test_matrix_equals_aligned_rows(world, name):
    # 150 queries: more than one internal block.
    query = world.sample_requests(np.random.default_rng(0), 150)
    matrix = getattr(world, name)(query)
    assert matrix.shape == (150, len(world.ads["C7"]))
    tiled = {column: np.tile(values[::100], 150) for column, values in world.ads.items()}
    repeated = {column: np.repeat(values, 20) for column, values in query.items()}
    aligned = getattr(world, name)(repeated, tiled).reshape(150, 20)
    np.testing.assert_allclose(matrix[:, ::100], aligned, rtol=1e-9)


def test_first_positions_are_filled_as_the_exposure_weights_say(world, rows, sides):
    first = rows["position"] == 0
    query = {name: values[first] for name, values in sides[0].items()}
    weights = world.exposure_weight_matrix(query)
    expected = (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
    index = {ad: number for number, ad in enumerate(world.ads["C7"])}
    shown = np.bincount([index[ad] for ad in rows["C7"][first]], minlength=len(index))
    popular = expected > 4
    deviation = (shown - expected)[popular] / np.sqrt(expected[popular])
    assert popular.sum() > 100
    assert 0.6 < np.mean(deviation**2) < 1.4
    assert shown[expected == 0].sum() == 0


def test_catalog_holds_ads_that_are_never_shown(log, world, rows):
    lines = log.ads.read_text().splitlines()
    header = lines[0].split("\t")
    ads = {line.split("\t")[header.index("C7")] for line in lines[1:]}
    assert ads == set(world.ads["C7"])
    assert len(ads) == CONFIG.num_ads
    assert set(rows["C7"]) < ads
    titles = [line.split("\t")[header.index("title")] for line in lines[1:]]
    # An adjective, a thing and the first digits of the id.
    for line, title in zip(lines[1:], titles, strict=True):
        assert title.split()[-1] == line.split("\t")[header.index("C7")][:4]
        assert len(title.split()) == 3
    assert len(set(titles)) > 0.9 * len(titles)


def test_catalog_agrees_with_the_log(world, rows, sides):
    index = {ad: number for number, ad in enumerate(world.ads["C7"])}
    shown = np.array([index[ad] for ad in rows["C7"]])
    for name, values in sides[1].items():
        np.testing.assert_array_equal(world.ads[name][shown], values, err_msg=name)


def test_popularity_is_skewed(rows):
    for column in ("C7", "C3"):
        _, counts = np.unique(rows[column][rows[column] != ""], return_counts=True)
        counts = np.sort(counts)[::-1]
        assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()


def test_values_are_missing_at_varied_rates(rows):
    rates = [np.mean(rows[name] == "") for name in CATEGORICAL]
    rates += [np.mean(np.isnan(rows[name])) for name in NUMERIC]
    assert min(rates) == 0
    assert sum(rate > 0.01 for rate in rates) > 20
    assert 0.3 < max(rates) < 0.5


def test_lower_positions_are_clicked_less(world, rows, sides):
    top = world.click_probability(*sides)
    np.testing.assert_array_equal(top, world.click_probability(*sides, np.zeros(NUM_ROWS)))
    low = world.click_probability(*sides, np.full(NUM_ROWS, 8))
    assert (low < top).all()
    positions = rows["position"]
    assert rows["label"][positions < 2].mean() > rows["label"][positions > 6].mean() + 0.03


def test_an_unknown_value_counts_as_missing(world, sides):
    query, ads = ({name: values[:5] for name, values in side.items()} for side in sides)
    unknown = world.click_probability({**query, "C12": np.full(5, "zzzzzzzz")}, ads)
    missing = world.click_probability({**query, "C12": np.full(5, "")}, ads)
    np.testing.assert_array_equal(unknown, missing)


def test_queries_and_ads_interact(world):
    # An additive logit leaves nothing after row and column means are taken away.
    query = world.sample_requests(np.random.default_rng(1), 200)
    probability = world.click_probability(query)
    logit = np.log(probability / (1 - probability))
    additive = logit.mean(axis=0) + logit.mean(axis=1, keepdims=True) - logit.mean()
    assert np.var(logit - additive) > 0.5 * np.var(logit)


def test_no_single_column_gives_the_click_away(rows):
    half = NUM_ROWS // 2
    label = rows["label"]
    for name in (*CATEGORICAL, *NUMERIC):
        _, value = np.unique(rows[name], return_inverse=True)
        clicks = np.bincount(value[:half], label[:half], value.max() + 1)
        shown = np.bincount(value[:half], minlength=value.max() + 1)
        rate = (clicks + 20 * label.mean()) / (shown + 20)
        assert metrics.auc(label[half:], rate[value[half:]]) < 0.66, name
