"""User biases: learned from the rows of a user, and relative to their mean."""

import dataclasses

import logs
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import tensorflow as tf

from tfrec import layers, ranking
from tfrec.exported import signatures
from tfrec.layers import biases
from tfrecords import encoding
from tfrecords import schema as schema_lib

NUM_USERS, OLD_USERS, ROWS_OF_USER, NUM_ADS = 150, 100, 40, 30
AGES = 10  # ten users of the training rows, and five later ones, are of each age
SCHEMA = schema_lib.Schema(
    "biases",
    (
        schema_lib.Field("user", "categorical", "query", min_count=1),
        schema_lib.Field("age", "categorical", "query", min_count=1),
        schema_lib.Field("ad", "categorical", "ad", min_count=1),
    ),
    ad_key=("ad",),
    click="click",
    revenue="revenue",
    user_key="user",
    time="time",
)


@pytest.fixture(scope="module")
def true_biases():
    """Users click more or less, whatever their age."""
    return np.random.default_rng(0).normal(scale=1.5, size=NUM_USERS)


@pytest.fixture(scope="module")
def users(true_biases, tmp_path_factory):
    """The log, converted: the rows of the last third of the users are for validation and test."""
    rng = np.random.default_rng(1)
    old = rng.permutation(np.repeat(np.arange(OLD_USERS), ROWS_OF_USER))
    user = np.append(old, rng.permutation(np.repeat(np.arange(OLD_USERS, NUM_USERS), ROWS_OF_USER)))
    ad = rng.integers(NUM_ADS, size=len(user))
    logits = true_biases[user] + rng.normal(size=NUM_ADS)[ad]
    click = rng.random(len(user)) < 1 / (1 + np.exp(-logits))
    table = pa.table(
        {
            "user": [f"u{u}" for u in user],
            "age": [f"{u % AGES}" for u in user],
            "ad": [f"a{a}" for a in ad],
            "click": click.astype(np.int8),
            "revenue": np.where(click, 2.0, 0.0),
            "time": np.arange(len(user)),
        }
    )
    directory = tmp_path_factory.mktemp("users")
    pa.csv.write_csv(table, directory / "log.csv")
    return logs.converted_table(
        directory / "log.csv",
        directory / "data",
        SCHEMA,
        validation_fraction=1 / 6,
        test_fraction=1 / 6,
    )


@pytest.fixture(scope="module")
def trained(users, ranker_config, tmp_path_factory):
    config = dataclasses.replace(ranker_config, num_blocks=0, epochs=2)
    directory = tmp_path_factory.mktemp("trained")
    ranking.train_ranker(users, config, directory)
    return ranking.load_ranker(users, directory)[:2]


@pytest.mark.trains
def test_the_true_biases_are_learned(users, true_biases, trained):
    model = trained[0]
    names = users.fitted.statistics["user"].vocabulary
    biases = model.user_bias.table.numpy()[1 : 1 + len(names)]  # of clicks and of revenue
    true = np.array([true_biases[int(name[1:])] for name in names])
    for learned in biases.T:
        assert np.corrcoef(learned, true)[0, 1] > 0.9
    # Two epochs reach 0.22 to 0.26 of the biases with four seeds, and 0.03 with steps a tenth as
    # large.
    assert np.polyfit(true, biases[:, 0], 1)[0] > 0.15


@pytest.fixture
def layer():
    field = schema_lib.Field("user", "categorical", "query", num_oov_buckets=2)
    ad = schema_lib.Field("ad", "categorical", "ad")
    schema = schema_lib.Schema("shop", (field, ad), ad_key=("ad",), click="c", user_key="user")
    statistics = {
        "user": encoding.FieldStatistics(vocabulary=("u", "v")),
        "ad": encoding.FieldStatistics(vocabulary=("a",)),
    }
    users = layers.KeyIds.for_users(encoding.FittedSchema(schema, statistics))
    layer = biases.UserBias(users, 2)
    layer.table.assign([[9.0, 9.0], [1.0, -1.0], [3.0, 0.0], [9.0, 9.0], [9.0, 9.0]])
    return layer


