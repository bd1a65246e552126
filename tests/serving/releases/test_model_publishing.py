"""Models of any framework, published with a table of ads: what is served, and what is refused."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import serving_fixtures
import tensorflow as tf

from serving import client, errors, manifest, operations, releases
from serving.index import AD_ID, IndexConfig
from serving.live import LiveIndex
from serving.releases import ads_table
from serving.requests import Request
from tfrecords.schema import Field, Schema

pytestmark = pytest.mark.slow

SCHEMA = Schema(
    "tiny",
    (
        *(Field(field["name"], field["kind"], "query") for field in serving_fixtures.QUERY_FIELDS),
        *(Field(name, kind, "ad") for name, kind in serving_fixtures.AD_KINDS.items()),
    ),
    ad_key=("sku",),
    click=None,
)
REQUESTS = serving_fixtures.PROBE_REQUESTS
ADS = serving_fixtures.ads_table().rename_columns({AD_ID: "sku"})
NUM_ADS = serving_fixtures.NUM_ADS


def save(module, directory):
    tf.saved_model.save(module, str(directory), signatures={"serving_default": module.serve})
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The SavedModels of both towers and of a ranker of clicks and revenue."""
    base = tmp_path_factory.mktemp("models")
    ranker = serving_fixtures.RankerModule(0, ("click", "revenue"))
    return {
        "query_tower": save(serving_fixtures.QueryTowerModule(0), base / "query_tower"),
        "ad_tower": save(serving_fixtures.AdTowerModule(), base / "ad_tower"),
        "ranker": save(ranker, base / "ranker"),
    }


def published(base, models, **changes):
    inputs = {"ads": ADS, "schema": SCHEMA, "sample_requests": REQUESTS, **models, **changes}
    return releases.publish_models(base, **inputs)


@pytest.fixture(scope="module")
def base(models, tmp_path_factory):
    base = tmp_path_factory.mktemp("foreign")
    published(base, models, metrics={"auc": 0.75})
    return base


@pytest.fixture
def refused(models, tmp_path):
    """Publishes with changes, and returns the message of the error; nothing is published."""

    def publish(error, **changes):
        with pytest.raises(error) as caught:
            published(tmp_path / "refused", models, **changes)
        assert manifest.versions(tmp_path / "refused") == []
        assert not list((tmp_path / "refused").glob("*/[0-9.]*"))
        return str(caught.value)

    return publish


class Function(tf.Module):
    """A model with a signature from specs to what a function returns."""

    def __init__(self, specs, serve):
        super().__init__()
        self.serve = tf.function(
            lambda **inputs: serve(inputs), autograph=False
        ).get_concrete_function(
            **{name: tf.TensorSpec(*spec, name=name) for name, spec in specs.items()}
        )


QUERY_SPECS = {
    "country": ([None], tf.string),
    "device": ([None], tf.string),
    "age": ([None], tf.float32),
    "history": ([None, None], tf.string),
}
AD_SPECS = {
    "advertiser": ([None], tf.string),
    "category": ([None], tf.string),
    "price": ([None], tf.float32),
    "tags": ([None, None], tf.string),
}
RANKER_SPECS = {**QUERY_SPECS, "ad_features": ([None, None, 5], tf.int32)}


def ones(inputs):
    return tf.ones_like(inputs["ad_features"][:, :, 0], tf.float32)


def first_ids(inputs):
    return tf.cast(inputs["ad_features"][:, :, 0], tf.float32)


def test_a_release_of_foreign_models_loads_and_reproduces_its_probes(base):
    lines = list(operations.check_release(base, 1))
    assert "the ad tower reproduces its probes" in lines
    release = releases.load(base)
    described = release.manifest
    assert described.outputs == {"click": "click_probability", "revenue": "expected_revenue"}
    assert {head.label: head.kind for head in described.heads} == {
        "click": "probability",
        "revenue": "amount",
    }
    assert described.dataset_fingerprint == ""
    assert described.metrics == {"auc": 0.75}
    np.testing.assert_array_equal(
        release.ad_index.features(np.arange(NUM_ADS)), serving_fixtures.ad_features()
    )
    assert release.ad_index.ad_ids(np.array([3])) == ["ad-3"]
    assert release.ad_index.listed(np.array([2]))[0].fields["tags"] == ["new", "t2"]


