"""Lists on both sides: what is served is what the offline encoder and the models give.

Queries have a country, an age and a history; ads a category, tags and a price. The models are
untrained, with weights that differ visibly.
"""

import asyncio
import dataclasses
import json
import urllib.request

import catalog_stub
import numpy as np
import pyarrow as pa
import pytest
import serving_fixtures
import tensorflow as tf
from loud_models import loud

from serving import errors, export, index, model_server, releases
from serving.releases import bundle, probes
from serving.requests import Request
from tfrec import calibration, ranking, retrieval
from tfrecords import encoding, reader
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow

SCHEMA = schema_lib.Schema(
    "films",
    (
        schema_lib.Field("history", "categorical_list", "query", max_list_length=3),
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("age", "numeric", "query"),
        schema_lib.Field("category", "categorical", "ad"),
        schema_lib.Field("tags", "categorical_list", "ad", max_list_length=2),
        schema_lib.Field("price", "numeric", "ad"),
    ),
    ad_key=("film",),
    click="clicked",
    engagement="bought",
    revenue="paid",
)
STATISTICS = {
    "history": encoding.FieldStatistics(vocabulary=tuple(f"film-{i}" for i in range(9))),
    "country": encoding.FieldStatistics(vocabulary=("CH", "DE")),
    "age": encoding.FieldStatistics(boundaries=(20.0, 40.0)),
    "category": encoding.FieldStatistics(vocabulary=("c0", "c1", "c2")),
    "tags": encoding.FieldStatistics(vocabulary=("new", "long", "old")),
    "price": encoding.FieldStatistics(boundaries=(5.0,)),
}
FITTED = encoding.FittedSchema(SCHEMA, STATISTICS)
NUM_ADS = 40
ADS = pa.table(
    {
        reader.AD_ID: [f"film-{row}" for row in range(NUM_ADS)],
        "category": [f"c{row % 4}" for row in range(NUM_ADS)],
        "tags": pa.array(
            [[None, [], ["new"], ["old", "long", "new"]][row % 4] for row in range(NUM_ADS)],
            pa.list_(pa.string()),
        ),
        "price": [float(row % 11) for row in range(NUM_ADS)],
        reader.IMPRESSIONS: [10] * NUM_ADS,
        reader.CLICKS: [1 + row % 3 for row in range(NUM_ADS)],
    }
)
REQUESTS = [
    {"history": ["film-1", "film-2"], "country": "CH", "age": 30.0},
    {"history": [], "country": "DE", "age": None},
    {"history": None, "country": None, "age": 50.0},
    # Longer than max_list_length, with values out of vocabulary.
    {"history": ["film-4", "x", "film-5", "y", "film-6"], "country": "FR", "age": 10.0},
    {"history": ["film-8"], "country": "CH", "age": 30.0},
]


DATA_SET = catalog_stub.CatalogDataSet(
    FITTED,
    ADS,
    REQUESTS,
    pa.schema(
        [("history", pa.list_(pa.string())), ("country", pa.string()), ("age", pa.float32())]
    ),
)
encode, encoded_requests = DATA_SET.encode, DATA_SET.encoded_requests


def raw_requests():
    """The signatures' inputs, laid out without the code under test."""
    return {
        "history": tf.constant([[*(r["history"] or []), *[""] * 5][:5] for r in REQUESTS]),
        "country": tf.constant([r["country"] or "" for r in REQUESTS]),
        "age": tf.constant([np.nan if r["age"] is None else r["age"] for r in REQUESTS]),
    }


@pytest.fixture(scope="module")
def two_tower(retrieval_config):
    data_set = DATA_SET
    return loud(retrieval.build_two_tower(data_set, retrieval_config, data_set.catalog()))


@pytest.fixture(scope="module")
def ranker_model(ranker_config):
    return loud(ranking.build_ranker(DATA_SET, ranker_config))


@pytest.fixture(scope="module")
def base(two_tower, ranker_model, tmp_path_factory):
    base = tmp_path_factory.mktemp("lists")
    flat = index.IndexConfig(kind="Flat")
    calibrators = calibration.Calibrators()
    export.export_release(base, DATA_SET, two_tower, ranker_model, calibrators, flat, {})
    return base


def load(base, name):
    return tf.saved_model.load(str(base / name / "1")).signatures["serving_default"]


def test_the_exported_query_tower_equals_the_offline_encoder_and_the_tower(base, two_tower):
    expected = retrieval.embed_in_batches(two_tower.query_tower, encoded_requests())
    served = load(base, "query_tower")(**raw_requests())["query_embedding"].numpy()
    np.testing.assert_allclose(served, expected, atol=1e-5)
    # The last request differs from the first in its list alone.
    assert np.abs(served[0] - served[4]).max() > 0.01


