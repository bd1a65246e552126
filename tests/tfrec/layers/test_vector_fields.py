"""Dense and text fields on both sides: what is served is what the offline encoder and models give.

Queries have a country, a taste (a vector) and a search text; ads a category, an image (a vector)
and a title. The models are untrained, with weights that differ visibly.
"""

import json
import types
import urllib.request

import catalog_stub
import httpx
import numpy as np
import pyarrow as pa
import pytest
import serving_fixtures
import tensorflow as tf
from loud_models import loud

from serving import errors, export, index, model_server, requests
from serving.live import live_index
from serving.releases import ads_table, bundle
from tfrec import calibration, layers, ranking, retrieval
from tfrec.layers import features
from tfrecords import encoding, reader, vectors
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow

SCHEMA = schema_lib.Schema(
    "shop",
    (
        schema_lib.Field("taste", "dense", "query", length=3),
        schema_lib.Field("country", "categorical", "query"),
        schema_lib.Field("search", "text", "query", length=64),
        schema_lib.Field("image", "dense", "ad", length=5),
        schema_lib.Field("category", "categorical", "ad"),
        schema_lib.Field("title", "text", "ad", length=64),
    ),
    ad_key=("sku",),
    click="clicked",
)
FITTED = encoding.FittedSchema(
    SCHEMA,
    {
        "country": encoding.FieldStatistics(vocabulary=("CH", "DE")),
        "category": encoding.FieldStatistics(vocabulary=("c0", "c1", "c2")),
        **dict.fromkeys(("taste", "search", "image", "title"), encoding.FieldStatistics()),
    },
)
NUM_ADS = 30
# 1 id, and half of 5 and of 64 values.
NUM_AD_COLUMNS = 1 + 3 + 32
_rng = np.random.default_rng(7)
IMAGES = [None if row % 5 == 0 else _rng.normal(size=5).tolist() for row in range(NUM_ADS)]
TITLES = [None if row % 7 == 0 else f"shoe number {row}" for row in range(NUM_ADS)]
ADS = pa.table(
    {
        reader.AD_ID: [f"sku-{row}" for row in range(NUM_ADS)],
        "category": [f"c{row % 4}" for row in range(NUM_ADS)],
        "image": pa.array(IMAGES, pa.list_(pa.float16(), 5)),
        "title": TITLES,
        # The last ad was never shown.
        reader.IMPRESSIONS: [10] * (NUM_ADS - 1) + [0],
        reader.CLICKS: [1 + row % 3 for row in range(NUM_ADS - 1)] + [0],
    }
)
REQUESTS = [
    {"taste": [0.5, -1.0, 0.25], "country": "CH", "search": "red shoes"},
    {"taste": None, "country": "DE", "search": None},
    {"taste": [1e-9, 0.0, 0.0], "country": None, "search": "赤い靴"},
    {
        "taste": [5e4, -1e5, 2.5e4],
        "country": "CH",
        "search": "red shoes",
    },
    {"taste": [0, 0, 0], "country": "CH", "search": ""},
]


DATA_SET = catalog_stub.CatalogDataSet(
    FITTED,
    ADS,
    REQUESTS,
    pa.schema(
        [("taste", pa.list_(pa.float32())), ("country", pa.string()), ("search", pa.string())]
    ),
)
encode, encoded_requests = DATA_SET.encode, DATA_SET.encoded_requests


