"""The files that the steps of a work directory write, and what they print."""

import dataclasses

import pandas as pd
import pytest

import tfrecords
from serving import errors, export, index
from serving.export import evaluated_index
from serving.export.steps import Steps
from tfrec import config, ranking, retrieval
from tfrecords import card, convert, files
from tfrecords import schema as schema_lib

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path):
    rows = "".join(f"same,ad{n % 4},{n % 2}\n" for n in range(100))
    (tmp_path / "log.csv").write_text(f"city,ad,click\n{rows}")
    fields = (
        schema_lib.Field("city", "categorical", "query"),
        schema_lib.Field("ad", "categorical", "ad"),
    )
    schema = schema_lib.Schema("shop", fields, ("ad",), "click")
    return convert.Source(tmp_path / "log.csv", schema, "tabular")


def interrupt(_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("progress", [True, False])
def test_a_data_card_that_is_missing_after_a_kill_is_written_by_the_next_run(
    progress, source, tmp_path, capsys, monkeypatch
):
    steps = export.Pipeline(tmp_path / "work", progress=progress)
    page = tmp_path / "work" / "data_card.html"
    with monkeypatch.context() as killed:
        killed.setattr(card, "render_html", interrupt)
        with pytest.raises(KeyboardInterrupt):
            steps.convert(source, config.ConvertConfig())
    assert not page.exists()
    capsys.readouterr()
    for is_written in (True, False):
        steps.convert(source, config.ConvertConfig())
        assert page.is_file()
        shown = capsys.readouterr().out
        assert ("Constant, with the same id" in shown) == (progress and is_written)
    # The card of a replaced data set is replaced.
    page.write_text("old")
    steps.convert(source, config.ConvertConfig(test_fraction=0.3))
    assert page.read_text() != "old"


def test_a_log_is_converted_again_if_a_file_is_used_for_another_split(source, tmp_path):
    steps = export.Pipeline(tmp_path / "work")
    (more := tmp_path / "more.csv").write_text("city,ad,click\n" + "same,ad1,1\nsame,ad2,0\n" * 10)
    # The log has 100 rows, and the other file 20. The split without a file is a part of the log.
    sizes = []
    for role in ("validation_path", "test_path"):
        data_set = steps.convert(
            dataclasses.replace(source, **{role: (more,)}), config.ConvertConfig()
        )
        sizes.append([data_set.num_rows(split) for split in ("validation", "test")])
    assert sizes[0][0] == sizes[1][1] == 20
    joined = dataclasses.replace(source, path=(source.path, more))
    assert steps.convert(joined, config.ConvertConfig()).description.split.kind == "order"


def test_a_log_is_converted_again_if_a_frame_has_replaced_its_data_set(source, tmp_path):
    steps = export.Pipeline(tmp_path / "work")
    steps.convert(source, config.ConvertConfig())
    frame = pd.read_csv(source.path)
    other = tfrecords.from_pandas(frame[:50], source.schema, steps.path("data"), progress=False)
    assert steps.convert(source, config.ConvertConfig()).description.source.lines == 100
    note = steps.workdir / "steps" / "data.json"
    assert note.is_file()
    steps.use(other)
    assert not note.exists()


@pytest.mark.parametrize(
    ("is_trained", "why"),
    [(True, "are weak"), (False, "there is no trained ranker for this data set in")],
)
def test_training_towers_without_a_teacher_says_why(
    is_trained, why, source, tmp_path, capsys, monkeypatch
):
    steps = export.Pipeline(tmp_path / "work")
    data_set = steps.convert(source, config.ConvertConfig())
    monkeypatch.setattr(steps.__class__, "_teacher", lambda *_: None)
    monkeypatch.setattr(steps.__class__, "_has_ranker", lambda *_: is_trained)
    monkeypatch.setattr(steps.__class__, "_trained", lambda *_, **__: None)
    capsys.readouterr()
    steps.train_retrieval(data_set, config.RetrievalConfig())
    printed = " ".join(capsys.readouterr().out.split())
    assert why in printed
    assert ("tfrec train_ranker" in printed) != is_trained


def test_clicks_are_learned_again_only_if_there_is_no_longer_a_ranker(
    source, tmp_path, monkeypatch
):
    steps = export.Pipeline(tmp_path / "work")
    data_set = steps.convert(source, config.ConvertConfig())
    finished, kept = {}, []

    def trained(_, step, title, inputs, work, check, keep):
        finished[step] = inputs
        kept.append(keep)

    monkeypatch.setattr(steps.__class__, "_trained", trained)
    monkeypatch.setattr(Steps, "inputs", lambda _, step: finished.get(step, {}))
    for ranker in (None, None, "first", "first", "second", None):
        monkeypatch.setattr(steps.__class__, "_teacher", lambda *_, ranker=ranker: ranker)
        monkeypatch.setattr(Steps, "training_checksum", lambda *_, ranker=ranker: ranker)
        steps.train_retrieval(data_set, config.RetrievalConfig())
    assert kept == [False, True, True, True, True, False]


class WithoutHeads(ranking.RankingModel):
    def call(self, inputs, training=False):
        return {}


class WithoutLayers(retrieval.RetrievalModel):
    def __init__(self, fitted, config, catalog):
        super().__init__(fitted, config, catalog, None, None)


@pytest.mark.parametrize(
    ("step", "options", "said"),
    [
        ("ranker", config.RankerConfig(ranker=WithoutHeads), "expected a dict with the logits"),
        (
            "retrieval",
            config.RetrievalConfig(retrieval_model=WithoutLayers),
            "query_tower: expected a tf.keras.layers.Layer, got NoneType",
        ),
    ],
)
def test_a_class_with_a_mistake_does_not_replace_a_finished_training(
    step, options, said, source, tmp_path
):
    steps = export.Pipeline(tmp_path / "work")
    data_set = steps.convert(source, config.ConvertConfig())
    weights, note = steps.path(step) / "weights", {"inputs": {"epochs": 9}, "finished": True}
    weights.parent.mkdir()
    weights.write_text("of days")
    files.write_json(tmp_path / "work" / "steps" / f"{step}.json", note)
    train = steps.train_ranker if step == "ranker" else steps.train_retrieval
    with pytest.raises(ValueError, match=said):
        train(data_set, options)
    assert weights.read_text() == "of days"
    assert Steps(tmp_path / "work", progress=False).note(step) == note


def test_evaluation_and_export_depend_on_the_training_of_each_stage(data_set, tmp_path):
    steps = export.Pipeline(tmp_path)
    for step in ("retrieval", "ranker"):
        (tmp_path / step).mkdir()
        files.write_json(tmp_path / step / f"{step}.json", {"history": 1})
    inputs = [steps._models_inputs(data_set)]
    for step in ("retrieval", "ranker"):
        files.write_json(tmp_path / step / f"{step}.json", {"history": 2})
        inputs += [steps._models_inputs(data_set), steps._models_inputs(data_set)]
    assert inputs[1:4:2] == inputs[2:5:2]
    assert inputs[0] != inputs[1] != inputs[3]


@pytest.mark.parametrize("step", ["ranker", "retrieval"])
def test_models_of_other_labels_with_the_same_vocabularies_are_refused(
    step, data_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(retrieval, "load_two_tower", lambda *_: (None, {}))
    monkeypatch.setattr(export.Pipeline, "_ranker", lambda *_: (None, None, None))
    labels = data_set.description.model_copy(update={"engagement_window_seconds": 60.0})
    (tmp_path / "steps").mkdir()
    inputs = {"inputs": {"data": data_set.training_checksum}}
    files.write_json(tmp_path / "steps" / f"{step}.json", inputs)
    monkeypatch.setattr(data_set, "description", labels)
    refused = rf"{step}: the model was trained on another data set .* tfrec train_{step}\."
    with pytest.raises(ValueError, match=refused):
        export.Pipeline(tmp_path).models(data_set)


def test_the_published_index_is_not_evaluated_if_the_fields_of_its_ads_have_changed(
    data_set, tmp_path, monkeypatch
):
    bases = []

    def opened(base, *_):
        bases.append(base)
        raise ValueError("reached")

    monkeypatch.setattr(export.Pipeline, "models", lambda *_: None)
    monkeypatch.setattr(evaluated_index, "opener", opened)
    # A price with the same id changes only the raw fields, so no stage is trained again.
    checksums = {**data_set.description.sha256, "catalog/ads.arrow": "other prices"}
    changed = data_set.description.model_copy(update={"sha256": checksums})
    (tmp_path / "steps").mkdir()
    inputs = {"index": dataclasses.asdict(index.IndexConfig()), "data": data_set.checksum}
    files.write_json(tmp_path / "steps" / "bundle.json", {"inputs": inputs})
    for description in (data_set.description, changed):
        monkeypatch.setattr(data_set, "description", description)
        with pytest.raises(ValueError, match="reached"):
            export.Pipeline(tmp_path).evaluate(data_set)
    assert bases == [tmp_path / "bundle", None]


def test_unknown_segments_are_refused_before_models_are_loaded(data_set, tmp_path):
    wrong = config.EvaluationConfig(segment_fields="nope")
    with pytest.raises(ValueError, match=r"^segment_fields: expected .*, got 'nope'\."):
        export.Pipeline(tmp_path).evaluate(data_set, wrong)  # There are no models.


def test_wrong_filters_are_refused_before_models_are_loaded(data_set, tmp_path):
    filters = {"conditions": [{"field": "nope", "at_most": 9}]}
    with pytest.raises(errors.InvalidRequestError, match="expected the name of an ad field, got"):
        export.Pipeline(tmp_path).evaluate(data_set, filters=filters)


def test_options_of_an_evaluation_by_another_version_are_refused(data_set, tmp_path):
    (tmp_path / "steps").mkdir()
    note = tmp_path / "steps" / "evaluation.json"
    note.write_text('{"inputs": {"config": {"old_option": 3}}}')
    with pytest.raises(ValueError, match=r"evaluation\.json: expected .* EvaluationConfig .* Del"):
        export.Pipeline(tmp_path).evaluate(data_set)