def test_without_a_ranker_ads_are_in_retrieval_order(models, tmp_path):
    towers = {part: path for part, path in models.items() if part != "ranker"}
    release = published(tmp_path, towers)
    assert release.parts == ("query_tower", "ad_tower", "ad_index")
    assert (release.present_heads, release.absent_heads) == ((), ("click",))
    assert not list((tmp_path / "ranker").iterdir())
    with client.LocalClient(tmp_path) as local:
        answer = local.recommend(context=REQUESTS[0], k=5)
    assert (len(answer.ads), answer.order, answer.degraded) == (5, "retrieval", None)


@pytest.mark.parametrize(
    ("changes", "weights", "source"),
    [
        ({}, {"click": 1.0, "revenue": 1.0}, "equal"),
        ({"weights": {"click": 2}}, {"click": 2.0, "revenue": 0.0}, "schema"),
        ({"values": {"click": 0.1}}, {"click": 0.1, "revenue": 1.0}, "values"),
        ({"weights": {"click": 0}}, {"click": 1.0, "revenue": 1.0}, "equal"),  # no order
    ],
)
def test_the_weights_of_the_heads_are_those_of_the_schema(
    models, tmp_path, changes, weights, source
):
    release = published(tmp_path, models, schema=dataclasses.replace(SCHEMA, **changes))
    assert (release.utility_weights, release.weights_source) == (weights, source)


def test_scores_over_http_are_those_of_the_saved_model(base, models):
    release = releases.load(base)
    with (
        serving_fixtures.serve_ranker(base) as server,
        serving_fixtures.serve_app(
            serving_fixtures.make_orchestrator(release, f"127.0.0.1:{server.port}")
        ) as url,
        client.Client(url) as service,
    ):
        serving_fixtures.wait_until_ready(url)
        answer = service.recommend(context=REQUESTS[0], k=5)
    assert answer.degraded is None
    rows = release.ad_index.find([ad.ad_id for ad in answer.ads])
    direct = tf.saved_model.load(str(models["ranker"])).signatures["serving_default"](
        ad_features=tf.constant(release.ad_index.features(rows)[None]),
        **serving_fixtures.raw_inputs(REQUESTS[:1]),
    )
    served = [ad.click_probability for ad in answer.ads]
    np.testing.assert_allclose(served, direct["click_probability"][0], atol=1e-6)


def test_ads_are_added_and_removed_by_the_foreign_ad_tower(models, tmp_path):
    published(tmp_path, models)
    live = LiveIndex(releases.load(tmp_path))
    fields = {"advertiser": "advertiser-3", "category": "c1", "price": 1.5}
    live.update([{"ad_id": "new", "fields": fields}], ["ad-1"])
    view = LiveIndex(releases.load(tmp_path)).view()
    assert view.num_ads == NUM_ADS
    assert live.measure_recall() == 1.0
    with client.LocalClient(tmp_path) as both_stages:
        ads = both_stages.recommend(context=REQUESTS[0], k=NUM_ADS).ads
    assert {ad.ad_id for ad in ads} == {"new", *(f"ad-{i}" for i in range(NUM_ADS) if i != 1)}


def test_a_table_without_many_ads_of_the_last_release_is_warned_of(models, tmp_path, caplog):
    published(tmp_path, models)
    published(tmp_path, models, ads=ADS[: NUM_ADS - 60])  # 20 % are missing
    assert "missing" not in caplog.text
    published(tmp_path, models, ads=ADS[: NUM_ADS - 120])
    # Release 2, which is stable because it is the latest, has 240 ads.
    assert "60 of the 240 ads of release 2 are missing in the table of ads." in caplog.text


def test_the_same_models_have_the_same_training_id(base, models, tmp_path):
    first = manifest.read(base, 1)
    assert published(tmp_path, models).training_id == first.training_id
    ranker = save(serving_fixtures.RankerModule(1, ("click",)), tmp_path / "other")
    other = published(tmp_path, {**models, "ranker": ranker})
    assert other.training_id != first.training_id


def test_the_ads_of_a_release_can_be_published_with_another_ranker(base, models, tmp_path):
    with pa.ipc.open_file(base / "ad_index" / "1" / "ads.arrow") as file:
        ads = file.read_all()
    published(tmp_path, models, ads=ads)
    again = releases.load(tmp_path).ad_index
    assert again.listed(np.arange(9)) == releases.load(base).ad_index.listed(np.arange(9))


