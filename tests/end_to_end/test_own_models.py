"""Custom models: those of the examples are trained, evaluated, exported and served."""

import dataclasses
import importlib
import json
import shutil
import sys

import howto
import numpy as np
import pytest
import tensorflow as tf
from repository import EXAMPLES

from serving import export
from serving.client import LocalClient
from serving.index import IndexConfig
from tfrec import ranking, retrieval
from tfrec.config import EvaluationConfig
from tfrecords import encoding, reader

pytestmark = pytest.mark.trains


@pytest.fixture(scope="module")
def examples(data_set, tmp_path_factory):
    """A directory with the examples, the current one, and their ads' vectors."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("dlrm_ranker", "frozen_encoder_tower"):
        shutil.copy(EXAMPLES / f"{name}.py", folder)
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "path", list(sys.path))
        kind = retrieval.RETRIEVAL_MODELS.get("frozen_encoder_tower:FrozenEncoder")
        sys.modules[kind.__module__].write_vectors(data_set, "ad_vectors.npz")
        yield folder
    for name in {"dlrm_ranker", "frozen_encoder_tower"} - before:
        sys.modules.pop(name, None)


class Edited(tf.keras.callbacks.Callback):
    """Edits the source of a model while it is trained; `restore` undoes it."""

    def __init__(self, source):
        super().__init__()
        self.source, self.before = source, source.read_text()

    def on_train_begin(self, logs=None):
        self.source.write_text(f"{self.before}\n# The next idea.\n")

    def restore(self):
        self.source.write_text(self.before)


@pytest.fixture(scope="module")
def workdir(examples, data_set, ranker_config, retrieval_config):
    """A work directory with both examples trained; their sources were edited meanwhile."""
    steps = export.Pipeline(examples / "work", progress=False)
    shutil.copytree(data_set.directory, steps.path("data"))
    ranker_config = dataclasses.replace(ranker_config, ranker="dlrm_ranker:DLRM")
    retrieval_config = dataclasses.replace(
        retrieval_config, retrieval_model="frozen_encoder_tower:FrozenEncoder"
    )
    for train, config, name in (
        (steps.train_ranker, ranker_config, "dlrm_ranker"),
        (steps.train_retrieval, retrieval_config, "frozen_encoder_tower"),
    ):
        edited = Edited(examples / f"{name}.py")
        train(steps.data_set(), config, [edited])
        assert edited.source.read_text() != edited.before
        edited.restore()
    return steps.workdir


@pytest.fixture(scope="module")
def models(workdir):
    """The trained models, loaded without naming them."""
    return export.Pipeline(workdir, progress=False).models(reader.DataSet(workdir / "data"))


@pytest.mark.parametrize(
    ("page", "name"), [("own_ranker", "dlrm_ranker"), ("own_tower", "frozen_encoder_tower")]
)
def test_the_pages_show_the_examples(page, name):
    assert howto.source(page)[0] == (EXAMPLES / f"{name}.py").read_text()


def test_own_models_are_loaded_without_naming_them(workdir, models):
    assert type(models.ranker).__name__ == "DLRM"
    assert type(models.two_tower).__name__ == "FrozenEncoder"
    written = json.loads((workdir / "ranker" / "config.json").read_text())
    assert written["ranker"] == "dlrm_ranker:DLRM"


def test_weights_are_not_loaded_if_the_source_of_the_model_has_changed(
    workdir, examples, monkeypatch
):
    # Python takes cached bytecode for a source of the same size, edited in the same second.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    data_set, source = reader.DataSet(workdir / "data"), examples / "dlrm_ranker.py"
    own = source.read_text()
    source.write_text(own.replace('activation="relu"', 'activation="tanh"'))
    importlib.reload(sys.modules["dlrm_ranker"])
    with pytest.raises(ValueError, match=r"ranker.json: the source of the model, .* has changed"):
        ranking.load_ranker(data_set, workdir / "ranker")
    source.write_text(own)
    importlib.reload(sys.modules["dlrm_ranker"])
    ranking.load_ranker(data_set, workdir / "ranker")


def test_own_models_learn(workdir):
    history = json.loads((workdir / "ranker" / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]
    ranked = json.loads((workdir / "ranker" / "ranker.json").read_text())["validation"]
    # The mean rate would have 1.
    assert ranked["click"]["normalized_entropy"] < 1.0
    found = json.loads((workdir / "retrieval" / "retrieval.json").read_text())["history"]
    # At random it would be 100 / 300.
    assert max(one["validation_corpus_recall_at_100"] for one in found) > 0.38


def test_frozen_vectors_are_not_trained(models, examples):
    stored = np.load(examples / "ad_vectors.npz")
    frozen = models.two_tower.ad_tower.frozen.numpy()
    known = {tuple(vector) for vector in stored["vectors"].tolist()}
    rows = [tuple(row) for row in frozen.tolist() if any(row)]
    assert rows
    assert set(rows) <= known


def test_own_models_are_evaluated_exported_and_served(workdir, models):
    steps = export.Pipeline(workdir, progress=False)
    data_set, flat = steps.data_set(), IndexConfig(kind="Flat")
    report = steps.evaluate(data_set, EvaluationConfig(resamples=5), flat)
    assert report.ranker["click"].metrics["auc"].value > 0.5
    steps.export(data_set, report, flat, force=True)
    base = steps.path("bundle")
    request = data_set.sample_requests()[0]
    with LocalClient(base) as client:
        answer = client.recommend(
            user=request, k=5, explain=True, rules={"caps": [{"field": "C11", "max": 2}]}
        )
    assert answer.degraded is None
    assert len(answer.ads) == 5
    # The served scores are those of the trained model, calibrated.
    fields = data_set.schema.query_fields
    raw = {}
    for field in fields:
        value = request[field.name]
        raw[field.name] = (
            tf.constant([np.nan if value is None else value], tf.float32)
            if field.kind == "numeric"
            else tf.constant(["" if value is None else value])
        )
    query = encoding.Encoder(data_set.fitted, fields)(raw)
    catalog = data_set.catalog()
    row_of = {ad: row for row, ad in enumerate(catalog.ad_ids.to_pylist())}
    rows = [row_of[ad.ad_id] for ad in answer.ads]
    expected = models.calibrators.apply(
        models.ranker.score(query, np.asarray(catalog.features)[rows][None])
    )
    for ad, probability in zip(answer.ads, expected["click_probability"].numpy()[0], strict=True):
        assert ad.click_probability == pytest.approx(probability, rel=1e-4)
        parts = ad.explanation.parts.values()
        assert sum(part.part for part in parts) == pytest.approx(ad.utility, rel=1e-5)
    shown = [ad.fields["C11"] for ad in answer.ads]
    assert max(map(shown.count, shown)) <= 2
