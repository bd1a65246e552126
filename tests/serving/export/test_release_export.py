"""A tiny trained world is exported, and served as it was trained."""

import asyncio
import dataclasses
import pathlib
import shutil
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import export, index, model_server, orchestrator, ranker
from serving.export import release_export
from serving.live import live_index
from serving.releases import bundle
from serving.requests import Answer, Request
from tfrec import ranking, retrieval
from tfrecords import encoding

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def released(data_set, trained, exported_base):
    """The base directory of an exported bundle, and the models behind it."""
    two_tower, _ = retrieval.load_two_tower(data_set, trained / "retrieval")
    model, calibrators, _ = ranking.load_ranker(data_set, trained / "ranker")
    return exported_base, two_tower, model, calibrators


@pytest.fixture(scope="module")
def columns(data_set):
    """Raw query fields of held-out requests, as the signatures take them."""
    requests = data_set.sample_requests()[:40]
    raw = {}
    for field in data_set.schema.query_fields:
        values = [request[field.name] for request in requests]
        if field.kind == "numeric":
            raw[field.name] = tf.constant([np.nan if v is None else v for v in values], tf.float32)
        else:
            raw[field.name] = tf.constant(["" if v is None else v for v in values])
    return raw


def load(base, name):
    return tf.saved_model.load(str(base / name / "1")).signatures["serving_default"]


def first(columns, count):
    return {name: values[:count] for name, values in columns.items()}


def test_the_exported_query_tower_returns_the_trained_embeddings(released, columns, data_set):
    base, two_tower, _, _ = released
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)
    expected = retrieval.embed_in_batches(two_tower.served_query_tower, encoder(columns).numpy())
    served = load(base, "query_tower")(**columns)["query_embedding"].numpy()
    np.testing.assert_allclose(served, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1.0, atol=1e-5)


def test_the_exported_query_tower_uses_the_weights_of_each_request(released, columns, data_set):
    base, two_tower, _, _ = released
    release = bundle.load(base)
    heads = two_tower.weighted_query_tower.heads
    assert release.manifest.present_heads == heads
    ids = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)(columns).numpy()
    weights = np.zeros((len(ids), len(heads)), np.float32)
    weights[np.arange(len(ids)), np.arange(len(ids)) % len(heads)] = 2.0
    rows = release.query_tower.columns(data_set.sample_requests()[:40])
    served = release.query_tower.embed(rows, weights)
    for i, head in enumerate(heads):
        every = slice(i, None, len(heads))
        expected = two_tower.embed_queries(ids[every], {head: 1.0})
        np.testing.assert_allclose(served[every], expected, atol=1e-5)
    assert np.abs(served - release.query_tower.embed(rows)).max() > 0.01


def test_ads_are_retrieved_with_the_weights_of_the_request(released, columns, data_set):
    base, two_tower, _, _ = released
    fields = data_set.sample_requests()[0]
    encoder = encoding.Encoder(data_set.fitted, data_set.schema.query_fields)
    ids = encoder(first(columns, 1)).numpy()
    ads = retrieval.embed_in_batches(two_tower.ad_tower, np.asarray(data_set.catalog().features))
    rows = {ad: row for row, ad in enumerate(data_set.catalog().ad_ids.to_pylist())}
    off = dict.fromkeys(("click", "engagement", "revenue"), 0.0)
    with model_server.ModelServer({"ranker": base / "ranker"}, poll_seconds=None) as server:
        for head in off:
            weights = {**off, head: 3.0}
            address = f"127.0.0.1:{server.port}"
            answer = asyncio.run(_recommend(bundle.load(base), address, fields, weights=weights))
            (query,) = two_tower.embed_queries(ids, weights)
            for ad in answer.ads:
                assert ad.retrieval_score == pytest.approx(query @ ads[rows[ad.ad_id]], abs=1e-4)


