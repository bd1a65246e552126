"""Rare heads: what a factorization machine learns from few positives, and how it is mixed in."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import scipy.special
import tensorflow as tf

from tfrec import layers, ranking, training
from tfrec.exported import candidate_scores
from tfrec.ranking import rare_heads
from tfrecords import encoding
from tfrecords.conversion import fitting
from tfrecords.schema import Field, Schema

pytestmark = pytest.mark.slow

# Each side has a field with an effect, and an id that means nothing.
SIZES = (8, 400, 10, 300)
FIRST_ROWS = np.cumsum([0, *SIZES[:-1]])


def impressions(rng, vectors, count):
    """Ids [N] of each field, and true logits [N] of an engagement."""
    ids = np.stack([rng.integers(size, size=count) for size in SIZES], axis=1)
    return ids, -1.5 + np.sum(vectors[0][ids[:, 0]] * vectors[1][ids[:, 2]], axis=1)


def matrices(ids):
    """Ids of the query side's and of the ad side's fields, as [N, V]."""
    count = len(ids)
    return tuple(
        scipy.sparse.csr_matrix(
            (
                np.ones(2 * count),
                (ids + FIRST_ROWS)[:, side].ravel(),
                np.arange(0, 2 * count + 1, 2),
            ),
            (count, sum(SIZES)),
        )
        for side in (slice(0, 2), slice(2, 4))
    )


def test_a_machine_learns_the_fields_that_matter_and_shrinks_the_others():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(8, 2)), rng.normal(size=(10, 2)))
    ids, truth = impressions(rng, vectors, 6_000)
    labels = (rng.random(len(ids)) < scipy.special.expit(truth)).astype(float)
    field_of_row = np.repeat(np.arange(4), SIZES)
    intercept, table = rare_heads.fit_table(matrices(ids), labels, field_of_row, 3, seed=1)
    later, later_truth = impressions(rng, vectors, 2_000)
    logits = logits_of(matrices(later), intercept, table)
    assert np.corrcoef(logits, later_truth)[0, 1] > 0.9
    sizes = [np.square(table[field_of_row == field, 1:]).mean() for field in range(4)]
    assert max(sizes[1], sizes[3]) < 0.1 * min(sizes[0], sizes[2])


def logits_of(sides, intercept, table):
    query, ad = (side @ table for side in sides)
    return intercept + query[:, 0] + ad[:, 0] + np.sum(query[:, 1:] * ad[:, 1:], axis=1)


def test_a_machine_scores_like_the_matrices_that_it_is_fitted_on(data_set):
    machine = layers.FactorizationMachine(data_set.fitted)
    table = np.random.default_rng(0).normal(0, 0.1, machine.table.shape)
    machine.table.assign(table)
    batch = next(iter(data_set.batches("test", 50)))
    query, ad = batch["query"].numpy(), batch["ad"].numpy()[:, 0]
    expected = logits_of(rare_heads.matrices(machine, query, ad), 0.0, table)
    np.testing.assert_allclose(machine(query, ad[:, None])[:, 0], expected, atol=1e-4)


def test_padding_of_lists_does_not_affect_a_fitted_machine(monkeypatch):
    rng = np.random.default_rng(0)
    fields = (
        Field("tags", "categorical_list", "query", max_list_length=200),
        Field("brand", "categorical", "ad"),
    )
    shop = Schema("shop", fields, ("brand",), "clicked")
    three = encoding.FieldStatistics(vocabulary=("a", "b", "c"))
    machine = layers.FactorizationMachine(
        encoding.FittedSchema(shop, {f.name: three for f in fields})
    )
    query = np.zeros((400, encoding.width(shop.query_fields)), np.int32)
    query[:, 0], ad = rng.integers(1, 4, 400), rng.integers(1, 4, (400, 1), np.int32)
    rows = layers.LabeledRows(query, ad, rng.integers(0, 2, 400).astype(np.float32))
    monkeypatch.setattr(layers.LabeledRows, "read", lambda *_, **__: rows)
    assert rare_heads.fit(machine, None, "engagement", seed=1)
    fitted = float(machine.intercept), machine.table.numpy()
    expected = logits_of(rare_heads.matrices(machine, query, ad), *fitted)
    np.testing.assert_allclose(machine(query, ad[:, None])[:, 0], expected, atol=1e-6)
    # Padding, and missing and unknown values, are in no row: of 12 ids, each side has 1 to 3.
    assert np.flatnonzero(fitted[1].any(axis=1)).tolist() == [1, 2, 3, 13, 14, 15]


def test_nothing_is_fitted_to_rows_without_ids(monkeypatch):
    fields = (
        Field("tags", "categorical_list", "query", max_list_length=2),
        Field("image", "dense", "ad", length=4),
    )
    shop = Schema("shop", fields, ("image",), "clicked")
    statistics = {f.name: encoding.FieldStatistics(vocabulary=("a",)) for f in fields}
    machine = layers.FactorizationMachine(encoding.FittedSchema(shop, statistics))
    sides = (np.zeros((200, encoding.width(side)), np.int32) for side in (fields[:1], fields[1:]))
    rows = layers.LabeledRows(*sides, np.arange(200) % 2)
    monkeypatch.setattr(layers.LabeledRows, "read", lambda *_, **__: rows)
    assert not rare_heads.fit(machine, None, "engagement", seed=1)


def test_an_effect_of_the_highest_prices_is_learned_from_few_rows():
    rng = np.random.default_rng(0)
    fields = (Field("country", "categorical", "query"), Field("price", "numeric", "ad"))
    shop = Schema("shop", fields, ("price",), "clicked")
    log_price = rng.normal(3.0, 1.2, 8_000)
    numbers = fitting.fit_numbers(np.exp(log_price).astype(np.float32), 40)
    fitted = encoding.FittedSchema(shop, {"country": encoding.FieldStatistics(), "price": numbers})
    ad = encoding.Encoder(fitted, shop.ad_fields).encode_table(
        pa.table({"price": np.exp(log_price).astype(np.float32)})
    )
    truth = -1.0 - 1.5 * (log_price - 3.0)
    labels = (rng.random(len(ad)) < scipy.special.expit(truth)).astype(float)
    machine = layers.FactorizationMachine(fitted)
    sides = rare_heads.matrices(machine, np.zeros((len(ad), 1), np.int32), ad)
    found = logits_of(sides, *rare_heads.fit_table(sides, labels, machine.field_of_row, 2, seed=1))
    dearest = np.argsort(log_price)[-100:]  # half of the last bucket of 40
    assert np.abs(found[dearest] - truth[dearest]).mean() < 0.7


def test_held_out_rows_choose_the_share_of_other_logits():
    rng = np.random.default_rng(0)
    truth = rng.normal(-1, 1.5, 4_000).astype(np.float32)
    noise = rng.normal(-1, 1.5, 4_000).astype(np.float32)
    clicked = np.ones(4_000, np.float32)
    clicked[3_000:] = 0.0
    engaged = (rng.random(4_000) < scipy.special.expit(truth)) * clicked
    labels = {"click": clicked, "engagement": engaged.astype(np.float32)}
    folds = np.arange(4_000) % 5

    def share(logits, other):
        return rare_heads.best_share("engagement", logits, other, labels, folds)

    assert share(truth, noise) == 0.0
    assert share(noise, truth) >= 0.9


def test_the_share_is_0_with_too_few_positives():
    labels = {"click": np.ones(100, np.float32), "engagement": np.zeros(100, np.float32)}
    labels["engagement"][:3] = 1.0
    logits = np.linspace(-1, 1, 100).astype(np.float32)
    folds = np.arange(100) % 5
    other = 9 * labels["engagement"]
    assert rare_heads.best_share("engagement", logits, other, labels, folds) == 0.0


@pytest.fixture
def model(data_set, ranker_config):
    config = dataclasses.replace(ranker_config, num_blocks=0)
    return ranking.Ranker(data_set.fitted, config, ("click", "engagement", "revenue"))


def test_logits_are_mixed_by_share_and_exported_in_the_same_way(data_set, model):
    batch = next(iter(data_set.batches("test", 8)))
    inputs = {"query": batch["query"], "ad": batch["ad"]}
    network = model.logits(inputs)
    machine = model.machines["engagement"]
    machine.table.assign(np.random.default_rng(0).normal(0, 0.1, machine.table.shape))
    machine.intercept.assign(-0.5)
    machine.share.assign(0.25)
    model.engagement_shares.assign([1.0])
    mixed = model.logits(inputs)
    np.testing.assert_array_equal(mixed["click"], network["click"])
    expected = 0.75 * network["engagement"] + 0.25 * machine(inputs["query"], inputs["ad"])
    np.testing.assert_allclose(mixed["engagement"], expected, atol=1e-5)
    # With share 1, revenue is above 0 where there is an engagement.
    served = layers.head_outputs(mixed)["engagement_probability"]
    np.testing.assert_allclose(tf.sigmoid(mixed["revenue"][..., 0]), served, rtol=1e-4)
    np.testing.assert_array_equal(mixed["revenue"][..., 1:], network["revenue"][..., 1:])
    exported = candidate_scores.score_candidates(model, batch["query"], batch["ad"])
    for head, logits in mixed.items():
        np.testing.assert_allclose(exported[head], logits, atol=2e-4)


def test_shares_of_0_change_nothing(data_set, model):
    batch = next(iter(data_set.batches("test", 8)))
    logits = model.logits({"query": batch["query"], "ad": batch["ad"]})
    model.machines["engagement"].table.assign_add(tf.ones_like(model.machines["engagement"].table))
    after = model.logits({"query": batch["query"], "ad": batch["ad"]})
    for head, values in logits.items():
        np.testing.assert_array_equal(after[head], values)


def test_fitted_machines_and_shares_are_restored(data_set, ranker_config, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: [])  # They are fitted after it.
    monkeypatch.setattr(rare_heads, "best_share", lambda *_: 0.5)
    monkeypatch.setattr(rare_heads, "_MIN_POSITIVES", 1)
    sides = (data_set.schema.query_fields, data_set.schema.ad_fields)
    numbers = [[field for field in fields if field.kind == "numeric"] for fields in sides]
    pairs = list(zip(*numbers, strict=False))[:2]
    monkeypatch.setattr(layers, "find_comparisons", lambda *_: pairs)
    monkeypatch.setattr(layers, "find_pair_rates", lambda *_: [])
    config = dataclasses.replace(ranker_config, num_blocks=0, epochs=1)
    ranking.train_ranker(data_set, config, tmp_path)
    # The fields are not chosen again.
    monkeypatch.setattr(layers, "find_comparisons", lambda *_: pairs[::-1])
    model, _, _ = ranking.load_ranker(data_set, tmp_path)
    assert model.compared == tuple(pairs)
    machine = model.machines["engagement"]
    assert float(machine.share) == 0.5
    assert model.engagement_shares.numpy().tolist() == [0.5]
    labels = layers.LabeledRows.read(data_set, "train", 10**6, "engagement", clicked=True).labels
    # The intercept is near the log odds of an engagement given a click.
    assert float(machine.intercept) == pytest.approx(scipy.special.logit(labels.mean()), abs=1.5)
    assert np.square(machine.table.numpy()).sum() > 0