def raw_requests():
    """The signatures' inputs, laid out without the code under test."""
    return {
        "taste": tf.constant([r["taste"] or [0.0] * 3 for r in REQUESTS], tf.float32),
        "country": tf.constant([r["country"] or "" for r in REQUESTS]),
        "search": tf.constant([r["search"] or "" for r in REQUESTS]),
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
    base = tmp_path_factory.mktemp("vectors")
    flat = index.IndexConfig(kind="Flat")
    calibrators = calibration.Calibrators()
    export.export_release(base, DATA_SET, two_tower, ranker_model, calibrators, flat, {})
    return base


@pytest.fixture(scope="module")
def service(base):
    """URL of a REST service of the release, and its live index."""
    release = bundle.load(base)
    with model_server.ModelServer({"ranker": base / "ranker"}, poll_seconds=None) as server:
        address = f"127.0.0.1:{server.port}"
        made = serving_fixtures.make_orchestrator(release, address)
        with serving_fixtures.serve_app(made) as url:
            serving_fixtures.wait_until_ready(url)
            yield url, made.live


def load(base, name):
    return tf.saved_model.load(str(base / name / "1")).signatures["serving_default"]


def test_a_vector_is_normalized_and_projected_and_a_missing_one_has_its_own_embedding():
    layer = features.VectorEmbedding(length=2, columns=np.array([1]), dim=1)
    # Two embeddings of one number hold the two values.
    assert layer.num_embeddings == 2
    columns = vectors.encode(tf.constant([[3.0, 4.0], [0.0, 0.0]])).numpy()
    rows = tf.constant(np.concatenate([[[7], [7]], columns], axis=1), tf.int32)
    layer(rows)
    # The projection is ten times the kernel.
    layer.kernel.assign([[0.1, 1.0], [0.2, 2.0]])
    layer.missing.assign([5.0, 6.0])
    # (3, 4) of length one is (0.6, 0.8): 0.6 + 2 * 0.8 = 2.2, and ten times that.
    np.testing.assert_allclose(layer(rows), [[[2.2], [22.0]], [[5.0], [6.0]]], rtol=1e-3)
    # The same with more dimensions.
    np.testing.assert_allclose(layer(rows[None]), layer(rows)[None], rtol=1e-6)


def test_a_long_vector_has_four_embeddings_and_a_side_may_have_vectors_alone():
    fields = [schema_lib.Field("image", "dense", "ad", length=99)]
    fitted = types.SimpleNamespace(cardinality=lambda field: 2)
    embeddings = layers.FieldEmbeddings(fitted, fields, 8)
    assert embeddings(tf.zeros([2, 50], tf.int32)).shape == (2, 4, 8)
    assert embeddings.sparse_variables == []


def test_an_ad_that_was_never_shown_is_not_a_negative(two_tower):
    batch = {"ad_row": tf.constant([0, 1]), "request": tf.constant([1, 2])}
    negatives = two_tower._are_negatives(batch, tf.range(NUM_ADS)).numpy()
    assert not negatives[:, -1].any()
    assert negatives[:, 2:-1].all()


def test_the_exported_query_tower_equals_the_offline_encoder_and_the_tower(base, two_tower):
    expected = retrieval.embed_in_batches(two_tower.query_tower, encoded_requests())
    served = load(base, "query_tower")(**raw_requests())["query_embedding"].numpy()
    np.testing.assert_allclose(served, expected, atol=1e-5)
    # The taste of request 3 is that of request 0, times 1e5: the scale of a vector does not count.
    np.testing.assert_allclose(served[0], served[3], atol=1e-6)
    assert np.abs(served[0] - served[4]).max() > 0.01


def test_the_exported_ad_tower_gives_the_features_of_the_catalog(base, two_tower):
    columns = {
        "category": tf.constant(ADS["category"].to_pylist()),
        "image": tf.constant([image or [0.0] * 5 for image in IMAGES], tf.float32),
        "title": tf.constant([title or "" for title in TITLES]),
    }
    served = load(base, "ad_tower")(**columns)
    # The catalog has the image in float16, the request in float32: both are the same float16.
    features = encode("ad", ADS)
    assert features.shape == (NUM_ADS, NUM_AD_COLUMNS)
    np.testing.assert_array_equal(served["ad_features"][:, :1], features[:, :1])
    np.testing.assert_array_equal(served["ad_features"][:, 4:], features[:, 4:])
    np.testing.assert_allclose(
        vectors.decode(served["ad_features"][:, 1:4], 5), vectors.decode(features[:, 1:4], 5),
        atol=2e-3,
    )  # fmt: skip
    expected = retrieval.embed_in_batches(two_tower.ad_tower, features)
    np.testing.assert_allclose(served["ad_embedding"], expected, atol=2e-2)


def test_the_exported_ranker_equals_the_offline_encoder_and_the_model(base, ranker_model):
    ads = np.stack([encode("ad", ADS)] * len(REQUESTS))
    logits = ranker_model.score(encoded_requests(), ads)
    expected = calibration.Calibrators().apply(logits)
    served = load(base, "ranker")(ad_features=tf.constant(ads), **raw_requests())
    assert served.keys() == expected.keys()
    for name, values in served.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)
    # One candidate alone, and a title and an image count.
    alone = load(base, "ranker")(ad_features=tf.constant(ads[:, 3:4]), **raw_requests())
    name = "click_probability"
    np.testing.assert_allclose(alone[name], served[name][:, 3:4], rtol=1e-4)
    for columns in (slice(1, 4), slice(4, None)):
        changed = ads.copy()
        changed[:, :, columns] = 0
        other = load(base, "ranker")(ad_features=tf.constant(changed), **raw_requests())
        assert np.abs(other[name] - served[name]).max() > 1e-3