def test_the_exported_ranker_returns_the_calibrated_scores_of_test_rows(
    released, columns, data_set
):
    base, _, model, calibrators = released
    batch = next(iter(data_set.batches("test", 1_000)))
    lists = int(columns["C1"].shape[0])
    served = load(base, "ranker")(ad_features=batch["ad"][:lists], **columns)
    expected = calibrators.apply(model.score(batch["query"][:lists], batch["ad"][:lists]))
    for name, values in served.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_the_exported_ad_tower_reproduces_the_catalog_from_raw_fields(released, data_set):
    base, two_tower, _, _ = released
    catalog = data_set.catalog()
    features = np.asarray(catalog.features)
    raw = {}
    for field in data_set.schema.ad_fields:
        values = catalog.fields[field.name].to_pylist()
        if field.kind == "numeric":
            raw[field.name] = tf.constant([np.nan if v is None else v for v in values], tf.float32)
        else:
            raw[field.name] = tf.constant(["" if v is None else v for v in values])
    served = load(base, "ad_tower")(**raw)
    np.testing.assert_array_equal(served["ad_features"], features)
    expected = retrieval.embed_in_batches(two_tower.ad_tower, features)
    np.testing.assert_allclose(served["ad_embedding"], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(served["ad_embedding"], axis=1), 1.0, atol=1e-5)


def test_added_ads_are_found_like_the_ads_of_the_release(released, data_set, tmp_path):
    base, _, _, _ = released
    loaded = bundle.load(base)
    shutil.copytree(base / "ad_tower", tmp_path / "ad_tower")
    live = live_index.LiveIndex(dataclasses.replace(loaded, base=tmp_path))
    ads = loaded.ad_index.listed(np.arange(5))
    live.update([{"ad_id": f"new-{row}", "fields": ad.fields} for row, ad in enumerate(ads)])
    queries = loaded.ad_index.sample_queries
    assert queries.shape[1] == loaded.ad_index.dimension
    num_ads = loaded.ad_index.num_ads
    scores, rows = live.view().search(queries[:8], num_ads + 5)
    for b in range(8):
        score_of = dict(zip(rows[b].tolist(), scores[b].tolist(), strict=True))
        for row in range(5):
            assert score_of[num_ads + row] == pytest.approx(score_of[row], abs=1e-5)
    np.testing.assert_array_equal(
        live.view().features(np.array([[num_ads + 3]])), loaded.ad_index.features(np.array([[3]]))
    )
    assert live.measure_recall() == 1.0


@pytest.mark.parametrize("others", [0, 9, 299])
def test_a_served_score_does_not_depend_on_other_candidates(released, columns, data_set, others):
    base, _, _, _ = released
    features = np.asarray(data_set.catalog().features)
    serve, query = load(base, "ranker"), first(columns, 1)
    alone = serve(ad_features=tf.constant(features[None, :1]), **query)
    rows = np.random.default_rng(0).permutation(np.arange(1, len(features)))[:others]
    among = np.concatenate([features[rows], features[:1], np.zeros_like(features[:3])])
    scores = serve(ad_features=tf.constant(among[None]), **query)
    for name, values in scores.items():
        assert abs(float(values[0, len(rows)]) - float(alone[name][0, 0])) < 1e-5, name


def test_a_batch_is_scored_like_its_single_requests(released, columns, data_set):
    base, _, _, _ = released
    features = np.asarray(data_set.catalog().features)[:20]
    serve = load(base, "ranker")
    batch = serve(ad_features=tf.constant(np.stack([features] * 5)), **first(columns, 5))
    for i in range(5):
        one = {name: values[i : i + 1] for name, values in columns.items()}
        single = serve(ad_features=tf.constant(features[None]), **one)
        for name, values in single.items():
            np.testing.assert_allclose(batch[name][i], values[0], atol=1e-5)