def test_without_ad_features_the_ranker_reads_the_embedding(models, tmp_path):
    module = serving_fixtures.AdTowerModule()
    tower = Function(AD_SPECS, lambda ads: {"ad_embedding": module.serve(ads)["ad_embedding"]})
    tower.module = module

    def first_dimension(inputs):
        embeddings = tf.bitcast(inputs["ad_features"], tf.float32)  # [B, C, D]
        return {"expected_revenue": embeddings[:, :, 0]}

    specs = {**QUERY_SPECS, "ad_features": ([None, None, serving_fixtures.DIMENSION], tf.int32)}
    ranker = save(Function(specs, first_dimension), tmp_path / "ranker")
    changed = {"ad_tower": save(tower, tmp_path / "ad_tower"), "ranker": ranker}
    published(tmp_path / "base", {**models, **changed})
    LiveIndex(releases.load(tmp_path / "base")).update(
        [{"ad_id": "new", "fields": {"advertiser": "advertiser-3"}}]
    )
    expected = dict(zip(ADS["sku"].to_pylist(), serving_fixtures.ad_embeddings(), strict=True))
    with client.LocalClient(tmp_path / "base") as both_stages:
        ads = both_stages.recommend(context=REQUESTS[0], k=20).ads
    known = [ad for ad in ads if ad.ad_id != "new"]
    assert len(known) >= 19
    for ad in known:
        assert ad.expected_revenue == pytest.approx(expected[ad.ad_id][0], abs=1e-6)


def test_a_directory_that_is_not_a_saved_model_is_refused(refused, models, tmp_path):
    message = refused(errors.BundleError, ranker=tmp_path / "nothing")
    assert message.startswith("ranker: expected the directory of a SavedModel, got ")
    parent = models["ranker"].parent
    assert f"Did you mean {parent / 'ranker'}?" in refused(errors.BundleError, ranker=parent)


def test_a_model_in_memory_is_refused(refused):
    message = refused(errors.BundleError, ranker=tf.keras.Sequential())
    assert message.startswith("ranker: expected the directory of a SavedModel, got an object of")


def test_a_schema_that_is_not_loaded_is_refused(refused):
    message = refused(ValueError, schema="schema.json")
    assert message.startswith("schema: expected a tfrecords.schema.Schema, got str. Use ")


def test_a_saved_model_with_another_signature_is_refused(refused, tmp_path):
    model = tf.Module()
    function = tf.function(lambda age: {"x": age}).get_concrete_function(age=tf.zeros(1))
    tf.saved_model.save(model, str(tmp_path / "tower"), signatures={"embed": function})
    message = refused(errors.BundleError, query_tower=tmp_path / "tower")
    assert "with the signature serving_default, got one with" in message


def test_a_damaged_saved_model_is_refused(refused, tmp_path):
    (tmp_path / "ranker").mkdir()
    (tmp_path / "ranker" / "saved_model.pb").write_bytes(b"\xff" * 20)
    message = refused(errors.BundleError, ranker=tmp_path / "ranker")
    assert message.startswith("ranker: expected a SavedModel, got: ")
    assert "Cannot parse file" in message


def test_each_wrong_input_of_a_signature_is_named(refused, tmp_path):
    specs = {
        "device": ([None, 1], tf.string),
        "age": ([None], tf.int64),
        "history": ([None, None], tf.string),
        "hour": ([None], tf.float32),
    }
    tower = Function(specs, lambda inputs: {"query": tf.zeros([tf.size(inputs["age"]), 16])})
    lines = refused(errors.BundleError, query_tower=save(tower, tmp_path / "tower")).splitlines()
    assert lines[1:-1] == [
        "  input 'country': expected string (None,), got none.",
        "  input 'device': expected string (None,), got string (None, 1).",
        "  input 'age': expected float32 (None,), got int64 (None,).",
        "  input 'hour': expected none, got float32 (None,).",
        "  output 'query_embedding': expected float32, got none.",
    ]
    assert lines[-1].startswith("Save the model again")


