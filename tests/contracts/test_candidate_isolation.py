"""Candidate isolation as a contract: a score depends on its request and its ad, on nothing else.

Held for the Keras model and for the exported SavedModel, over schemas with list fields, with
numbers alone and with ids alone, and over random permutations, subsets, duplicates, padding,
batches and lists of 1 to 1,000. Scores are float32; they agree to `TOLERANCE`, absolute and
relative, which is what the order of sums in a matrix product changes.
"""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tfrec import calibration, config, exported, ranking
from tfrec.calibration import curves
from tfrecords import encoding
from tfrecords import schema as schema_lib

TOLERANCE = 1e-5
CASES = 12
NUM_REQUESTS, NUM_ADS = 32, 1_000
CALIBRATORS = calibration.Calibrators(
    {
        "click": curves.Isotonic((-2.0, -0.5, 1.0), (-2.5, -0.4, 1.5), 0.8, 1.2),
        "engagement": curves.Platt(0.8, -0.3),
        "revenue": curves.Platt(1.2, 0.1),
    },
    amounts={"revenue": curves.Platt(0.9, 0.2)},
)


def field(name, kind, side):
    return schema_lib.Field(name, kind, side, min_count=1, num_oov_buckets=4)


SCHEMAS = {
    "lists": [
        field("history", "categorical_list", "query"),
        field("age", "numeric", "query"),
        field("ad", "categorical", "ad"),
        field("genres", "categorical_list", "ad"),
        field("price", "numeric", "ad"),
    ],
    "numbers": [
        field("age", "numeric", "query"),
        field("hour", "numeric", "query"),
        field("price", "numeric", "ad"),
        field("quality", "numeric", "ad"),
    ],
    "ids": [field("user", "categorical", "query"), field("ad", "categorical", "ad")],
}


@dataclasses.dataclass
class World:
    """A ranker with visible weights and the pools that requests and ads are drawn from."""

    keras: ranking.Ranker
    saved: tf.types.experimental.ConcreteFunction
    columns: dict[str, np.ndarray]
    queries: np.ndarray
    ads: np.ndarray

    def scores(self, form, requests, ads):
        """Scores ads [B, C] of the pool for requests [B] of the pool: head -> [B, C]."""
        features = tf.constant(self.ads[ads])
        if form == "keras":
            logits = self.keras.score(tf.constant(self.queries[requests]), features)
            parts = {f"{h}_{i}": v for h, v in logits.items() for i, v in enumerate(parts_of(v))}
            return {name: values.numpy() for name, values in parts.items()}
        raw = {name: tf.constant(values[requests]) for name, values in self.columns.items()}
        served = self.saved(ad_features=features, **raw)
        return {name: values.numpy() for name, values in served.items()}


def parts_of(logits):
    return [logits] if logits.shape.rank == 2 else tf.unstack(logits, axis=-1)


def raw_columns(fields, count, rng):
    """Returns raw columns, as the signatures take them; some values are missing or unknown."""
    columns = {}
    for field in fields:
        if field.kind == "numeric":
            values = rng.normal(size=count).astype(np.float32)
            columns[field.name] = np.where(rng.random(count) < 0.1, np.nan, values)
        elif field.kind == "categorical":
            columns[field.name] = np.array([f"{v}" for v in rng.integers(-3, 40, count)], object)
        else:
            values = [[f"{v}" for v in rng.integers(-3, 30, 4)] for _ in range(count)]
            columns[field.name] = np.array(values, object)
            columns[field.name][rng.random((count, 4)) < 0.3] = ""
    return columns


def table(fields, rng):
    """Returns training rows in which every value of a field occurs."""
    columns = {}
    for field in fields:
        if field.kind == "numeric":
            columns[field.name] = [str(v) for v in rng.normal(size=400).round(3)]
        elif field.kind == "categorical":
            columns[field.name] = [str(v) for v in rng.integers(0, 40, 400)]
        else:
            columns[field.name] = ["|".join(map(str, rng.integers(0, 30, 3))) for _ in range(400)]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@pytest.fixture(scope="module", params=SCHEMAS)
def world(request, tmp_path_factory):
    rng = np.random.default_rng(0)
    fields = SCHEMAS[request.param]
    schema = schema_lib.Schema(
        name=request.param,
        fields=tuple(fields),
        ad_key=tuple(f.name for f in fields if f.side == "ad" and f.kind != "categorical_list"),
        click="click",
        engagement="engagement",
        revenue="revenue",
    )
    fitted = logs.fit(schema, [table(fields, rng)])
    sizes = config.RankerConfig(
        field_dim=4, model_dim=16, num_blocks=2, num_heads=2,
        feed_forward_dim=16,
    )  # fmt: skip
    model = ranking.Ranker(fitted, sizes, ("click", "engagement", "revenue"))
    columns = raw_columns(schema.query_fields, NUM_REQUESTS, rng)
    queries = encoding.Encoder(fitted, schema.query_fields)(tensors(columns)).numpy()
    ads = raw_columns(schema.ad_fields, NUM_ADS, rng)
    ads = encoding.Encoder(fitted, schema.ad_fields)(tensors(ads)).numpy()
    model({"query": queries[:1], "ad": ads[None, :1]})
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(scale=0.15, size=variable.shape).astype(np.float32))
    module = exported.RankerModule(fitted, model, CALIBRATORS)
    path = str(tmp_path_factory.mktemp("saved"))
    tf.saved_model.save(module, path, signatures={"serving_default": module.serve})
    saved = tf.saved_model.load(path).signatures["serving_default"]
    return World(model, saved, columns, queries, ads)