def test_a_custom_model_can_read_vectors_by_bitcast():
    features = tf.constant(encode("ad", ADS)[None])
    image = tf.bitcast(features[..., 1:4], tf.float16)
    image = tf.reshape(image, [1, NUM_ADS, 6])[..., :5]
    expected = [np.divide(i or [0] * 5, np.abs(i or [1]).max()) for i in IMAGES]
    np.testing.assert_allclose(image[0], expected, atol=2e-3)


def test_the_manifest_says_vectors_and_their_length(base):
    release = bundle.verify(base, 1)
    assert release.query_fields == [
        {"name": "country", "kind": "categorical"},
        {"name": "taste", "kind": "dense", "length": 3},
        {"name": "search", "kind": "text", "length": 64},
    ]
    inputs = release.signatures["ranker"]["inputs"]
    assert inputs["taste"] == {"dtype": "float32", "shape": [-1, 3]}
    assert inputs["search"] == {"dtype": "string", "shape": [-1]}
    assert inputs["ad_features"] == {"dtype": "int32", "shape": [-1, -1, NUM_AD_COLUMNS]}


def test_a_service_ranks_requests_with_vectors_and_texts(service, ranker_model):
    url, _ = service
    ads = np.stack([encode("ad", ADS)] * len(REQUESTS))
    click = tf.sigmoid(ranker_model.score(encoded_requests(), ads)["click"]).numpy()
    for position, fields in enumerate(REQUESTS):
        reply = httpx.post(f"{url}/v1/recommend", json={"user": fields, "k": 10}, timeout=30)
        answer = reply.json()
        assert answer["degraded"] is None
        rows = [int(ad["ad_id"].removeprefix("sku-")) for ad in answer["ads"]]
        found = [ad["click_probability"] for ad in answer["ads"]]
        np.testing.assert_allclose(found, click[position, rows], atol=1e-5)
        # Titles are shown, vectors are not.
        assert [ad["fields"]["title"] for ad in answer["ads"]] == [TITLES[row] for row in rows]
        assert all(set(ad["fields"]) == {"category", "title"} for ad in answer["ads"])


@pytest.mark.parametrize(
    ("taste", "message"),
    [
        ([1.0, 2.0], "user.taste: expected a list of 3 finite numbers or null, got 2 values"),
        ("1|2|3", "user.taste: expected a list of 3 finite numbers or null, got '1|2|3'"),
        ([1, "2", 3], "user.taste[1]: expected a list of 3 finite numbers or null, got '2'"),
        ([1, 2, None], "user.taste[2]: expected a list of 3 finite numbers or null, got None"),
    ],
)
def test_a_request_with_another_vector_is_refused(service, taste, message):
    reply = httpx.post(f"{service[0]}/v1/recommend", json={"user": {"taste": taste}}, timeout=30)
    assert reply.status_code == 422
    assert message in reply.text