def embeddings_of(inputs, width=16):
    """Unit vectors that depend on the age and, if they are not the default ones, the weights."""
    age = tf.where(tf.math.is_nan(inputs["age"]), 30.0, inputs["age"])[:, None]
    weights = tf.reduce_sum(inputs.get("head_weights", 0.0 * age + 1) - 1, axis=-1, keepdims=True)
    return {
        "query_embedding": tf.math.l2_normalize(
            tf.sin((age + weights) * tf.range(1.0, width + 1.0)), axis=-1
        )
    }


def save_for_weights(directory, num_heads, **changes):
    """Saves a tower whose second signature takes the weights of heads."""
    specs = {**QUERY_SPECS, "head_weights": ([None, num_heads], tf.float32), **changes}
    module = Function(QUERY_SPECS, embeddings_of)
    module.other = Function({n: s for n, s in specs.items() if s}, embeddings_of).serve
    signatures = {"serving_default": module.serve, "for_weights": module.other}
    tf.saved_model.save(module, str(directory), signatures=signatures)
    return directory


def test_a_foreign_tower_may_take_the_weights_of_the_heads(models, tmp_path):
    tower = save_for_weights(tmp_path / "tower", 2)
    published(tmp_path / "base", models, query_tower=tower)
    served = releases.load(tmp_path / "base").query_tower
    rows = served.columns([{"country": "CH", "device": "x", "age": 40.0, "history": []}])
    plain, weighted = (
        served.embed(rows, weights) for weights in (None, np.array([[1.0, 2.0]], np.float32))
    )
    columns = {"age": tf.constant([40.0]), "head_weights": tf.constant([[1.0, 2.0]])}
    np.testing.assert_allclose(weighted, embeddings_of(columns)["query_embedding"], atol=1e-5)
    assert np.abs(weighted - plain).max() > 0.1


def test_a_tower_for_the_weights_of_other_heads_is_used_with_its_default_weights(models, tmp_path):
    tower = save_for_weights(tmp_path / "tower", 3)
    published(tmp_path / "base", models, query_tower=tower)
    served = releases.load(tmp_path / "base").query_tower
    rows = served.columns([{"country": "CH", "device": "x", "age": 40.0, "history": []}])
    weighted = served.embed(rows, np.array([[1.0, 2.0]], np.float32))
    np.testing.assert_array_equal(weighted, served.embed(rows))


def test_a_second_signature_with_other_inputs_is_refused(refused, tmp_path):
    tower = save_for_weights(tmp_path / "tower", 2, device=None, hour=([None], tf.float32))
    said = refused(errors.BundleError, query_tower=tower)
    assert "the signature for_weights does not fit the schema" in said
    assert "input 'device': expected string (None,), got none." in said