def test_an_engagement_is_never_likelier_than_the_click_it_follows(released, columns, data_set):
    base, _, _, _ = released
    features = np.asarray(data_set.catalog().features)[None]
    scores = load(base, "ranker")(ad_features=tf.constant(features), **first(columns, 1))
    assert np.all(scores["engagement_probability"] <= scores["click_probability"])
    assert np.all(scores["expected_revenue"] >= 0)


def test_a_release_of_clicks_alone_has_one_head_and_names_the_absent_ones(
    data_set, trained, learned_from_clicks, tmp_path
):
    two_tower, _ = retrieval.load_two_tower(data_set, learned_from_clicks)
    model, calibrators, _ = ranking.load_ranker(data_set, trained / "ranker")
    model.heads = ("click",)
    model.head_layers = {"click": model.head_layers["click"]}
    model.machines, model.amount_slopes, model.amount_heads = {}, {}, {}
    flat = index.IndexConfig(kind="Flat")
    release = export.export_release(tmp_path, data_set, two_tower, model, calibrators, flat, {})
    assert (release.present_heads, release.absent_heads) == (("click",), ("engagement", "revenue"))
    assert [head.output for head in release.heads] == [
        "click_probability",
        "engagement_probability",
        "expected_revenue",
    ]
    assert set(load(tmp_path, "ranker").structured_outputs) == {"click_probability"}


def test_a_request_is_answered_and_grpc_returns_the_scores_of_the_saved_model(
    released, data_set, columns
):
    base, _, _, _ = released
    release = bundle.load(base)
    with model_server.ModelServer({"ranker": base / "ranker"}, poll_seconds=None) as server:
        address = f"127.0.0.1:{server.port}"
        answer = asyncio.run(_recommend(release, address, data_set.sample_requests()[0]))
        assert answer.degraded is None
        assert answer.bundle_version == 1
        utilities = [ad.utility for ad in answer.ads]
        assert len(utilities) == 10
        assert utilities == sorted(utilities, reverse=True)
        features = np.asarray(data_set.catalog().features)[None, :50]
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "ranker"
        request.inputs["ad_features"].CopyFrom(tf.make_tensor_proto(features))
        for name, values in first(columns, 1).items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            reply = stub.Predict(request, timeout=10)
    direct = load(base, "ranker")(ad_features=tf.constant(features), **first(columns, 1))
    for name, values in direct.items():
        np.testing.assert_allclose(tf.make_ndarray(reply.outputs[name]), values, atol=1e-6)


async def _recommend(release: bundle.Bundle, address: str, fields: dict, **options: Any) -> Answer:
    client = ranker.RankerClient(
        address, version=release.version, outputs=release.manifest.outputs.values()
    )
    service = orchestrator.Orchestrator(release, client)
    try:
        await service.verify_ranker()
        return await service.recommend(Request(context=fields, deadline_ms=60_000, **options))
    finally:
        await service.close()


def test_the_query_tower_of_another_training_is_refused(released, data_set, tmp_path):
    base, two_tower, model, calibrators = released
    changed = model.trainable_variables[0]
    before = changed.numpy()
    changed.assign_add(tf.ones_like(changed))
    flat = index.IndexConfig(kind="Flat")
    export.export_release(tmp_path, data_set, two_tower, model, calibrators, flat, {})
    changed.assign(before)
    for path in pathlib.Path(base / "query_tower" / "1").rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(base)
            target.write_bytes(path.read_bytes())
    with pytest.raises(
        bundle.errors.BundleError, match=r"query_tower/1/.*, but the manifest expects"
    ):
        bundle.load(tmp_path)


def test_models_with_adapted_lookups_have_a_training_id(data_set):
    lookup = tf.keras.layers.StringLookup()
    lookup.adapt(["red", "blue"])
    words = tf.keras.Input((), dtype=tf.string)
    model = tf.keras.Model(words, tf.keras.layers.Embedding(4, 2)(lookup(words)))
    first = release_export.training_id_of(data_set, model, None)
    model.weights[-1].assign_add(tf.ones([4, 2]))
    assert release_export.training_id_of(data_set, model, None) != first
