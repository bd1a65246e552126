"""Factors of who clicked what, appended to embeddings that are learned from clicks alone."""

import dataclasses
import json
import shutil

import catalog_stub
import logs
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tfrec import layers, retrieval
from tfrec.retrieval import click_factors, retrieval_training, retrieval_validation
from tfrecords import encoding, schema

pytestmark = pytest.mark.slow

SCHEMA = schema.Schema(
    "tastes",
    (
        schema.Field("user", "categorical", "query", min_count=1),
        schema.Field("song", "categorical", "ad", min_count=1),
    ),
    ad_key=("song",),
    click=None,
    user_key="user",
)


@pytest.fixture
def four_users():
    """Users t and u click songs x and y, v and w click z; the vocabulary lacks w and the song o."""
    statistics = {
        "user": encoding.FieldStatistics(vocabulary=("t", "u", "v")),
        "song": encoding.FieldStatistics(vocabulary=("x", "y", "z")),
    }
    fitted = encoding.FittedSchema(SCHEMA, statistics)
    catalog = catalog_stub.CatalogDataSet(
        fitted, pa.table({"song": ["x", "y", "z", "o"]}), [], None
    ).catalog()
    users = encoding.fingerprint(tf.constant(list("ttuuvw"))).numpy()
    return fitted, catalog, layers.ClickedAds(users, np.array([0, 1, 0, 1, 2, 2]))


def test_linear_scores_are_those_of_the_decomposition(four_users):
    fitted, catalog, clicked = four_users
    factors = click_factors.fit(fitted, catalog, clicked)
    users = encoding.Encoder(fitted, SCHEMA.query_fields).encode_table(
        pa.table({"user": ["t", "u", "v", "w", None]})
    )
    user_factors, ad_factors = factors.factors_of(users, catalog.features)
    # In the vocabulary, t and u have two clicks each; x and y have two, z has one. Divided by the
    # roots and by powers of 0.4, the rows of t and u are 2^-0.9 for x and y, that of v is 1 for z.
    # The singular values are 2^0.1 of (x + y) / √2, and 1 of z.
    x_x, z_z = 2**0.1 / 2, 1.0
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2, 2] = x_x, z_z
    np.testing.assert_allclose(ad_factors @ ad_factors.T, expected, atol=1e-6)
    # Users are the sums of their songs over the root of their number.
    t = np.array([2 * x_x / np.sqrt(2)] * 2 + [0, 0])
    np.testing.assert_allclose(
        user_factors @ ad_factors.T, [t, t, [0, 0, 1, 0], [0] * 4, [0] * 4], atol=1e-6
    )


def test_logs_without_ids_of_both_sides_have_no_factors(four_users):
    fitted, catalog, clicked = four_users
    for changes in ({"user_key": None}, {"ad_key": ("sku",)}, {"ad_key": ("song", "label")}):
        other = encoding.FittedSchema(dataclasses.replace(SCHEMA, **changes), fitted.statistics)
        assert click_factors.fit(other, catalog, clicked) is None


def test_one_song_is_too_few(four_users):
    fitted, catalog, _ = four_users
    users = encoding.fingerprint(tf.constant(list("tuv"))).numpy()
    clicked = layers.ClickedAds(users, np.zeros(3, np.int32))
    assert click_factors.fit(fitted, catalog, clicked) is None


@pytest.fixture(scope="module")
def tastes(tmp_path_factory):
    """Clicks of users on songs of their own quarter."""
    directory = tmp_path_factory.mktemp("tastes")
    return logs.converted_tastes(directory, users=120, tastes=4, ads=40, clicks=12, seed=0)


@pytest.fixture(scope="module")
def untrained(tastes, retrieval_config):
    """Returns a builder of untrained models, their training clicks, and held-out clicks."""
    pairs = retrieval.read_pairs(tastes, ("train",))
    clicked = layers.ClickedAds(*pairs)

    def build():
        return retrieval.build_two_tower(tastes, retrieval_config, tastes.catalog(), clicked)

    return build, clicked, retrieval_training._held_out(tastes, pairs)


def test_held_out_clicks_choose_the_scale(tastes, untrained):
    build, clicked, held_out = untrained
    catalog = tastes.catalog()
    factors = click_factors.fit(tastes.fitted, catalog, clicked)
    chosen = click_factors.choose(build(), factors, held_out, catalog)
    assert chosen.scale > 0
    # A quarter of 160 songs is 40, and users have heard 9 or 10 of them: ten of 30 by chance.
    assert chosen.recall["validation_corpus_recall_at_10"] > 0.25
    reversed_ = click_factors.ClickFactors(-factors.users, factors.ads, factors.columns)
    none = click_factors.choose(build(), reversed_, held_out, catalog)
    assert (none.count, none.scale) == (0, 0.0)
    assert none.recall["validation_corpus_recall"] < chosen.recall["validation_corpus_recall"]
    nothing = click_factors.ClickFactors(0 * factors.users, factors.ads, factors.columns)
    assert click_factors.choose(build(), nothing, held_out, catalog) == none