@pytest.mark.parametrize(
    ("part", "specs", "serve", "message"),
    [
        (
            "query_tower",
            QUERY_SPECS,
            lambda inputs: {"query_embedding": tf.zeros([tf.size(inputs["age"]), 7])},
            "same size, got 7 of queries and 16 of ads",
        ),
        (
            "query_tower",
            QUERY_SPECS,
            lambda inputs: {"query_embedding": inputs["age"]},
            r"query_tower: expected embeddings \[3, D\] for 3 rows, got \[3\]",
        ),
        (
            # The second request has no age.
            "query_tower",
            QUERY_SPECS,
            lambda inputs: {"query_embedding": tf.tile(inputs["age"][:, None], [1, 16])},
            "got NaN or infinity for sample request 1 and 0 more. A missing number is NaN",
        ),
        (
            # Every seventh of 300 ads, from the first, has no price.
            "ad_tower",
            AD_SPECS,
            lambda ads: {"ad_embedding": tf.tile(ads["price"][:, None], [1, 16])},
            "ad_tower: .* got NaN or infinity for ad 'ad-0' and 42 more",
        ),
        (
            "ad_tower",
            AD_SPECS,
            lambda ads: {
                "ad_embedding": tf.ones([tf.size(ads["price"]), 16]),
                "ad_features": tf.ones([tf.size(ads["price"]), 5]),
            },
            "output 'ad_features': expected int32, got float32",
        ),
        (
            "ranker",
            {**QUERY_SPECS, "ad_features": ([None, None, 4], tf.int32)},
            lambda inputs: {"click_probability": ones(inputs)},
            r"expected int32 \(None, None, 5\), got int32 \(None, None, 4\)",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"click_probability": 3 * ones(inputs)},
            r"a probability in \[0, 1\] as click_probability, got 3 for the ad 'ad-0'",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"expected_revenue": ones(inputs) / 0},
            "a finite number as expected_revenue, got inf",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"click_probability": ones(inputs)[:, :, None]},
            r"expected click_probability as float32 \[1, 300\] .*, got float32 \[1, 300, 1\]",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"score": ones(inputs)},
            r"got \['score'\]. Name each output LABEL_probability, or expected_LABEL",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"click_probability": tf.cast(ones(inputs), tf.float64)},
            "expected click_probability as float32 .*, got float64",
        ),
        (
            # Normalized over the requests of the batch.
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"click_probability": ones(inputs) / tf.reduce_sum(ones(inputs)[:, 0])},
            "expected the same outputs for a request in a batch and alone",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {
                "click_probability": ones(inputs) * tf.strings.to_number(inputs["country"])[:, None]
            },
            "ranker: .* got the error: StringToNumberOp could not",
        ),
        (
            # It runs in this process alone.
            "ranker",
            RANKER_SPECS,
            lambda inputs: {
                "click_probability": tf.ensure_shape(
                    tf.numpy_function(np.copy, [ones(inputs)], tf.float32), [None, None]
                )
            },
            "ranker: expected a model of TensorFlow operations, got one that calls Python",
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(refused, tmp_path, part, specs, serve, message):
    saved = save(Function(specs, serve), tmp_path / part)
    message_found = refused(errors.BundleError, **{part: saved})
    assert re.search(message, message_found), message_found


@pytest.mark.parametrize(
    ("part", "specs", "serve", "message"),
    [
        (
            "query_tower",
            QUERY_SPECS,
            lambda inputs: {"query_embedding": tf.tile(inputs["age"][:, None], [1, 16])},
            "query_tower: expected finite embeddings, got NaN or infinity for a request whose "
            "fields are all missing",
        ),
        (
            "ranker",
            RANKER_SPECS,
            lambda inputs: {"expected_revenue": ones(inputs) * inputs["age"][:, None]},
            "as expected_revenue, got nan for the ad 'ad-0' in a request whose fields are all",
        ),
    ],
)
def test_a_model_that_needs_a_field_is_refused_if_no_sample_request_lacks_it(
    refused, tmp_path, part, specs, serve, message
):
    saved = save(Function(specs, serve), tmp_path / part)
    sample_requests = [{"age": 40.0}, {"age": 50.0, "country": "CH"}]
    changes = {part: saved, "sample_requests": sample_requests}
    assert message in refused(errors.BundleError, **changes)


def test_an_index_below_the_target_recall_is_warned_of(models, tmp_path, caplog):
    config = IndexConfig(kind="SQ4", num_candidates=20)
    release = published(tmp_path / "base", models, index_config=config)
    assert release.index["kind"] == "SQ4"
    assert "index: kind SQ4 finds " in caplog.text
    assert "% of the best 20 ads of held-out requests; expected at least 99.0 %" in caplog.text
    caplog.clear()
    exact = IndexConfig(kind="Flat", num_candidates=20)
    published(tmp_path / "base", models, index_config=exact)
    # gRPC's poller may say that the loop of an earlier test is closed.
    assert not [record for record in caplog.records if record.name.startswith("serving")]


def test_a_kind_of_index_that_fails_is_refused_before_the_ads_are_embedded(refused, monkeypatch):
    monkeypatch.delattr("serving.releases.embedded_ads.embed")
    # A factory string that does not fit the dimension of the embeddings.
    message = refused(ValueError, index_config=IndexConfig(kind="PQ7"))
    assert "which FAISS refuses for 16 dimensions" in message


def with_column(name, values):
    return ADS.set_column(ADS.column_names.index(name), name, [values])


@pytest.mark.parametrize(
    ("ads", "message"),
    [
        (ADS.drop_columns("sku"), "no column 'sku', which the schema names"),
        (
            ADS.rename_columns({"category": "kategory"}),
            "no column 'category', which the schema names. Did you mean 'kategory'",
        ),
        (pa.concat_tables([ADS, ADS[5:6]]), "sku: expected each ad id once, got 'ad-5' 2 times"),
        (
            with_column("sku", pa.array([None, *ADS["sku"].to_pylist()[1:]])),
            "expected an ad id of 1 to 1024 bytes, got 0 bytes in row 0",
        ),
        (
            with_column("advertiser", pa.array(np.arange(NUM_ADS) / 2)),
            "expected a column for a categorical field, got the type double (expected strings",
        ),
        (
            with_column("price", pa.array(["dear"] * NUM_ADS)),
            "price: expected a column for a numeric field, got the type string (",
        ),
        (
            with_column("price", pa.array([1.0, np.inf, *[1.0] * (NUM_ADS - 2)])),
            "expected a column for a numeric field, got the type double (expected finite numbers",
        ),
        (ADS[:0], "has no rows; expected at least one ad"),
        (ADS.to_pandas(), "ads: expected a pyarrow.Table, got DataFrame. Use pyarrow.Table.from_"),
    ],
)
def test_a_table_of_ads_that_does_not_fit_is_refused(refused, ads, message):
    assert message in refused(errors.InvalidRequestError, ads=ads)


def test_lists_are_split_at_the_separator_and_integers_are_their_digits():
    fields = (
        Field("country", "categorical", "query"),
        Field("brand", "categorical", "ad", column="Brand"),
        Field("tags", "categorical_list", "ad", separator=";"),
        Field("price", "numeric", "ad"),
    )
    schema = Schema("shop", fields, ("shop", "sku"), None)
    ads = pa.table(
        {
            "shop": ["a|b", "a", "a"],
            "sku": [7, 8, 9],
            "Brand": pa.array([12, None, None]),
            "tags": ["new;red", None, "['new', 'red']"],
            "price": [3, None, None],
            "unused": [True, False, False],
        }
    )
    assert ads_table.checked_ads(ads, schema).to_pylist() == [
        {AD_ID: r"a\|b|7", "brand": "12", "tags": ["new", "red"], "price": 3.0},
        {AD_ID: "a|8", "brand": None, "tags": None, "price": None},
        {AD_ID: "a|9", "brand": None, "tags": ["new", "red"], "price": None},
    ]


@pytest.mark.parametrize(
    "tags",
    [
        pa.array(["", "x||y", None]),
        pa.array([[""], ["x", None, "", "y"], None], pa.list_(pa.string())),
        pa.array([[""], ["x", None, "", "y"], None], pa.large_list(pa.large_string())),
        pa.array([[], ["x", "y"], None], pa.list_(pa.string())),
    ],
)
def test_empty_items_of_lists_are_missing(tags):
    fields = (Field("country", "categorical", "query"), Field("tags", "categorical_list", "ad"))
    schema = Schema("shop", fields, ("sku",), None)
    checked = ads_table.checked_ads(pa.table({"sku": [1, 2, 3], "tags": tags}), schema)
    assert checked["tags"].to_pylist() == [[], ["x", "y"], None]


@pytest.mark.parametrize("vectors", [[["1", "x"]], [[[1.0], [2.0]]]])
def test_vectors_of_other_values_than_numbers_are_refused(vectors):
    fields = (Field("country", "categorical", "query"), Field("v", "dense", "ad", length=2))
    schema = Schema("shop", fields, ("sku",), None)
    ads = pa.table({"sku": [1], "v": pa.array(vectors)})
    message = r"^v: expected a column for a dense field, got the type list<.*Convert the column"
    with pytest.raises(errors.InvalidRequestError, match=message):
        ads_table.checked_ads(ads, schema)


@pytest.mark.parametrize(
    ("sample_requests", "message"),
    [
        ([], "expected at least one request, got none"),
        (
            [{}, {"contry": "CH"}],
            "sample_requests[1]: context: unknown field 'contry' (str). Did you mean 'country'?",
        ),
        (
            pd.DataFrame({"age": [1]}),
            "{'country': 'CH'}], got DataFrame.",
        ),
        (
            [Request()],
            "{'country': 'CH'}], got list of Request.",
        ),
        ([{"age": "old"}], "sample_requests[0]: context.age: expected a finite number or null"),
    ],
)
def test_sample_requests_that_do_not_fit_are_refused(refused, sample_requests, message):
    assert message in refused(errors.InvalidRequestError, sample_requests=sample_requests)