def tensors(columns):
    return {name: tf.constant(values) for name, values in columns.items()}


@pytest.fixture(params=["keras", "saved"])
def form(request):
    return request.param


@pytest.fixture
def pool(world, form):
    """The scores of every ad of the pool for every request of it, each in one long list."""
    key = f"_{form}"
    if not hasattr(world, key):
        every = np.tile(np.arange(len(world.ads)), (len(world.queries), 1))
        parts = [
            world.scores(form, np.arange(i, i + 16), every[i : i + 16])
            for i in range(0, NUM_REQUESTS, 16)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        setattr(world, key, joined)
    return getattr(world, key)


def assert_as_in_the_pool(world, form, pool, requests, ads):
    scores = world.scores(form, requests, ads)
    assert scores.keys() == pool.keys()
    for name, values in scores.items():
        assert values.shape == ads.shape
        expected = pool[name][requests[:, None], ads]
        np.testing.assert_allclose(values, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def test_scores_differ_by_request_and_by_ad(world, form, pool):
    for name, values in pool.items():
        assert np.isfinite(values).all()
        if name == "revenue_2":
            continue
        assert values.std(axis=0).mean() > 10 * TOLERANCE, name
        assert values.std(axis=1).mean() > 10 * TOLERANCE, name


@pytest.mark.parametrize("seed", range(CASES))
def test_any_list_of_any_batch_scores_as_one_long_list(world, form, pool, seed):
    """Subsets, permutations and duplicates at once: rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    batch = int(rng.choice([1, 1, 2, 3, 7, 16, 64]))
    longest = 1_000 if batch <= 7 else 200
    count = int(np.exp(rng.uniform(0, np.log(longest))))
    requests = rng.integers(0, len(world.queries), batch)
    ads = rng.integers(0, len(world.ads), (batch, count))
    assert_as_in_the_pool(world, form, pool, requests, ads)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (1, 1_000), (64, 1), (1_000, 1), (3, 999)])
def test_the_smallest_and_the_largest_lists_and_batches(world, form, pool, batch, count):
    rng = np.random.default_rng(batch)
    requests = rng.integers(0, len(world.queries), batch)
    ads = rng.integers(0, len(world.ads), (batch, count))
    assert_as_in_the_pool(world, form, pool, requests, ads)


@pytest.mark.parametrize("seed", range(3))
def test_permuting_candidates_permutes_scores(world, form, pool, seed):
    order = np.random.default_rng(seed).permutation(len(world.ads))
    assert_as_in_the_pool(world, form, pool, np.array([seed]), order[None])


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_equals_its_single_rows(world, form, seed):
    rng = np.random.default_rng(seed)
    requests, ads = rng.integers(0, NUM_REQUESTS, 5), rng.integers(0, NUM_ADS, (5, 30))
    together = world.scores(form, requests, ads)
    for b in range(5):
        alone = world.scores(form, requests[b : b + 1], ads[b : b + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(
                together[name][b], values[0], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
            )


def test_padding_and_missing_neighbors_change_no_score(world, form, pool):
    """Row 0 of ids is what lists are filled up with: every field missing."""
    width = world.ads.shape[1]
    padded = dataclasses.replace(
        world, ads=np.concatenate([world.ads, np.zeros((1, width), np.int32)])
    )
    filler = len(world.ads)
    rng = np.random.default_rng(1)
    requests = rng.integers(0, NUM_REQUESTS, 4)
    ads = rng.integers(0, NUM_ADS, (4, 50))
    positions = np.sort(rng.choice(300, 50, replace=False))
    spread = np.full((4, 300), filler)
    spread[:, positions] = ads
    scores = padded.scores(form, requests, spread)
    for name, values in scores.items():
        expected = pool[name][requests[:, None], ads]
        np.testing.assert_allclose(values[:, positions], expected, rtol=TOLERANCE, atol=TOLERANCE)
        fillers = np.delete(values, positions, axis=1)
        assert np.ptp(fillers, axis=1).max() < TOLERANCE * (1 + np.abs(fillers).max())


def test_an_empty_list_has_no_scores(world, form):
    scores = world.scores(form, np.arange(3), np.zeros((3, 0), int))
    assert all(values.shape == (3, 0) for values in scores.values())


@pytest.mark.parametrize("num_ads", [1, 2, 7, 500])
def test_splitting_candidates_into_parts_changes_no_score(world, num_ads):
    queries = tf.constant(world.queries[:3])
    ads = tf.constant(np.stack([np.roll(world.ads, i, axis=0)[:num_ads] for i in range(3)]))
    whole = exported.score_candidates(world.keras, queries, ads)
    for parts in (2, 3):
        cut = exported.score_candidates(world.keras, queries, ads, parts)
        for head, values in whole.items():
            assert cut[head].shape == values.shape
            np.testing.assert_allclose(cut[head], values, rtol=TOLERANCE, atol=TOLERANCE)
