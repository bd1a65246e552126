"""From a frame to ranked ads in Python, in work directories like those of the commands."""

import dataclasses
import json
import math
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import tfrec
import tfrecords
from serving import releases, workflow
from serving.export import release_export
from serving.index import IndexConfig
from tfrec import ranking, retrieval

pytestmark = pytest.mark.trains

SCHEMA = {
    "name": "shop",
    "fields": [
        {"name": "country", "kind": "categorical", "side": "query"},
        {"name": "sku", "kind": "categorical", "side": "ad"},
        {"name": "origin", "kind": "categorical", "side": "ad"},
        {"name": "price", "kind": "numeric", "side": "ad"},
        {"name": "rank", "kind": "numeric", "side": "ad"},
    ],
    "ad_key": ["sku"],
    "click": "clicked",
    "request_key": "page",
}
FLAT = IndexConfig(kind="Flat")
FEW = tfrec.EvaluationConfig(resamples=5)


def frame() -> pd.DataFrame:
    """Returns 800 lists of five of 40 ads; a country clicks on its own ads."""
    rng = np.random.default_rng(3)
    page = np.repeat(np.arange(800), 5)
    ad = rng.integers(40, size=4_000)
    countries = np.array(["AT", "CH", "DE", "FR"])
    clicked = rng.random(4_000) < np.where(ad % 4 == page % 4, 0.8, 0.05)
    return pd.DataFrame(
        {
            "page": page,
            "country": countries[page % 4],
            "sku": np.char.add("s", ad.astype(str)),
            "origin": countries[ad % 4],
            "price": 1.0 + ad,
            "rank": ad // 4,
            "clicked": clicked,
        }
    )


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    directory = tmp_path_factory.mktemp("frames") / "elsewhere"
    return tfrecords.from_pandas(frame(), SCHEMA, directory, progress=False)


@pytest.fixture(scope="module")
def options(retrieval_config, ranker_config):
    return {
        "retrieval": dataclasses.replace(retrieval_config, refit=False, id_dropout=0.0),
        "ranking": dataclasses.replace(ranker_config, num_blocks=0, epochs=4),
    }


