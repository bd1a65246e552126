"""The projector's files, read back by TensorBoard's own plugin."""

import json
import shutil

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector import projector_plugin
from werkzeug import test as werkzeug_test
from werkzeug import wrappers

from tfrec import training

EMBEDDINGS = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
METADATA = pa.table({"ad_id": ["a\tb", "c\r\nd\u2028e"], "tags": [["x", "y"], None]})


def served(logdir):
    """Returns a function that gets a route of the plugin, as TensorBoard serves it."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(logdir))
    context = base_plugin.TBContext(
        logdir=str(logdir), data_provider=provider, multiplexer=multiplexer
    )
    apps = projector_plugin.ProjectorPlugin(context).get_plugin_apps()

    def get(route, **query):
        client = werkzeug_test.Client(apps[route], wrappers.Response)
        response = client.get("/", query_string=query)
        assert response.status_code == 200, response.data
        return response.data

    return get


def write_run(directory):
    """Writes an event file, without which TensorBoard sees no run, and the projector."""
    with tf.summary.create_file_writer(str(directory)).as_default():
        tf.summary.scalar("loss", 1.0, step=1)
    training.write_projector(directory, EMBEDDINGS, METADATA)


def assert_is_served(logdir):
    get = served(logdir)
    assert json.loads(get("/runs")) == ["tensorboard"]
    config = json.loads(get("/info", run="tensorboard"))
    (embedding,) = config["embeddings"]
    assert embedding["tensorShape"] == [2, 3]
    name = embedding["tensorName"]
    tensor = np.frombuffer(get("/tensor", run="tensorboard", name=name), np.float32)
    np.testing.assert_array_equal(tensor.reshape(2, 3), EMBEDDINGS)
    text = get("/metadata", run="tensorboard", name=name).decode()
    assert text == "ad_id\ttags\na b\tx, y\nc d e\t\n"


def test_the_plugin_serves_what_was_written(tmp_path):
    write_run(tmp_path / "tensorboard")
    assert_is_served(tmp_path)


def test_a_moved_directory_is_served(tmp_path):
    write_run(tmp_path / "before" / "tensorboard")
    shutil.move(tmp_path / "before", tmp_path / "after")
    assert_is_served(tmp_path / "after")


def test_a_second_writing_replaces_the_first(tmp_path):
    training.write_projector(tmp_path / "tensorboard", EMBEDDINGS[:1], METADATA.slice(0, 1))
    write_run(tmp_path / "tensorboard")
    assert_is_served(tmp_path)
    assert len(list((tmp_path / "tensorboard").glob("projector-*.index"))) == 1


def test_the_most_clicked_ads_and_a_sample_of_the_others_are_chosen():
    clicks = np.array([0, 5, 0, 9, 1, 0, 7])
    rows = training.choose_rows(clicks, limit=4)
    assert rows[:2].tolist() == [3, 6]
    assert len(set(rows.tolist())) == 4
    assert training.choose_rows(clicks, limit=5)[:3].tolist() == [3, 6, 1]
    assert training.choose_rows(clicks, limit=7).tolist() == [3, 6, 1, 4, 0, 2, 5]
    others = {row for seed in range(40) for row in training.choose_rows(clicks, 4, seed)[2:]}
    assert others == {0, 1, 2, 4, 5}


def test_the_metadata_is_that_of_the_rows(data_set):
    catalog = data_set.catalog()
    shown = training.metadata_of(catalog, np.array([4, 1]))
    assert shown.column_names[:3] == ["ad_id", "training_clicks", "training_impressions"]
    assert shown["ad_id"].to_pylist() == [catalog.ad_ids[4].as_py(), catalog.ad_ids[1].as_py()]
    assert shown["training_clicks"].to_pylist() == catalog.clicks[[4, 1]].tolist()
    assert set(catalog.fields.column_names) <= set(shown.column_names)