@pytest.mark.parametrize(
    ("mean", "at_10", "error", "improves"),
    [
        (0.53, 0.22, 0.02, True),
        (0.53, 0.20, 0.02, True),
        (0.51, 0.22, 0.02, False),  # noise
        (0.53, 0.19, 0.02, False),  # what is served first is worse
        (0.50, 0.20, 0.00, False),
    ],
)
def test_factors_must_gain_more_than_noise_and_not_worsen_short_lists(mean, at_10, error, improves):
    recall, without = (
        {"validation_corpus_recall": recall_mean, "validation_corpus_recall_at_10": recall_at_10}
        for recall_mean, recall_at_10 in ((mean, at_10), (0.50, 0.20))
    )
    choice = click_factors.FactorChoice(127, 1.0, 100, recall, without, error)
    assert choice.improves == improves


def test_held_out_clicks_choose_how_many_factors(tastes, untrained, monkeypatch):
    build, clicked, held_out = untrained
    catalog = tastes.catalog()
    factors = click_factors.fit(tastes.fitted, catalog, clicked)
    monkeypatch.setattr(click_factors, "COUNTS", (4, 30))
    # Four quarters have four directions, and the others are noise.
    assert click_factors.choose(build(), factors, held_out, catalog).count == 4
    monkeypatch.setattr(click_factors, "COUNTS", (1, 4))
    assert click_factors.choose(build(), factors, held_out, catalog).count == 4


def test_joined_embeddings_order_ads_by_the_sum_of_both_scores(tastes, untrained):
    build, clicked, held_out = untrained
    catalog, model = tastes.catalog(), build()
    ids = np.asarray(catalog.features)
    cosines = (
        model.embed_queries(held_out.query) @ retrieval.embed_in_batches(model.ad_tower, ids).T
    )
    factors = click_factors.fit(tastes.fitted, catalog, clicked)
    user_factors, ad_factors = factors.factors_of(held_out.query, ids)
    click_factors.append(model, factors.scaled(3.0))
    queries = model.embed_queries(held_out.query)
    ads = retrieval.embed_in_batches(model.ad_tower, ids)
    for embeddings in (queries, ads):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    expected = cosines + 3.0 * user_factors @ ad_factors.T
    scores = queries @ ads.T
    # The norm of a query scales its scores of all ads by the same factor.
    scale = (scores * expected).sum(axis=1) / np.square(expected).sum(axis=1)
    np.testing.assert_allclose(scores, scale[:, None] * expected, atol=1e-5)


@pytest.fixture(scope="module")
def one_epoch(retrieval_config):
    return dataclasses.replace(retrieval_config, epochs=1)


@pytest.fixture(scope="module")
def with_factors(tastes, one_epoch, tmp_path_factory):
    directory = tmp_path_factory.mktemp("with_factors")
    retrieval.train_two_tower(tastes, one_epoch, directory)
    return directory


@pytest.mark.trains
def test_a_trained_model_has_factors_of_the_clicks_of_both_splits(tastes, one_epoch, with_factors):
    description = json.loads((with_factors / "retrieval.json").read_text())
    chosen = description["click_factors"]
    scale, count = chosen["scale"], chosen["count"]
    best = max(entry[retrieval_validation.METRIC] for entry in description["history"])
    metric = retrieval_validation.METRIC
    assert chosen["recall"][metric] > chosen["recall_without"][metric] == pytest.approx(best)
    every = layers.ClickedAds(*retrieval.read_pairs(tastes, retrieval.REFIT_SPLITS))
    expected = click_factors.fit(tastes.fitted, tastes.catalog(), every).scaled(scale, count)
    stored = click_factors.ClickFactors.load(with_factors)
    np.testing.assert_array_equal(stored.users, expected.users)
    np.testing.assert_array_equal(stored.ads, expected.ads)
    model, _ = retrieval.load_two_tower(tastes, with_factors)
    size = model.ad_tower(tf.constant([[1]])).shape[1] - one_epoch.embedding_dim
    assert size > expected.ads.shape[1]
    assert size % 16 == 0


def test_factors_that_are_damaged_or_lost_can_be_fitted_again(tmp_path):
    path = tmp_path / click_factors.FILE
    click_factors.ClickFactors(np.ones((3, 2)), np.ones((4, 2)), (0, 0)).save(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        ValueError, match=r"click_factors.npz cannot be read .* the trained towers are kept"
    ):
        click_factors.ClickFactors.load(tmp_path)
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"No .*click_factors.npz. Delete .*retrieval.json and train"
    ):
        click_factors.ClickFactors.load(tmp_path)


@pytest.mark.trains
def test_factors_can_be_left_out(tastes, one_epoch, with_factors, tmp_path):
    """The factors of the training before are deleted; its epochs are kept."""
    directory = shutil.copytree(with_factors, tmp_path / "without")
    for name in ("retrieval.json", "config.json"):
        (directory / name).unlink()
    options = {"click_factors": False, "refit": False}
    retrieval.train_two_tower(tastes, dataclasses.replace(one_epoch, **options), directory)
    model, description = retrieval.load_two_tower(tastes, directory)
    assert "click_factors" not in description
    assert not (directory / click_factors.FILE).exists()
    assert model.ad_tower(tf.constant([[1]])).shape == [1, one_epoch.embedding_dim]