class Watch(tf.keras.callbacks.Callback):
    """Keeps the metrics of the epochs."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def on_epoch_end(self, epoch, logs=None):
        self.seen |= set(logs)


WATCH = Watch()


@pytest.fixture(scope="module")
def stages(data_set, options, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("work")
    trained = tfrec.train(data_set, workdir, **options, progress=False, callbacks=[WATCH])
    trained.evaluate(FEW, index=FLAT)
    return trained


@pytest.fixture(scope="module")
def release(stages):
    return stages.export(index=FLAT)


class WithoutTowers(retrieval.RetrievalModel):
    pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"retrieval": tfrec.RetrievalConfig(retrieval_model=WithoutTowers)},
            "WithoutTowers cannot be built",
        ),
        (
            {"ranking": tfrec.RetrievalConfig()},
            r"expected an instance of RankerConfig, got RetrievalConfig\(",
        ),
        (
            {"retrieval": {"epochs": 1}},
            r"expected an instance of RetrievalConfig, got {'epochs': 1}",
        ),
        ({"ranking": tfrec.RankerConfig(ranker="atention")}, r"Did you mean 'attention'\?"),
        (
            {"callbacks": ["x"]},
            r"callbacks: expected a list of .*keras.callbacks.Callback objects, got \['x",
        ),
        (
            {"data_set": pd.DataFrame({"a": [1]})},
            r"expected a DataSet, such as .*, got DataFrame\.",
        ),
        ({"data_set": "workdir/data"}, r"expected a DataSet, such as .*, got 'workdir/data'"),
    ],
)
def test_wrong_arguments_are_refused_before_training(data_set, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        tfrec.train(**{"data_set": data_set, "workdir": tmp_path, **options})
    assert list(tmp_path.iterdir()) == []


def test_callbacks_see_the_metrics_of_both_stages(stages):
    assert {"validation_loss", "validation_corpus_recall", "validation_utility_share"} <= WATCH.seen


def test_an_exported_release_ranks_the_ads_that_a_country_clicks(release):
    with release.client() as client:
        answer = client.recommend(context={"country": "CH"}, k=10)
    ads = answer.to_pandas()
    assert list(ads["rank"]) == list(range(1, 11))
    assert list(ads["ad_id"]) == [ad.ad_id for ad in answer.ads]
    assert list(ads["click_probability"]) == [ad.click_probability for ad in answer.ads]
    assert (ads["price"] == 1.0 + ads["sku"].str[1:].astype(int)).all()
    assert (ads["fields.rank"] == ads["sku"].str[1:].astype(int) // 4).all()
    # Ten of the forty ads are clicked in four of five cases.
    assert (ads["origin"] == "CH").mean() >= 0.8


def test_the_frame_of_a_report_has_its_metrics(stages):
    report = stages.evaluate()
    found = report.to_pandas().set_index(["part", "name", "metric"])
    assert found.index.is_unique
    auc = report.ranker["click"].metrics["auc"]
    assert auc.value > 0.7
    row = found.loc[("ranker", "click", "auc")]
    assert (row["value"], row["lower"], row["upper"]) == (auc.value, *auc.interval)
    assert math.isnan(row["ground_truth"])
    recall = report.retrieval.recommenders["popularity"].metrics["corpus_recall_at_10"]
    assert found.loc[("retrieval", "popularity", "corpus_recall_at_10"), "value"] == recall
    lost = report.funnel.lost["ranker"].value
    assert found.loc[("funnel", "tfrec", "clicks_lost_by_ranker"), "value"] == lost
    counted = sum(len(quality.metrics) for quality in report.ranker.values())
    assert (found.index.get_level_values("part") == "ranker").sum() == counted


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda stages: stages.evaluate({"resamples": 3}),
            "EvaluationConfig, got {'resamples': 3}",
        ),
        (lambda stages: stages.evaluate(index="Flat"), "IndexConfig, got 'Flat'"),
        (lambda stages: stages.export(index="Flat"), "IndexConfig, got 'Flat'"),
        (lambda stages: stages.export(stages.evaluate(), index="Flat"), "IndexConfig, got 'Flat'"),
    ],
)
def test_wrong_options_of_an_evaluation_or_export_are_refused(call, said, stages):
    with pytest.raises(ValueError, match=f"expected an instance of {said}"):
        call(stages)


def test_finished_steps_are_skipped_and_the_work_directory_can_be_opened(
    stages, release, options, tmp_path, capsys
):
    workdir = stages.steps.workdir
    before = (release.base / "manifests" / "1.json").read_bytes()
    # The same rows, converted to another directory.
    again = tfrecords.from_pandas(frame(), SCHEMA, tmp_path / "again", progress=False)
    tfrec.train(again, workdir, **options).export()
    said = capsys.readouterr().out
    assert said.count("finished before, unchanged") == 4
    opened = workflow.open_stages(workdir, progress=False)
    assert opened.data_set.directory == pathlib.Path(again.directory).resolve()
    assert opened.evaluate() == stages.evaluate()
    assert opened.export() == release == workflow.ExportedRelease(workdir / "bundle", 1)
    assert (release.base / "manifests" / "1.json").read_bytes() == before


def test_an_export_returns_its_own_release_although_others_were_published(
    stages, release, tmp_path, monkeypatch
):
    workdir = shutil.copytree(stages.steps.workdir, tmp_path / "copy")
    base = workdir / "bundle"
    releases.copy_release(release.base, 1, base)
    opened = workflow.open_stages(workdir, progress=False)
    assert opened.export() == workflow.ExportedRelease(base, 1)

    def export_release(base, *_):
        """Copies the release of the same models, which takes less time."""
        return releases.copy_release(release.base, 1, base)

    monkeypatch.setattr(release_export, "export_release", export_release)
    (base / "manifests" / "1.json").unlink()
    assert opened.export(force=True) == workflow.ExportedRelease(base, 3)


class Reached(Exception):
    """Stands for a training that has begun."""


def test_only_what_has_changed_is_trained_again_and_released_as_the_next_version(
    data_set, stages, release, options, tmp_path, capsys, monkeypatch
):
    # The tower is distilled again from another ranker; what it learned from clicks stays.
    clicks = stages.steps.path("retrieval") / "history.json"
    written = clicks.stat().st_mtime_ns
    before = shutil.copytree(stages.steps.path("ranker"), tmp_path / "ranker")
    report = stages.evaluate()

    def train_ranker(data_set, config, directory, *_):
        """Copies the weights as those of another training, which would take seconds."""
        shutil.copytree(before, directory)
        path = directory / "ranker.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "history": []}))

    monkeypatch.setattr(ranking, "train_ranker", train_ranker)
    another = {**options, "ranking": dataclasses.replace(options["ranking"], dropout=0.0)}
    trained = tfrec.train(data_set, stages.steps.workdir, **another)
    said = capsys.readouterr().out
    dropout = options["ranking"].dropout
    assert (
        "[3/6] training the ranker, stage 2\n"
        f"      replaces a training with dropout {dropout}\n" in said
    )
    assert "[4/6] training the two-tower model, stage 1\n" in said
    assert clicks.stat().st_mtime_ns == written
    newer = trained.export(report, index=FLAT, force=True)
    assert newer == workflow.ExportedRelease(release.base, 2)
    with newer.client() as client:
        assert client.recommend(context={}, k=1).bundle_version == 2
    # Other options of the towers do not train the ranker again.
    trained_with = []

    def reached(_, config, *args, **kwargs):
        trained_with.append(config)
        assert not clicks.exists()  # It described the earlier towers.
        raise Reached

    monkeypatch.setattr(retrieval, "train_two_tower", reached)
    other = {**another, "retrieval": dataclasses.replace(options["retrieval"], dropout=0.2)}
    capsys.readouterr()
    with pytest.raises(Reached):
        tfrec.train(data_set, stages.steps.workdir, **other)
    said = capsys.readouterr().out
    assert said.count("finished before, unchanged") == 1
    assert "[4/6] training the two-tower model, stage 1\n" in said
    assert trained_with == [other["retrieval"]]


def test_data_sets_are_told_apart_by_their_rows_not_by_their_files(data_set, tmp_path):
    def content_of(rows, name):
        converted = tfrecords.from_pandas(rows, SCHEMA, tmp_path / name, progress=False)
        return converted.checksum

    rows = frame()
    assert content_of(rows, "same") == data_set.checksum
    rows.loc[0, "clicked"] = not rows.loc[0, "clicked"]
    assert content_of(rows, "other") != data_set.checksum


def test_other_weights_and_columns_to_show_need_no_training(tmp_path):
    def converted(name, **changed):
        schema = {**SCHEMA, **changed}
        return tfrecords.from_pandas(frame(), schema, tmp_path / name, progress=False)

    plain, other = converted("plain"), converted("other", weights={"click": 2.0}, show=["origin"])
    assert plain.training_checksum == other.training_checksum
    assert plain.fingerprint == other.fingerprint
    assert plain.checksum != other.checksum
    rows = frame()
    rows.loc[0, "clicked"] = not rows.loc[0, "clicked"]
    clicked = tfrecords.from_pandas(rows, SCHEMA, tmp_path / "clicked", progress=False)
    assert clicked.training_checksum != plain.training_checksum


def test_a_data_set_without_clicks_is_refused_before_anything_is_trained(options, tmp_path):
    rows = frame().assign(clicked=0)
    data_set = tfrecords.from_pandas(rows, SCHEMA, tmp_path / "data", progress=False)
    with pytest.raises(ValueError, match="click"):
        tfrec.train(data_set, tmp_path / "work", **options)
    assert not (tmp_path / "work").exists()