# Three rows of u, one of v, and one each of an unknown user and of a request without a user.
QUERY = tf.constant([[1], [2], [3], [0]])
SHOWN = tf.sequence_mask([3, 1, 1, 1], 3)


def test_biases_are_relative_to_their_mean_over_rows_which_unknown_users_have(layer):
    in_training = layer(QUERY, SHOWN, training=True)
    expected = [[-0.5, -0.25], [1.5, 0.75], [0.0, 0.0], [0.0, 0.0]]  # the mean: 1.5, -0.75
    np.testing.assert_allclose(in_training, expected, atol=1e-6)
    np.testing.assert_allclose(layer.mean, [0.075, -0.0375], atol=1e-6)
    # A batch without known users says nothing of their mean.
    layer(QUERY[2:], SHOWN[2:], training=True)
    np.testing.assert_allclose(layer.mean, [0.075, -0.0375], atol=1e-6)
    for _ in range(300):
        layer(QUERY, SHOWN, training=True)
    np.testing.assert_allclose(layer(QUERY, SHOWN), expected, atol=1e-5)
    # Served alone they are the same.
    np.testing.assert_allclose(layer(QUERY[1:2], SHOWN[1:2]), expected[1:2], atol=1e-5)


@pytest.mark.parametrize("copies", [1, 8])
def test_the_update_of_a_row_does_not_depend_on_the_batch_size(layer, copies):
    query, shown = tf.repeat(QUERY, copies, axis=0), tf.repeat(SHOWN, copies, axis=0)
    residuals = tf.where(shown, 1.0, 0.0)[..., None] * [1.0, 0.0]
    residuals *= tf.where(query == 1, 1.0, -1.0)[..., None]
    with tf.GradientTape() as tape:
        added = layer(query, shown, training=True)[:, None]
        loss = tf.reduce_sum(residuals * added) / tf.reduce_sum(tf.cast(shown, tf.float32))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.table)).numpy()
    # u: three rows of +1, less three quarters of the sum over rows of users, 3 - 1.
    per_row = biases.STEP_PER_ROW * copies
    np.testing.assert_allclose(gradient[1:3, 0], [1.5 * per_row, -1.5 * per_row], rtol=1e-4)
    assert not gradient[[0, 3, 4]].any()
    assert not gradient[:, 1].any()


@pytest.mark.trains
def test_the_order_of_ads_does_not_depend_on_the_user_bias(users, trained):
    model: ranking.Ranker = trained[0]
    batch = next(iter(users.batches("test", 8)))
    ads = np.repeat(np.asarray(users.catalog().features)[None], len(batch["query"]), axis=0)
    before = {head: values.numpy() for head, values in model.score(batch["query"], ads).items()}
    table = model.user_bias.table.numpy()
    model.user_bias.table.assign_add(np.ones_like(table))
    after = model.score(batch["query"], ads)
    model.user_bias.table.assign(table)
    for head, values in after.items():
        difference = (values.numpy() - before[head]).reshape(*ads.shape[:2], -1)
        np.testing.assert_allclose(
            difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-5
        )


@pytest.mark.trains
def test_the_exported_ranker_looks_users_up_by_id(users, trained, tmp_path):
    model, calibrators = trained
    module = signatures.RankerModule(users.fitted, model, calibrators)
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    exported = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    names = users.fitted.statistics["user"].vocabulary
    biases = model.user_bias.table.numpy()[1 : 1 + len(names), 0]
    least, most = (names[int(index)] for index in (biases.argmin(), biases.argmax()))
    columns = {"user": tf.constant([least, "nobody", "", most]), "age": tf.constant(["7"] * 4)}
    ads = np.repeat(np.asarray(users.catalog().features)[None], 4, axis=0)
    scores = exported(ad_features=tf.constant(ads), **columns)
    query = encoding.Encoder(users.fitted, users.schema.query_fields)(columns)
    for name, expected in calibrators.apply(model.score(query, ads)).items():
        np.testing.assert_allclose(scores[name], expected, rtol=1e-5, atol=1e-6)
    click = scores["click_probability"].numpy().mean(axis=1)
    assert click[0] < click[1] < click[3]
    assert click[0] < click[2] < click[3]