def test_a_vector_cannot_be_in_a_filter_and_a_title_can(service):
    url, _ = service

    def ask(**condition):
        body = {"filters": {"conditions": [condition]}, "k": 3}
        return httpx.post(f"{url}/v1/recommend", json=body, timeout=30)

    refused = ask(field="image", any_of=["x"])
    assert refused.status_code == 422
    assert "expected the name of an ad field, got 'image'" in refused.text
    answer = ask(field="title", any_of=["shoe number 3"]).json()
    assert [ad["ad_id"] for ad in answer["ads"]] == ["sku-3"]


def test_a_live_ad_with_the_content_of_another_is_found_and_scored_like_it(service):
    url, live = service
    twin = {"category": "c3", "image": IMAGES[3], "title": TITLES[3]}
    live.update([{"ad_id": "twin", "fields": twin}, {"ad_id": "bare", "fields": {"title": "x"}}])
    try:
        body = {"user": REQUESTS[0], "k": NUM_ADS + 2}
        ads = httpx.post(f"{url}/v1/recommend", json=body, timeout=30).json()["ads"]
        scores = {ad["ad_id"]: ad["click_probability"] for ad in ads}
        assert len(scores) == NUM_ADS + 2
        assert scores["twin"] == pytest.approx(scores["sku-3"], rel=1e-2)
        # The journal is read again by other processes.
        other = live_index.LiveIndex(bundle.load(live._release.base))
        assert other.view().num_ads == NUM_ADS + 2
        assert other.view()._added.segments[0].ads["title"].to_pylist() == [TITLES[3], "x"]
    finally:
        live.update([], ["twin", "bare"])


def test_a_live_ad_with_another_vector_is_refused(service):
    message = r"ads\[0\]\.fields\.image: expected a list of 5 finite numbers or null, got 1 value"
    with pytest.raises(errors.InvalidRequestError, match=message):
        service[1].update([{"ad_id": "new", "fields": {"image": [1.0]}}])


def test_the_embedded_server_takes_vectors_as_json_too(base, ranker_model):
    ads = encode("ad", ADS)[None, :3]
    inputs = {
        "taste": [REQUESTS[0]["taste"]],
        "country": ["CH"],
        "search": ["red shoes"],
        "ad_features": ads.tolist(),
    }
    servers = {"ranker": base / "ranker"}
    with model_server.ModelServer(servers, rest_port=0, poll_seconds=None) as server:
        url = f"http://127.0.0.1:{server.rest_port}/v1/models/ranker:predict"
        body = json.dumps({"inputs": inputs}).encode()
        with urllib.request.urlopen(url, body, timeout=30) as reply:
            outputs = json.load(reply)["outputs"]
    # One output needs no name.
    found = outputs["click_probability"] if isinstance(outputs, dict) else outputs
    expected = tf.sigmoid(ranker_model.score(encoded_requests()[:1], ads)["click"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_ads_of_a_table_are_checked():
    def checked(image):
        table = pa.table({"sku": ["a"], "category": ["c"], "title": ["t"], "image": image})
        return ads_table.checked_ads(table, SCHEMA)

    for image in (["1|2|3|4|5"], ["[1, 2, 3, 4, 5]"], [[1, 2, 3, 4, 5]], [np.arange(1.0, 6.0)]):
        assert checked(image)["image"].to_pylist() == [[1, 2, 3, 4, 5]]
    assert checked([None])["image"].to_pylist() == [None]
    with pytest.raises(errors.InvalidRequestError, match=r"image: .* the expected size"):
        checked([[1.0, 2.0]])
    with pytest.raises(errors.InvalidRequestError, match=r"image: .*expected finite numbers"):
        checked([[1.0, 2.0, 3.0, 4.0, float("inf")]])


def test_a_request_in_process_may_have_a_numpy_vector():
    fields = requests.QueryFields([{"name": "taste", "kind": "dense", "length": 2}], ())
    row = fields.merge({"taste": np.array([1, 2])}, {})
    columns = fields.columns([row, {}])
    np.testing.assert_array_equal(columns["taste"], [[1, 2], [0, 0]])
    assert columns["taste"].dtype == np.float32