def test_the_exported_ranker_equals_the_offline_encoder_and_the_model(base, ranker_model):
    ads = np.stack([encode("ad", ADS)] * len(REQUESTS))
    assert ads.shape == (5, NUM_ADS, 4)
    logits = ranker_model.score(encoded_requests(), ads)
    expected = calibration.Calibrators().apply(logits)
    served = load(base, "ranker")(ad_features=tf.constant(ads), **raw_requests())
    assert served.keys() == expected.keys()
    for name, values in served.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_the_order_of_a_history_counts_but_neither_padding_nor_neighbors_do(base):
    serve = load(base, "query_tower")

    def embed(*lists):
        count = len(lists)
        columns = {"country": tf.constant(["CH"] * count), "age": tf.constant([30.0] * count)}
        return serve(history=tf.constant(lists), **columns)["query_embedding"].numpy()

    lists = (["film-1", "film-2", "", ""], ["", "film-1", "", "film-2"], ["film-5"] + [""] * 3)
    first, second, other = embed(*lists)
    np.testing.assert_allclose([first, second], embed(*[["film-1", "film-2"]] * 2), atol=1e-6)
    assert np.abs(first - other).max() > 1e-3
    # The history's values are ads of the catalog: the latest of them counts for more.
    assert np.abs(first - embed(["film-2", "film-1"])).max() > 1e-3
    # The last three values count.
    longer = embed(["film-5", "film-1", "film-2", "film-1"])
    np.testing.assert_allclose(longer, embed(["film-1", "film-2", "film-1"]), atol=1e-6)
    np.testing.assert_allclose(embed([""]), embed(["", "", ""]), atol=1e-6)


def test_loss_and_penalty_of_both_models_learn_from_lists(two_tower, ranker_model):
    query, ads = tf.constant(encoded_requests()), tf.constant(encode("ad", ADS)[:5])
    batch = {"query": query, "ad": ads, "ad_row": tf.range(5)}
    with tf.GradientTape(persistent=True) as tape:
        retrieval_loss = two_tower.compute_loss(batch, training=True)
        click = ranker_model({"query": query, "ad": ads[:, None]}, training=True)["click"]
        ranker_loss = tf.add_n([tf.reduce_sum(click), *ranker_model.losses])
    for model, loss in ((two_tower, retrieval_loss), (ranker_model, ranker_loss)):
        for gradient in tape.gradient(loss, model.sparse_variables):
            assert isinstance(gradient, tf.IndexedSlices)
            assert np.abs(tf.convert_to_tensor(gradient).numpy()).max() > 0


def test_the_manifest_says_lists(base):
    release = bundle.verify(base, 1)
    assert release.query_fields[0] == {"name": "history", "kind": "categorical_list"}
    assert [field["name"] for field in release.ad_fields] == ["category", "tags", "price"]
    inputs = release.signatures["ranker"]["inputs"]
    assert inputs["history"] == {"dtype": "string", "shape": [-1, -1]}
    # Category, two tags, price.
    assert inputs["ad_features"] == {"dtype": "int32", "shape": [-1, -1, 4]}
    assert release.probes["requests"] == REQUESTS


def test_a_query_tower_that_takes_no_list_where_one_is_declared_is_refused(base):
    fields = bundle.verify(base, 1).query_fields
    single = [{**fields[0], "kind": "categorical"}, *fields[1:]]
    message = r"input 'history': expected string \(None,\), got string \(None, None\)\."
    with pytest.raises(errors.BundleError, match=message):
        releases.QueryTower(base / "query_tower" / "1", single)


def test_an_index_with_ad_features_of_another_width_is_refused(base):
    release = bundle.load(base)
    narrow = {"ranker": {"inputs": {"ad_features": {"shape": [None, None, 3]}}}}
    other = dataclasses.replace(release.manifest, signatures=narrow)
    message = "ad_index/1 does not reproduce .*: the width of ad_features is 4; expected 3"
    with pytest.raises(errors.BundleError, match=message):
        probes.check_retrieval(other, release.query_tower, release.ad_index)


def test_all_stages_take_lists_and_answers_contain_lists(base, ranker_model):
    release = bundle.load(base)

    async def recommend(address):
        service = serving_fixtures.make_orchestrator(release, address)
        try:
            await service.verify_ranker()
            requests = [Request(user=fields, k=NUM_ADS) for fields in REQUESTS]
            alone = [await service.recommend(request) for request in requests]
            return await serving_fixtures.together(service, requests), alone
        finally:
            await service.close()

    with model_server.ModelServer({"ranker": base / "ranker"}, poll_seconds=None) as server:
        together, alone = asyncio.run(recommend(f"127.0.0.1:{server.port}"))
    ads = np.stack([encode("ad", ADS)] * len(REQUESTS))
    click = tf.sigmoid(ranker_model.score(encoded_requests(), ads)["click"]).numpy()
    for answers in (together, alone):
        for position, answer in enumerate(answers):
            assert answer.degraded is None
            rows = [int(ad.ad_id.removeprefix("film-")) for ad in answer.ads]
            found = [ad.click_probability for ad in answer.ads]
            np.testing.assert_allclose(found, click[position, rows], atol=1e-5)
    tags = {ad["ad_id"]: ad["fields"]["tags"] for ad in json_of(together[0])["ads"]}
    assert [tags[f"film-{row}"] for row in range(4)] == [None, [], ["new"], ["old", "long", "new"]]


def json_of(answer):
    return json.loads(json.dumps(answer.to_json()))


def test_the_embedded_server_takes_lists_as_json_too(base, ranker_model):
    ads = encode("ad", ADS)[None, :3]
    inputs = {
        "history": [["film-1", "film-2"]],
        "country": ["CH"],
        "age": [30.0],
        "ad_features": ads.tolist(),
    }
    servers = {"ranker": base / "ranker"}
    with model_server.ModelServer(servers, rest_port=0, poll_seconds=None) as server:
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/ranker:predict"
        body = json.dumps({"inputs": inputs}).encode()
        with urllib.request.urlopen(url, body, timeout=30) as reply:
            outputs = json.load(reply)["outputs"]
    expected = tf.sigmoid(ranker_model.score(encoded_requests()[:1], ads)["click"])
    np.testing.assert_allclose(outputs["click_probability"], expected, atol=1e-5)
