"""A changed source of a text encoder is noticed."""

import dataclasses
import importlib
import sys

import pandas as pd
import pytest

import tfrecords
from serving import export
from serving.export.steps import Steps
from tfrec.config import ConvertConfig
from tfrecords import convert
from tfrecords.schema import Field, Schema

ENCODER = """
from tfrecords import texts

class Ones(texts.TextEncoder):
    pass
"""
TITLE = Field("title", "text", "ad", length=2, encoder="ones_of_title:Ones")
SCHEMA = Schema("log", (Field("q", "categorical", "query"), TITLE), ("title",), click="click")


class Stopped(Exception):
    pass


@pytest.fixture
def inputs_of(tmp_path, monkeypatch):
    """Returns a function that returns the inputs of the conversion of a log."""
    (tmp_path / "log.csv").write_text("q,title,click\na,b,1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    given = []

    def once(self, step, title, inputs, *_):
        given.append(inputs)
        raise Stopped

    monkeypatch.setattr(Steps, "once", once)

    def run(schema):
        source = convert.Source(tmp_path / "log.csv", schema, "tabular")
        with pytest.raises(Stopped):
            export.Pipeline(tmp_path / "work").convert(source, ConvertConfig())
        return given.pop()

    return run


@pytest.mark.parametrize("is_frame", [False, True])
def test_no_release_has_a_text_encoder_that_has_changed_since_the_conversion(
    is_frame, tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "changed_encoder", raising=False)
    module = tmp_path / "changed_encoder.py"
    encoder = (
        "import tensorflow as tf\nfrom tfrecords import texts\n\n"
        "class Own(texts.TextEncoder):\n"
        "    def encode(self, texts):\n"
        "        return tf.ones([tf.size(texts), 2])\n"
    )
    module.write_text(encoder)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "log.csv").write_text("q,title,click\n" + "a,b,1\na,c,0\n" * 20)
    title = dataclasses.replace(TITLE, encoder="changed_encoder:Own")
    schema = dataclasses.replace(SCHEMA, fields=(SCHEMA.fields[0], title))
    steps = export.Pipeline(tmp_path / "work", progress=False)
    if is_frame:
        rows = pd.read_csv(tmp_path / "log.csv")
        data_set = tfrecords.from_pandas(rows, schema, steps.path("data"), progress=False)
    else:
        source = convert.Source(tmp_path / "log.csv", schema, "tabular")
        data_set = steps.convert(source, ConvertConfig())
    with pytest.raises(FileNotFoundError, match="train_retrieval"):
        steps.export(data_set, None)
    module.write_text(f"{encoder}    # changed\n")
    importlib.reload(sys.modules["changed_encoder"])
    with pytest.raises(ValueError, match=r"data: the source of a text encoder has changed .* Rest"):
        steps.export(data_set, None)


def test_a_log_is_converted_again_when_the_source_of_its_text_encoder_changes(inputs_of, tmp_path):
    module = tmp_path / "ones_of_title.py"
    module.write_text(ENCODER)
    before = inputs_of(SCHEMA)
    assert inputs_of(SCHEMA) == before
    module.write_text(f"{ENCODER}    # changed\n")
    importlib.reload(sys.modules["ones_of_title"])
    assert inputs_of(SCHEMA) != before
    ours = dataclasses.replace(TITLE, encoder="hashed_ngrams")
    assert "encoder_sources" not in inputs_of(
        dataclasses.replace(SCHEMA, fields=(SCHEMA.fields[0], ours))
    )
