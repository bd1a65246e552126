"""A custom text encoder, the one in docs/howto/text_encoder.md."""

import shutil

import howto
import numpy as np
import pytest
import tensorflow as tf

from serving import saved_model
from tfrec import exported
from tfrecords import encoding, vectors
from tfrecords.schema import Field, Schema

TITLE = Field("title", "text", "ad", length=2, encoder="word_vectors:WordVectors")
SCHEMA = Schema(
    "own", (Field("q", "categorical", "query"), TITLE), ad_key=("title",), click="clicked"
)


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """A schema whose encoder's module and file are in the current directory."""
    howto.write("text_encoder", tmp_path)
    np.savez(
        tmp_path / "word_vectors.npz",
        words=["red", "shoes", "赤い"],
        vectors=np.float32([[1, 0], [0, 2], [-4, 0]]),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    statistics = {field.name: encoding.FieldStatistics() for field in SCHEMA.fields}
    return encoding.FittedSchema(SCHEMA, statistics)


class Tower(tf.keras.layers.Layer):
    """The first two values of a title."""

    def call(self, rows):
        return vectors.decode(rows, 2)


def test_the_encoder_of_the_page_runs_at_conversion_and_in_the_exported_tower(fitted, tmp_path):
    texts = ["Red shoes", "red unknown", "", "nothing known", "赤い red"]
    # (1, 2) by 2; (1, 0); missing; zeros, which are missing too; (-3, 0) by 3.
    expected = [[0.5, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]
    encoder = encoding.Encoder(fitted, SCHEMA.ad_fields)
    offline = encoder.encode_texts(TITLE, np.array(texts, object))
    assert vectors.decode(tf.constant(offline), 2).numpy().tolist() == expected
    module = exported.AdTowerModule(fitted, Tower())
    tf.saved_model.save(
        module, str(tmp_path / "tower"), signatures={"serving_default": module.serve}
    )
    # What serves the model has neither the class nor its file.
    (tmp_path / "word_vectors.py").unlink()
    (tmp_path / "word_vectors.npz").unlink()
    shutil.move(tmp_path / "tower", tmp_path / "moved")
    served = tf.saved_model.load(str(tmp_path / "moved")).signatures["serving_default"]
    found = served(title=tf.constant(texts))
    assert found["ad_embedding"].numpy().tolist() == expected
    np.testing.assert_array_equal(found["ad_features"], offline)
    runner = saved_model.SessionRunner(str(tmp_path / "moved"))
    assert "serving_default" in runner.signature_defs
